"""Export an encoder: checkpoint folder in, checked bundle out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from relsdk.batching import token_budget_batches
from relsdk.bundle import (
    Bundle,
    EncoderSettings,
    Variant,
    copy_tokenizer,
    finish_bundle,
    golden_inputs,
    onnx_file,
    read_bundle,
    read_encoder_settings,
    tokenizer_path,
    write_golden,
    write_tokenizer,
)
from relsdk.embedder import Embedder
from relsdk.errors import BundleError, InputError, QualityError
from relsdk.folders import file_sha256, json_sha256, staged_folder
from relsdk.records import LabelledPair
from relsdk.sample_world import generate
from relsdk.session import runs_exactly
from relsdk.tokenizer import TextTokenizer
from relsdk_export.activations import channel_maxima
from relsdk_export.convert import SentenceEncoder, load_encoder, write_onnx
from relsdk_export.operators import compare_operators
from relsdk_export.optimum_path import require_optimum, write_onnx_with_optimum
from relsdk_export.parity import PARITY_TEXTS, check_parity, torch_vectors
from relsdk_export.quality import QualityBudget, measure_quality
from relsdk_export.quantize import WEIGHT_RANGE, quantize_int8
from relsdk_export.vocabulary import VocabularyCut, cut_vocabulary

__all__ = ["DEFAULT_VARIANTS", "ParityBudget", "export_encoder"]

DEFAULT_VARIANTS = ("fp32", *(f"int8_{isa}" for isa in WEIGHT_RANGE))
# How many texts of a corpus the activations are measured on, and how many are compared with the checkpoint.
_MEASURED, _COMPARED = 256, 64


@dataclass(frozen=True, slots=True)
class ParityBudget:
    """The cosines to the checkpoint below which an export fails."""

    fp32_min: float = 0.9999
    int8_min: float = 0.98
    int8_mean: float = 0.99


def export_encoder(
    checkpoint: Path,
    target: Path,
    *,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    vocabulary_from: Iterable[str] | None = None,
    prompts: Mapping[str, str] | None = None,
    budget: ParityBudget | None = None,
    pairs: Sequence[LabelledPair] = (),
    quality_budget: QualityBudget | None = None,
    exporter: Literal["torch", "optimum"] = "torch",
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Make a bundle of a Hugging Face or sentence-transformers encoder.

    Args:
        checkpoint: Folder with safetensors weights, `config.json`, `tokenizer.json`.
        target: Where the bundle shall be.
        variants: Names out of `DEFAULT_VARIANTS`.
        vocabulary_from: Texts of a corpus: cut the vocabulary to what they need.
        prompts: Prompts by name, in place of the checkpoint's.
        budget: Smallest cosines to the checkpoint.
        pairs: Labelled pairs: measure what each variant loses against fp32 and leave out those over budget.
        quality_budget: What a variant may lose on the pairs.
        exporter: What writes the fp32 graph: torch.onnx, or Optimum (`relsdk[optimum]`).
        overwrite: Replace a bundle that is there.
        on_step: Called with a short description before each step.

    Returns:
        The bundle, in place.

    Raises:
        InputError: `target` is in the way, or a variant is unknown.
        BundleError: `checkpoint` is not a usable checkpoint.
        MissingExtraError: Optimum is asked for and not installed.
        QualityError: The exported model differs from the checkpoint, or no variant is within the quality
            budget; nothing is written.
    """
    _check_arguments(checkpoint, variants, exporter, cuts=vocabulary_from is not None)
    settings = read_encoder_settings(checkpoint)
    if prompts is not None:
        settings = replace(settings, prompts=dict(prompts))
    with staged_folder(target, overwrite=overwrite) as staging:
        on_step("load the checkpoint")
        model = load_encoder(checkpoint, settings)
        copy_tokenizer(checkpoint, staging)
        reference = _reference(model, checkpoint, staging, settings, vocabulary_from, on_step)
        on_step("export fp32")
        _write_fp32(model, checkpoint, staging / onnx_file("fp32", "any"), exporter)
        made = _write_variants(staging, settings, reference.measured, variants, on_step)
        on_step("compare with the checkpoint")
        finish = partial(_finish, staging, checkpoint, settings, reference.cut)
        checked = _checked(finish(made), reference, budget or ParityBudget())
        left_out: dict[str, list[str]] = {}
        if pairs:
            on_step("measure ranking and levels on labelled pairs")
            checked, left_out = _gated(staging, checked, pairs, quality_budget or QualityBudget(), on_step)
        kept = [variant for variant in checked if variant.name in variants and variant.name not in left_out]
        if not kept:
            raise QualityError(f"every variant asked for is over budget: {left_out}; nothing was written")
        bundle = finish(checked)
        on_step("record golden vectors")
        write_golden(staging, settings, _golden(bundle, kept))
        for variant in checked:
            if variant not in kept:
                for name in bundle.variant_files(variant):
                    (staging / name).unlink()
        finish(kept, left_out)
    return read_bundle(target)


