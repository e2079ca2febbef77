"""Export an encoder: checkpoint folder in, checked bundle out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import (
    Bundle,
    EncoderSettings,
    Tower,
    Variant,
    copy_dense,
    copy_tokenizer,
    golden_inputs,
    is_scorer_folder,
    read_encoder_settings,
    states_pooling,
    tokenizer_path,
    update_model_config,
    write_tokenizer,
)
from relsdk.errors import InputError
from relsdk.models.embedder import Embedder
from relsdk.records import LabelledPair, document_text
from relsdk.runtime.tokenizer import open_tokenizer
from relsdk_checkpoint.loading import keep_layers
from relsdk_export.checks import check_layers
from relsdk_export.cuts.vocabulary import cut_vocabulary, keep_pieces
from relsdk_export.gate.corpus import (
    PARITY_TEXTS,
    SAMPLE_SIZE,
    Sample,
    input_batches,
    typical_texts,
)
from relsdk_export.gate.parity import ParityBudget, check_parity, torch_vectors
from relsdk_export.onnx.convert import SentenceEncoder, load_encoder
from relsdk_export.onnx.optimum import require_optimum, write_onnx_with_optimum
from relsdk_export.onnx.write import write_onnx
from relsdk_export.pipeline import DEFAULT_VARIANTS, Compared, Gate, Inputs, OnStep, export_bundle, own_sample

__all__ = ["EncoderCuts", "export_encoder"]

Exporter = Literal["torch", "optimum"]
# How many texts of a corpus are compared with the checkpoint.
_COMPARED = 64


@dataclass(frozen=True, slots=True)
class EncoderCuts:
    """The parts of an encoder to leave out.

    Attributes:
        vocabulary_from: Texts of a corpus: keep the pieces they need. None keeps all.
        layers: Keep these, counted from 0. None keeps all.
        dimension: Keep the first so many, of a model with Matryoshka training. None keeps all.
    """

    vocabulary_from: Iterable[str] | None = None
    layers: Sequence[int] | None = None
    dimension: int | None = None


def export_encoder(
    checkpoint: Path,
    target: Path,
    *,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    cuts: EncoderCuts | None = None,
    prompts: Mapping[str, str] | None = None,
    budget: ParityBudget | None = None,
    gate: Gate | None = None,
    exporter: Exporter = "torch",
    query_tower: Path | None = None,
    overwrite: bool = False,
    on_step: OnStep = lambda step: None,
) -> Bundle:
    """Make a bundle of a Hugging Face or sentence-transformers encoder.

    Args:
        checkpoint: Folder with safetensors weights, `config.json`, `tokenizer.json`.
        target: Where the bundle shall be.
        variants: Names out of `DEFAULT_VARIANTS`.
        cuts: What to leave away.
        prompts: Prompts by name, in place of the checkpoint's.
        budget: How close to the checkpoint a variant must be.
        gate: Labelled pairs, and what a variant may lose on them.
        exporter: What writes the fp32 graph: torch.onnx, or Optimum (`relsdk[optimum]`).
        query_tower: Checkpoint of a smaller encoder that was trained to embed queries where this one does
            (`relsdk train distill`, student "query" or "static"); the bundle encodes queries with it.
        overwrite: Replace a bundle that is there.
        on_step: Called with a short description before each step, and with notes, which begin with "note: ".

    Returns:
        The bundle, in place.

    Raises:
        InputError: `target` is in the way, a variant is unknown, a cut is out of range, or the query tower is
            not one of this encoder's.
        BundleError: `checkpoint` is not a usable checkpoint.
        MissingExtraError: Optimum is asked for and not installed.
        QualityError: The exported model differs from the checkpoint, or no variant is within the quality
            budget; nothing is written.
    """
    cuts = cuts or EncoderCuts()
    if exporter == "optimum":
        require_optimum()
        if cuts != EncoderCuts() or query_tower is not None:
            raise InputError(
                "Optimum reads one checkpoint as it is; cut it or add a query tower with --exporter torch"
            )
    job = _EncoderJob(
        checkpoint,
        cuts,
        prompts,
        budget or ParityBudget(),
        exporter,
        query_tower,
        own_sample(gate),
    )
    return export_bundle(job, target, variants=variants, gate=gate, overwrite=overwrite, on_step=on_step)


class _EncoderJob:
    """See `pipeline.ExportJob`.

    Attributes:
        models: The modules by tower.
        inputs: N prompt names and texts that variants are compared on.
        expected: (N, D) the checkpoint's vectors of them, of the uncut vocabulary.
    """

    settings: EncoderSettings
    models: dict[Tower, SentenceEncoder]
    inputs: list[tuple[str, str]]
    expected: NDArray[np.float32]

    def __init__(
        self,
        checkpoint: Path,
        cuts: EncoderCuts,
        prompts: Mapping[str, str] | None,
        budget: ParityBudget,
        exporter: Exporter,
        query_tower: Path | None = None,
        own: Sequence[LabelledPair] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.towers: dict[Tower, Path] = {"model": checkpoint}
        if query_tower is not None:
            self.towers["query_model"] = query_tower
        self.budget = budget
        self.exporter = exporter
        self._asked = cuts
        self._prompts = prompts
        self._cuts: dict[str, Any] = {}
        self._own = own
        self._typical: list[tuple[str, str]] = []  # prompt names and texts

    def prepare(self, folder: Path, on_step: OnStep) -> None:
        if is_scorer_folder(self.checkpoint):
            raise InputError(f"{self.checkpoint} is a cross-encoder; use: relsdk export scorer")
        self.settings = read_encoder_settings(self.checkpoint)
        if not states_pooling(self.checkpoint):
            on_step(
                f"note: the checkpoint does not say how to pool: {self.settings.pooling} pooling, not "
                "normalised; save it with sentence-transformers to say otherwise"
            )
        if self._prompts is not None:
            default = self.settings.default_prompt if self.settings.default_prompt in self._prompts else ""
            self.settings = replace(self.settings, prompts=dict(self._prompts), default_prompt=default)
        if "query_model" in self.towers:
            _check_tower(self.towers["query_model"], self.checkpoint)
            self.settings = replace(self.settings, prompts={"query": "", **self.settings.prompts})
        self.models = self._load_towers()
        copy_tokenizer(self.checkpoint, folder)
        if self._asked.layers is not None:
            transformer = self.models["model"].transformer
            check_layers(self._asked.layers, transformer.config.num_hidden_layers)
            update_model_config(folder, keep_layers(transformer, self._asked.layers))
            self._cuts["layers"] = list(self._asked.layers)
        if self._asked.dimension is not None:
            self._cut_dimension(self._asked.dimension)
        elif self.settings.truncate_dim:
            self._cut_dimension(self.settings.truncate_dim)
        copy_dense(self.checkpoint, folder, self.settings.dense)
        self._typical = [("query", pair.query) for pair in self._own]
        self._typical += [
            ("document", document_text(self.settings.document_template, pair.document)) for pair in self._own
        ]
        if self._asked.vocabulary_from is not None:
            on_step("cut the vocabulary")
            self._cut_vocabulary(folder, self._asked.vocabulary_from, on_step)
            return
        if len(self._own) < SAMPLE_SIZE:
            self._typical += self._add_prompts(typical_texts())
        self._refer(PARITY_TEXTS)

    def write_fp32(self, path: Path, tower: Tower) -> None:
        if self.exporter == "optimum":
            write_onnx_with_optimum(self.checkpoint, path)
        else:
            write_onnx(self.models[tower], path)

    def typical_inputs(self, folder: Path, tower: Tower) -> Iterator[Inputs]:
        tokenizer = open_tokenizer(folder, self.settings)
        inputs = [item for item in self._typical if self._tower_of(item[0]) == tower]
        return input_batches(tokenizer, self._with_prompt(inputs))

    def compare(self, bundle: Bundle, variant: Variant) -> Compared:
        embedder = Embedder(bundle.path, variant=variant.name)
        report = check_parity(embedder, self.inputs, self.expected, self.budget)
        return report.to_dict(), embedder.golden(golden_inputs(self.settings))

    def cuts(self) -> Mapping[str, Any]:
        return self._cuts

    def export_whole(self, target: Path) -> Bundle:
        whole = _EncoderJob(self.checkpoint, EncoderCuts(), self._prompts, self.budget, self.exporter)
        return export_bundle(whole, target, variants=("fp32",))

    def _load_towers(self) -> dict[Tower, SentenceEncoder]:
        """Load each tower; what is behind its transformer is its own, all else is the encoder's."""
        models: dict[Tower, SentenceEncoder] = {}
        for tower, path in self.towers.items():
            own = read_encoder_settings(path)
            models[tower] = load_encoder(path, replace(self.settings, pooling=own.pooling, dense=own.dense))
            models[tower].tokenizer = models["model"].tokenizer  # it may have learned on shorter texts
        return models

    def _cut_dimension(self, dimension: int) -> None:
        if not 1 <= dimension <= self.settings.dimension:
            raise InputError(f"dimension {dimension}; allowed are 1 to {self.settings.dimension}")
        if dimension == self.settings.dimension:
            return
        self._cuts["dimension"] = {"before": self.settings.dimension, "after": dimension}
        for model in self.models.values():
            model.cut = dimension
        trained = tuple(d for d in self.settings.matryoshka_dims if d <= dimension)
        self.settings = replace(
            self.settings,
            dimension=dimension,
            matryoshka_dims=trained,
            truncate_dim=0,
            dense=(),  # in the graph, whose only output is the cut vector
        )

    def _cut_vocabulary(self, folder: Path, corpus: Iterable[str], on_step: OnStep) -> None:
        """Keep what the corpus needs; the reference vectors are of the uncut vocabulary all the same."""
        sample = Sample(corpus)
        cut = cut_vocabulary(tokenizer_path(self.checkpoint), self._with_each_prompt(sample))
        self._typical += self._add_prompts(sample.kept)
        if sample.shortage:  # scales of a few texts would clip those of all others
            self._typical += self._add_prompts(typical_texts())
            on_step(sample.shortage)
        self._refer(sample.kept[:_COMPARED])
        for model in self.models.values():
            changes = keep_pieces(model.transformer, cut)
        update_model_config(folder, changes)
        write_tokenizer(folder, cut.tokenizer)
        self._cuts["vocabulary"] = cut.to_dict()

    def _refer(self, texts: Sequence[str]) -> None:
        self.inputs = self._add_prompts(texts)
        self.expected = np.empty((len(self.inputs), self.settings.dimension), dtype=np.float32)
        for tower, model in self.models.items():
            rows = [row for row, (name, _) in enumerate(self.inputs) if self._tower_of(name) == tower]
            texts = self._with_prompt([self.inputs[row] for row in rows])
            self.expected[rows] = torch_vectors(model, texts)

    def _tower_of(self, prompt: str) -> Tower:
        return "query_model" if prompt == "query" and "query_model" in self.towers else "model"

    def _with_prompt(self, inputs: Sequence[tuple[str, str]]) -> list[str]:
        return [self.settings.prompts.get(name, "") + text for name, text in inputs]

    def _add_prompts(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Give the texts the model's prompts in turn, so that each is exercised."""
        names = list(self.settings.prompts) or [""]
        return [(names[row % len(names)], text) for row, text in enumerate(texts)]

    def _with_each_prompt(self, texts: Iterable[str]) -> Iterator[str]:
        """Put every prompt before each text: the first piece behind one may differ from a first piece."""
        for text in texts:
            for prompt in {"", *self.settings.prompts.values()}:
                yield prompt + text


def _check_tower(tower: Path, checkpoint: Path) -> None:
    """Raise `InputError` unless a query tower reads and writes what the encoder beside it does."""
    ours, theirs = read_encoder_settings(checkpoint), read_encoder_settings(tower)
    if theirs.dimension != ours.dimension:
        raise InputError(
            f"the query tower {tower} has vectors of {theirs.dimension} dimensions and {checkpoint} of "
            f"{ours.dimension}; train one with: relsdk train distill --set distill.student=query"
        )
    if theirs.prompts.get("query", "") != ours.prompts.get("query", ""):
        raise InputError(
            f"the query tower {tower} was trained with the query prompt {theirs.prompts.get('query', '')!r}; "
            f"that of {checkpoint} is {ours.prompts.get('query', '')!r}"
        )
    if tokenizer_path(tower).read_bytes() != tokenizer_path(checkpoint).read_bytes():
        raise InputError(f"{tokenizer_path(tower)} differs from {tokenizer_path(checkpoint)}")
