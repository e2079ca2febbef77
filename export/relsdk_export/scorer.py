"""Export a scorer (cross-encoder): checkpoint folder in, checked bundle out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import (
    Bundle,
    ScorerSettings,
    Tower,
    Variant,
    copy_tokenizer,
    golden_inputs,
    read_scorer_settings,
    tokenizer_path,
    update_model_config,
    write_tokenizer,
)
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.records import LabelledPair, document_text
from relsdk.runtime.tokenizer import open_tokenizer
from relsdk_checkpoint.loading import keep_layers
from relsdk_export.checks import check_layers
from relsdk_export.cuts.vocabulary import cut_vocabulary, keep_pieces
from relsdk_export.gate.corpus import SAMPLE_SIZE, Sample, head, input_batches, typical_pairs
from relsdk_export.gate.parity import ParityBudget, check_logits, torch_logits
from relsdk_export.onnx.convert import PairClassifier, load_scorer
from relsdk_export.onnx.write import write_onnx
from relsdk_export.pipeline import DEFAULT_VARIANTS, Compared, Gate, Inputs, OnStep, export_bundle, own_sample

__all__ = ["ScorerCuts", "export_scorer"]

# Every n-th typical pair is compared with the checkpoint.
_STEP = 5


@dataclass(frozen=True, slots=True)
class ScorerCuts:
    """The parts of a scorer to leave out.

    Attributes:
        vocabulary_from: Texts of a corpus: keep the pieces they need. None keeps all.
        layers: Keep these, counted from 0. None keeps all.
    """

    vocabulary_from: Iterable[str] | None = None
    layers: Sequence[int] | None = None


def export_scorer(
    checkpoint: Path,
    target: Path,
    *,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    cuts: ScorerCuts | None = None,
    budget: ParityBudget | None = None,
    gate: Gate | None = None,
    overwrite: bool = False,
    on_step: OnStep = lambda step: None,
) -> Bundle:
    """Make a bundle of a Hugging Face sequence classifier over pairs of query and document.

    Args:
        checkpoint: Folder with safetensors weights, `config.json`, `tokenizer.json`; 4 outputs (one a level),
            3 (an ordinal head of ours) or 1 (a score).
        target: Where the bundle shall be.
        variants: Names out of `DEFAULT_VARIANTS`.
        cuts: What to leave away.
        budget: How close to the checkpoint a variant must be.
        gate: Labelled pairs, and what a variant may lose on them.
        overwrite: Replace a bundle that is there.
        on_step: Called with a short description before each step, and with notes, which begin with "note: ".

    Returns:
        The bundle, in place.

    Raises:
        InputError: `target` is in the way, a variant is unknown, or a cut is out of range.
        BundleError: `checkpoint` is not a usable checkpoint.
        QualityError: The exported model differs from the checkpoint, or no variant is within the quality
            budget; nothing is written.
    """
    job = _ScorerJob(checkpoint, cuts or ScorerCuts(), budget or ParityBudget(), own_sample(gate))
    return export_bundle(job, target, variants=variants, gate=gate, overwrite=overwrite, on_step=on_step)


class _ScorerJob:
    """See `pipeline.ExportJob`.

    Attributes:
        pairs: N pairs that variants are compared on.
        expected: (N, C) the checkpoint's logits of them, of the uncut vocabulary.
    """

    settings: ScorerSettings
    model: PairClassifier
    pairs: list[tuple[str, str]]
    expected: NDArray[np.float32]

    def __init__(
        self, checkpoint: Path, cuts: ScorerCuts, budget: ParityBudget, own: Sequence[LabelledPair] = ()
    ) -> None:
        self.checkpoint = checkpoint
        self.towers: Mapping[Tower, Path] = {"model": checkpoint}
        self.budget = budget
        self._asked = cuts
        self._own = own
        self._cuts: dict[str, Any] = {}
        self._typical: list[tuple[str, str]] = []

    def prepare(self, folder: Path, on_step: OnStep) -> None:
        self.settings = read_scorer_settings(self.checkpoint)
        self.model = load_scorer(self.checkpoint, self.settings)
        copy_tokenizer(self.checkpoint, folder)
        if self._asked.layers is not None:
            transformer = self.model.transformer
            check_layers(self._asked.layers, transformer.config.num_hidden_layers)
            update_model_config(folder, keep_layers(transformer, self._asked.layers))
            self._cuts["layers"] = list(self._asked.layers)
        own = [
            (pair.query, document_text(self.settings.document_template, pair.document)) for pair in self._own
        ]
        if self._asked.vocabulary_from is None:
            self._typical = own if len(own) >= SAMPLE_SIZE else [*own, *typical_pairs()]
            self._refer(self._typical)
            return
        on_step("cut the vocabulary")
        sample = Sample(self._asked.vocabulary_from)
        # A beginning may end inside a word, in pieces that no whole text has.
        texts = (part for text in sample for part in (text, head(text)))
        cut = cut_vocabulary(tokenizer_path(self.checkpoint), texts)
        covered = typical_pairs(sample.kept)
        self._typical = [*own, *covered]
        if sample.shortage:  # scales of a few pairs would clip those of all others
            self._typical += typical_pairs()
            on_step(sample.shortage)
        self._refer(covered)
        update_model_config(folder, keep_pieces(self.model.transformer, cut))
        write_tokenizer(folder, cut.tokenizer)
        self._cuts["vocabulary"] = cut.to_dict()

    def write_fp32(self, path: Path, tower: Tower) -> None:
        write_onnx(self.model, path)

    def typical_inputs(self, folder: Path, tower: Tower) -> Iterator[Inputs]:
        tokenizer = open_tokenizer(folder, self.settings)
        return input_batches(tokenizer, self._typical)

    def compare(self, bundle: Bundle, variant: Variant) -> Compared:
        scorer = CrossEncoder(bundle, variant=variant.name)
        report = check_logits(scorer, self.pairs, self.expected, self.budget)
        return report.to_dict(), scorer.golden(golden_inputs(self.settings))

    def cuts(self) -> Mapping[str, Any]:
        return self._cuts

    def export_whole(self, target: Path) -> Bundle:
        whole = _ScorerJob(self.checkpoint, ScorerCuts(), self.budget)
        return export_bundle(whole, target, variants=("fp32",))

    def _refer(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs[::_STEP]
        self.expected = torch_logits(self.model, self.checkpoint, self.pairs)