def _check_arguments(checkpoint: Path, variants: Sequence[str], exporter: str, *, cuts: bool) -> None:
    unknown = [name for name in variants if name not in DEFAULT_VARIANTS]
    if unknown or not variants:
        raise InputError(f"unknown variants {unknown}; allowed are {list(DEFAULT_VARIANTS)}")
    if not (checkpoint / "tokenizer.json").is_file():
        raise BundleError(f"{checkpoint} has no tokenizer.json; name a checkpoint folder")
    if exporter == "optimum":
        require_optimum()
        if cuts:
            raise InputError("Optimum reads the checkpoint as it is; cut a vocabulary with --exporter torch")


def _write_fp32(model: SentenceEncoder, checkpoint: Path, path: Path, exporter: str) -> None:
    if exporter == "optimum":
        write_onnx_with_optimum(checkpoint, path)
    else:
        write_onnx(model, path, max_tokens=model.max_tokens)


@dataclass(frozen=True, slots=True)
class _Reference:
    """What an export is measured by.

    Attributes:
        texts: N texts, prompts included.
        vectors: (N, D) the checkpoint's vectors of them.
        measured: Texts to measure activations on, without prompts.
        cut: The vocabulary cut, if there was one; the vectors are of the uncut checkpoint all the same.
    """

    texts: list[str]
    vectors: NDArray[np.float32]
    measured: list[str]
    cut: VocabularyCut | None


def _reference(
    model: SentenceEncoder,
    checkpoint: Path,
    staging: Path,
    settings: EncoderSettings,
    vocabulary_from: Iterable[str] | None,
    on_step: Callable[[str], None],
) -> _Reference:
    """Encode the reference texts with the checkpoint; cut the vocabulary when a corpus is given."""
    if vocabulary_from is None:
        texts = _with_prompts(PARITY_TEXTS, settings)
        return _Reference(texts, torch_vectors(model, checkpoint, texts), _own_texts(), None)
    on_step("cut the vocabulary")
    sample = _Sample(vocabulary_from)
    cut = cut_vocabulary(checkpoint / "tokenizer.json", _and_prompts(sample, settings))
    texts = _with_prompts(sample.kept[:_COMPARED], settings)
    vectors = torch_vectors(model, checkpoint, texts)
    _apply_cut(model, cut, staging)
    return _Reference(texts, vectors, sample.kept, cut)


def _finish(
    staging: Path,
    checkpoint: Path,
    settings: EncoderSettings,
    cut: VocabularyCut | None,
    variants: Sequence[Variant],
    left_out: Mapping[str, list[str]] | None = None,
) -> Bundle:
    """Write the bundle's description of the variants that are in place."""
    provenance = _provenance(checkpoint, cut)
    if left_out:
        provenance["left_out"] = dict(left_out)
    return finish_bundle(
        staging,
        name=checkpoint.resolve().name,
        settings=settings,
        variants=tuple(variants),
        weights_sha256=_weights_hash(checkpoint, cut),
        provenance=provenance,
    )


def _gated(
    folder: Path,
    variants: Sequence[Variant],
    pairs: Sequence[LabelledPair],
    budget: QualityBudget,
    on_step: Callable[[str], None],
) -> tuple[list[Variant], dict[str, list[str]]]:
    """Measure variants on labelled pairs; return them with the measures, and what speaks against some."""
    records = measure_quality(folder, [variant.name for variant in variants], pairs, budget)
    measured, left_out = [], {}
    for variant, record in zip(variants, records, strict=True):
        if record.over_budget:
            left_out[variant.name] = list(record.over_budget)
            on_step(f"{variant.name} is left out: {'; '.join(record.over_budget)}")
        measured.append(replace(variant, quality={**variant.quality, "gate": record.to_dict()}))
    return measured, left_out


class _Sample:
    """Passes texts through and keeps an even sample of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        rng = np.random.default_rng(0)
        for number, text in enumerate(self._texts):
            if len(self.kept) < _MEASURED:
                self.kept.append(text)
            elif (slot := int(rng.integers(number + 1))) < _MEASURED:  # reservoir sampling
                self.kept[slot] = text
            yield text


def _own_texts() -> list[str]:
    """Return texts to measure activations on when the user gives no corpus."""
    world = generate(n_documents=300, n_queries=60)
    documents = [f"{document.title} {document.text}" for document in world.documents[:_MEASURED]]
    return [*PARITY_TEXTS, *(query.text for query in world.queries), *documents]


def _batches(
    folder: Path, settings: EncoderSettings, texts: Sequence[str]
) -> Iterator[Mapping[str, NDArray[np.int64]]]:
    """Tokenise texts with their prompts and yield the graph's inputs."""
    tokenizer = TextTokenizer(
        tokenizer_path(folder), max_tokens=settings.max_tokens, pad_token=settings.pad_token
    )
    tokens = tokenizer.tokenize(_with_prompts(texts, settings))
    for rows in token_budget_batches(tokens.lengths):
        yield tokenizer.pad(tokens, rows)


