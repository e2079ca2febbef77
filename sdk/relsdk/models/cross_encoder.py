"""The cross-encoder: query and document, read together, to logits.

Shape letters: N pairs, C outputs of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, CalibrationKey, ScorerSettings, open_bundle
from relsdk.calibration import Calibration, Temperature, calibration_from_dict
from relsdk.errors import BundleError, CalibrationError, InputError
from relsdk.levels import expected_level
from relsdk.models.pair_model import Pair, PairOutputs, check_pairs
from relsdk.models.steps import Flow, run_flow
from relsdk.records import Document, document_text
from relsdk.runtime.batch_runner import BatchRunner, Feed, Truncation
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk.runtime.verification import Verification, check_runtime, verify_variant

__all__ = ["CrossEncoder", "Judge"]


class CrossEncoder:
    """A scorer bundle, served by onnxruntime.

    Args:
        bundle: A bundle of kind "scorer".
        variant: See `Embedder`.
        threads: See `Embedder`.
        providers: See `Embedder`.

    Raises:
        InputError: The bundle is an encoder, or an argument is out of range.
        BundleError: A file is damaged.
    """

    dimension: int | None = None
    calibration_key = CalibrationKey()

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str = "auto",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(bundle.settings, ScorerSettings):
            raise InputError(f"{bundle.path} is an encoder bundle; a scorer is needed (use Embedder)")
        self.settings = bundle.settings
        self.bundle = bundle
        self._arguments = {"variant": variant, "threads": threads, "providers": providers}
        self._runner = BatchRunner(bundle, variant, threads, providers)
        self.variant = self._runner.variant
        check_runtime(bundle, self.variant, self._runner.session, None, self.golden)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (type(self), self.bundle.path, self.bundle.fingerprint, self._arguments)

    @property
    def calibration(self) -> Calibration:
        """The fitted calibration, else the head's own probabilities; a regression head has none of its own.

        Raises:
            CalibrationError: A regression head without a fit.
        """
        content = self.variant.calibration(self.calibration_key)
        if content is not None:
            return calibration_from_dict(content)
        if self.settings.head == "regression":
            raise CalibrationError(
                f"{self.bundle.name} ({self.variant.name}) gives one number and has no calibration, so no "
                f"levels; fit one on labelled pairs with: relsdk calibrate {self.bundle.path} PAIRS"
            )
        return _own_probabilities(self.settings)

    @property
    def is_calibrated(self) -> bool:
        """Whether there are levels."""
        fitted = self.variant.calibration(self.calibration_key) is not None
        return fitted or self.settings.head != "regression"

    @property
    def truncated_count(self) -> int:
        """The number of pairs that were cut so far."""
        return self._runner.truncated_count

    def logits(
        self,
        pairs: Sequence[Pair],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        truncation: Truncation = "warn",
    ) -> NDArray[np.float32]:
        """Run N pairs: (N, C) float32, in their order; see `Embedder.encode` for the options and errors."""
        return self._runner.run(
            [(query, self.document_text(document)) for query, document in check_pairs(pairs)],
            self.settings.outputs,
            self._logits,
            batch_size=batch_size,
            truncation=truncation,
            progress="score" if show_progress_bar else None,
        )

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Return logits and the expected level under the head's own probabilities (or its one number)."""
        return run_flow(self.flow(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar))

    def flow(self, pairs: Sequence[Pair], **options: Any) -> Flow[PairOutputs]:
        """Yield the steps of `outputs`; see `relsdk.models.steps`."""
        logits = yield Judge(self, check_pairs(pairs), options)
        if self.settings.head == "regression":
            return PairOutputs(logits[:, 0], logits[:, 0])
        scores = expected_level(_own_probabilities(self.settings).probabilities(logits))
        return PairOutputs(scores.astype(np.float32), logits)

    def tokenize(self, pairs: Sequence[Pair]) -> TokenizedTexts:
        """Turn N pairs into what `logits_of_tokens` takes; see `Embedder.tokenize`."""
        return self._runner.tokenizer.tokenize(
            [(query, self.document_text(document)) for query, document in check_pairs(pairs)]
        )

    def logits_of_tokens(self, tokens: TokenizedTexts) -> NDArray[np.float32]:
        """Run N tokenised pairs: (N, C) float32; see `Embedder.encode_tokens`."""
        return self._runner.run_tokens(tokens, self.settings.outputs, self._logits)

    def verify(self) -> Verification:
        """Check every hash, and that this variant still gives the logits that the bundle was made with.

        Raises:
            BundleError: The bundle has no golden outputs, or none of this variant.
        """
        return verify_variant(self.bundle, self.variant, self.golden)

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """Run (query, document) pairs, each alone or in one call: (N, C) float32."""
        calls = [inputs] if together else [[pair] for pair in inputs]
        width = self.settings.outputs
        return np.concatenate(
            [
                self._runner.run(
                    call,
                    width,
                    self._logits,
                    batch_size=None,
                    truncation="silent",
                    progress=None,
                    count=False,
                )
                for call in calls
            ]
        )

    def document_text(self, document: str | Document) -> str:
        """Return the text that a document becomes."""
        return document_text(self.settings.document_template, document)

    def _logits(self, feed: Feed) -> NDArray[np.float32]:
        session = self._runner.session
        names = session.output_names
        values = session.run("logits" if "logits" in names else names[0], feed)
        if values.ndim != 2 or values.shape[1] != self.settings.outputs:
            raise BundleError(
                f"{session.path} gives an output of shape {values.shape}; (pairs, {self.settings.outputs}) "
                f"is what its {self.settings.head} head has"
            )
        return values


@dataclass(frozen=True, slots=True)
class Judge:
    """A step: pairs to logits; see `relsdk.models.steps`.

    Attributes:
        scorer: What reads them.
        pairs: N pairs of query and document.
        options: Of `CrossEncoder.logits`.
    """

    scorer: CrossEncoder
    pairs: list[Pair]
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """Return (N, C) float32."""
        return self.scorer.logits(self.pairs, **self.options)


def _open_again(
    kind: type[CrossEncoder], path: Path, fingerprint: str, arguments: Mapping[str, Any]
) -> CrossEncoder:
    """Open what was pickled."""

    def load(bundle: Bundle) -> CrossEncoder:
        bundle.check_fingerprint(fingerprint)
        return kind(bundle, **arguments)

    return open_bundle(path, load)


def _own_probabilities(settings: ScorerSettings) -> Temperature:
    return Temperature(1.0, ordinal=settings.head == "ordinal")
