"""Pairs graded by a cross-encoder and by the encoder that retrieved them, pooled.

A search knows the cosine of each candidate anyway. The cross-encoder reads query and document together, and
the encoder was trained to order all documents. Their errors differ, so a pool of both is better than either
and costs nothing (`relsdk calibrate SCORER PAIRS --encoder BUNDLE`).

Shape letters: N pairs, C outputs of the cross-encoder's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.bundle import CalibrationKey
from relsdk.calibration import Calibration, calibration_from_dict
from relsdk.errors import CalibrationError, InputError
from relsdk.levels import expected_level
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import Pair, PairModel, PairOutputs
from relsdk.models.steps import Flow, run_flow
from relsdk.runtime.verification import Verification

__all__ = ["PooledScorer", "pooled"]


class PooledScorer:
    """The level probabilities of a cross-encoder and of an encoder's cosine, pooled.

    Args:
        scorer: The cross-encoder.
        embedder: The encoder.
    """

    dimension: int | None = None

    def __init__(self, scorer: CrossEncoder, embedder: Embedder) -> None:
        self.scorer = scorer
        self.embedder = embedder
        self.bundle = scorer.bundle
        self.variant = scorer.variant
        self.calibration_key = CalibrationKey(embedder.dimension, embedder.fingerprint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.scorer, self.embedder)

    @property
    def calibration(self) -> Calibration:
        """The pool; raises `CalibrationError` when there is none for this encoder."""
        content = self.variant.calibration(self.calibration_key)
        if content is None:
            raise CalibrationError(
                f"{self.bundle.name} ({self.variant.name}) was not calibrated beside {self.embedder.name}; "
                f"do it with: {self.bundle.calibrate_command(self.embedder.dimension, self.embedder.bundle)}"
            )
        return calibration_from_dict(content)

    @property
    def is_calibrated(self) -> bool:
        """Whether there is a pool for this encoder."""
        return self.variant.calibration(self.calibration_key) is not None

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Judge N pairs by both models; see `flow`."""
        return run_flow(self.flow(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar))

    def flow(
        self, pairs: Sequence[Pair], cosines: ArrayLike | None = None, **options: Any
    ) -> Flow[PairOutputs]:
        """Yield the steps of judging N pairs; see `relsdk.models.steps`.

        Args:
            pairs: The pairs.
            cosines: (N,) where they are known; None lets the encoder run.
            options: Of `CrossEncoder.logits`.

        Returns:
            The expected levels under the pool as scores (those of the cross-encoder while there is none), and
            what the pool takes: the head's outputs and, in the last column, the cosines, (N, C + 1).

        Raises:
            InputError: There is not one cosine for each pair.
        """
        if cosines is None:
            encoded = yield from BiEncoder(self.embedder).flow(pairs, **options)
            cosines = encoded.scores
        known = np.asarray(cosines, dtype=np.float32)
        if known.shape != (len(pairs),):
            raise InputError(f"{len(pairs)} pairs and cosines of shape {known.shape}; one each is needed")
        own = yield from self.scorer.flow(pairs, **options)
        both: NDArray[np.float32] = np.column_stack([own.calibrated, known]).astype(np.float32)
        if not self.is_calibrated:
            return PairOutputs(own.scores, both)
        scores = expected_level(self.calibration.probabilities(both))
        return PairOutputs(scores.astype(np.float32), both)

    def verify(self) -> Verification:
        """See `CrossEncoder.verify`."""
        return self.scorer.verify()

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """See `CrossEncoder.golden`."""
        return self.scorer.golden(inputs, together=together)


def pooled(model: PairModel, embedder: Embedder | None) -> PairModel:
    """Pool a cross-encoder with an encoder; without one, return the model as it is.

    Raises:
        InputError: The model is an encoder itself.
    """
    if embedder is None:
        return model
    if not isinstance(model, CrossEncoder):
        raise InputError(f"{model.bundle.path} is no scorer; only a scorer can be pooled with an encoder")
    return PooledScorer(model, embedder)