def _with_prompts(texts: Sequence[str], settings: EncoderSettings) -> list[str]:
    """Put the prompts before the texts in turn, so that each is exercised."""
    prompts = list(settings.prompts.values()) or [""]
    return [prompts[i % len(prompts)] + text for i, text in enumerate(texts)]


def _and_prompts(texts: Iterable[str], settings: EncoderSettings) -> Iterable[str]:
    """Texts with every prompt before them: the first piece after a prompt may differ from a first piece."""
    for text in texts:
        for prompt in {"", *settings.prompts.values()}:
            yield prompt + text


def _apply_cut(model: SentenceEncoder, cut: VocabularyCut, folder: Path) -> None:
    """Slice the embedding rows and write the renumbered tokenizer and model configuration."""
    embedding = model.transformer.get_input_embeddings()
    smaller = torch.nn.Embedding(len(cut.kept), embedding.weight.shape[1])
    smaller.weight = torch.nn.Parameter(embedding.weight.detach()[torch.from_numpy(cut.kept)].clone())
    model.transformer.set_input_embeddings(smaller)
    model.transformer.config.vocab_size = len(cut.kept)
    write_tokenizer(folder, cut.tokenizer, vocab_size=len(cut.kept))


def _write_variants(
    folder: Path,
    settings: EncoderSettings,
    measured: Sequence[str],
    names: Sequence[str],
    on_step: Callable[[str], None],
) -> tuple[Variant, ...]:
    """Make the other variants of the fp32 graph that is in place."""
    reference = folder / onnx_file("fp32", "any")
    maxima = None
    if any(name.startswith("int8") for name in names):
        on_step("measure activations")
        maxima = channel_maxima(reference, _batches(folder, settings, measured))
    made = []
    for name in dict.fromkeys(("fp32", *names)):  # fp32 is what the others are measured against
        quantisation, _, isa = name.partition("_")
        file = onnx_file(quantisation, isa or "any")
        if quantisation == "int8":
            on_step(f"quantise {name}")
            quantize_int8(reference, folder / file, isa=isa, maxima=maxima)
        made.append(Variant(name, file, quantisation, isa or "any"))
    return tuple(made)


def _checked(bundle: Bundle, reference: _Reference, budget: ParityBudget) -> list[Variant]:
    """Compare each variant with the checkpoint; return them with what was measured."""
    checked = []
    for variant in bundle.variants:
        exact = variant.quantisation == "fp32"
        report = check_parity(
            Embedder(bundle.path, variant=variant.name),
            reference.texts,
            reference.vectors,
            min_cosine=budget.fp32_min if exact else budget.int8_min,
            mean_cosine=budget.fp32_min if exact else budget.int8_mean,
        )
        size = sum((bundle.path / name).stat().st_size for name in bundle.variant_files(variant))
        quality = {"parity": report.to_dict(), "bytes": size}
        if not exact:
            exact_file = bundle.path / onnx_file("fp32", "any")
            operators = compare_operators(exact_file, bundle.onnx_path(variant))
            quality["operators"] = operators.to_dict()
        checked.append(replace(variant, quality=quality))
    return checked


def _golden(bundle: Bundle, variants: Sequence[Variant]) -> dict[str, NDArray[np.float32]]:
    """Encode the golden texts with each variant that this CPU computes without saturating."""
    return {
        variant.name: Embedder(bundle.path, variant=variant.name).golden(golden_inputs(bundle.settings))
        for variant in variants
        if runs_exactly(variant)
    }


def _weights_hash(checkpoint: Path, cut: VocabularyCut | None) -> str:
    files = sorted(checkpoint.glob("*.safetensors"))
    kept = None if cut is None else json_sha256(cut.kept.tolist())
    return json_sha256([[file.name, file_sha256(file)] for file in files] + [kept])


def _provenance(checkpoint: Path, cut: VocabularyCut | None) -> dict[str, Any]:
    packages = ("relsdk", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")
    provenance: dict[str, Any] = {
        "checkpoint": checkpoint.resolve().name,
        "checkpoint_sha256": _weights_hash(checkpoint, None),
        "versions": {package: version(package) for package in packages},
    }
    if cut is not None:
        provenance["vocabulary"] = {
            "pieces_before": cut.pieces_before,
            "pieces": len(cut.kept),
            "unknown_share": cut.unknown_share,
        }
    return provenance
