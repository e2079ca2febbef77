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
    Variant,
    copy_tokenizer,
    read_encoder_settings,
    tokenizer_path,
    update_model_config,
    write_tokenizer,
)
from relsdk.embedder import Embedder
from relsdk.errors import InputError
from relsdk.tokenizer import TextTokenizer
from relsdk_export.convert import SentenceEncoder, load_encoder, write_onnx
from relsdk_export.corpus import PARITY_TEXTS, Sample, input_batches, typical_texts
from relsdk_export.optimum_path import require_optimum, write_onnx_with_optimum
from relsdk_export.parity import ParityBudget, check_parity, torch_vectors
from relsdk_export.pipeline import DEFAULT_VARIANTS, Gate, Inputs, OnStep, export_bundle
from relsdk_export.smaller import keep_layers, keep_pieces
from relsdk_export.vocabulary import cut_vocabulary

__all__ = ["EncoderCuts", "export_encoder"]

Exporter = Literal["torch", "optimum"]
# How many texts of a corpus are compared with the checkpoint.
_COMPARED = 64


@dataclass(frozen=True, slots=True)
class EncoderCuts:
    """What to leave away.

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
        overwrite: Replace a bundle that is there.
        on_step: Called with a short description before each step.

    Returns:
        The bundle, in place.

    Raises:
        InputError: `target` is in the way, a variant is unknown, or a cut is out of range.
        BundleError: `checkpoint` is not a usable checkpoint.
        MissingExtraError: Optimum is asked for and not installed.
        QualityError: The exported model differs from the checkpoint, or no variant is within the quality
            budget; nothing is written.
    """
    cuts = cuts or EncoderCuts()
    if exporter == "optimum":
        require_optimum()
        if cuts != EncoderCuts():
            raise InputError("Optimum reads the checkpoint as it is; cut a model with --exporter torch")
    job = _EncoderJob(checkpoint, cuts, prompts, budget or ParityBudget(), exporter)
    return export_bundle(job, target, variants=variants, gate=gate, overwrite=overwrite, on_step=on_step)


class _EncoderJob:
    """See `pipeline.ExportJob`.

    Attributes:
        inputs: N prompt names and texts that variants are compared on.
        expected: (N, D) the checkpoint's vectors of them, of the uncut vocabulary.
    """

    settings: EncoderSettings
    model: SentenceEncoder
    inputs: list[tuple[str, str]]
    expected: NDArray[np.float32]

    def __init__(
        self,
        checkpoint: Path,
        cuts: EncoderCuts,
        prompts: Mapping[str, str] | None,
        budget: ParityBudget,
        exporter: Exporter,
    ) -> None:
        self.checkpoint = checkpoint
        self.budget = budget
        self.exporter = exporter
        self._asked = cuts
        self._prompts = prompts
        self._cuts: dict[str, Any] = {}
        self._typical: list[str] = []

    def prepare(self, folder: Path, on_step: OnStep) -> None:
        self.settings = read_encoder_settings(self.checkpoint)
        if self._prompts is not None:
            self.settings = replace(self.settings, prompts=dict(self._prompts))
        self.model = load_encoder(self.checkpoint, self.settings)
        copy_tokenizer(self.checkpoint, folder)
        if self._asked.layers is not None:
            update_model_config(folder, keep_layers(self.model.transformer, self._asked.layers))
            self._cuts["layers"] = list(self._asked.layers)
        if self._asked.dimension is not None:
            self._cut_dimension(self._asked.dimension)
        if self._asked.vocabulary_from is None:
            self._typical = typical_texts()
            self._refer(PARITY_TEXTS)
        else:
            on_step("cut the vocabulary")
            self._cut_vocabulary(folder, self._asked.vocabulary_from)

    def write_fp32(self, path: Path) -> None:
        if self.exporter == "optimum":
            write_onnx_with_optimum(self.checkpoint, path)
        else:
            write_onnx(self.model, path)

    def typical_inputs(self, folder: Path) -> Iterator[Inputs]:
        tokenizer = TextTokenizer(
            tokenizer_path(folder), max_tokens=self.settings.max_tokens, pad_token=self.settings.pad_token
        )
        prompted = [
            self.settings.prompts.get(name, "") + text for name, text in self._prompted(self._typical)
        ]
        return input_batches(tokenizer, prompted)

    def compare(self, bundle: Bundle, variant: Variant) -> Mapping[str, float]:
        embedder = Embedder(bundle.path, variant=variant.name)
        return check_parity(embedder, self.inputs, self.expected, self.budget).to_dict()

    def cuts(self) -> Mapping[str, Any]:
        return self._cuts

    def export_whole(self, target: Path) -> Bundle:
        whole = _EncoderJob(self.checkpoint, EncoderCuts(), self._prompts, self.budget, self.exporter)
        return export_bundle(whole, target, variants=("fp32",))

    def _cut_dimension(self, dimension: int) -> None:
        if not 1 <= dimension <= self.settings.dimension:
            raise InputError(f"dimension {dimension}; allowed are 1 to {self.settings.dimension}")
        if dimension == self.settings.dimension:
            return
        self._cuts["dimension"] = {"before": self.settings.dimension, "after": dimension}
        self.model.cut = dimension
        trained = tuple(d for d in self.settings.matryoshka_dims if d <= dimension)
        self.settings = replace(self.settings, dimension=dimension, matryoshka_dims=trained)

    def _cut_vocabulary(self, folder: Path, corpus: Iterable[str]) -> None:
        """Keep what the corpus needs; the reference vectors are of the uncut vocabulary all the same."""
        sample = Sample(corpus)
        cut = cut_vocabulary(tokenizer_path(self.checkpoint), self._with_each_prompt(sample))
        self._typical = sample.kept
        self._refer(sample.kept[:_COMPARED])
        update_model_config(folder, keep_pieces(self.model.transformer, cut))
        write_tokenizer(folder, cut.tokenizer)
        self._cuts["vocabulary"] = cut.to_dict()

    def _refer(self, texts: Sequence[str]) -> None:
        self.inputs = self._prompted(texts)
        full = [self.settings.prompts.get(name, "") + text for name, text in self.inputs]
        self.expected = torch_vectors(self.model, self.checkpoint, full)

    def _prompted(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Give the texts the model's prompts in turn, so that each is exercised."""
        names = list(self.settings.prompts) or [""]
        return [(names[row % len(names)], text) for row, text in enumerate(texts)]

    def _with_each_prompt(self, texts: Iterable[str]) -> Iterator[str]:
        """Put every prompt before each text: the first piece behind one may differ from a first piece."""
        for text in texts:
            for prompt in {"", *self.settings.prompts.values()}:
                yield prompt + text
