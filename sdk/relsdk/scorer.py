"""How relevant a document is to a query: level, probabilities, expected level.

Shape letters: N pairs, L = 4 levels, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import Calibration
from relsdk.embedder import Embedder
from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel, expected_level, most_probable_level
from relsdk.pair_models import BiEncoder, CrossEncoder, Pair, PairModel, PairOutputs, open_pair_model
from relsdk.records import Document, Relevance

__all__ = ["Predictions", "RankedDocument", "RelevanceScorer", "grade"]


_LEVELS = tuple(RelevanceLevel)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Relevance of N pairs, as arrays.

    Attributes:
        scores: (N,) float32 raw scores.
        levels: (N,) int64 most probable levels.
        probabilities: (N, L) float64.
        expected_levels: (N,) float64 in [0, 3].
    """

    scores: NDArray[np.float32]
    levels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    expected_levels: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Put the pairs of several calls, at least one, behind each other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.expected_levels for part in parts]),
        )

    def __getitem__(self, row: int) -> Relevance:
        p0, p1, p2, p3 = self.probabilities[row].tolist()
        return Relevance(
            level=_LEVELS[self.levels[row]],
            probabilities=(p0, p1, p2, p3),
            expected_level=float(self.expected_levels[row]),
            score=float(self.scores[row]),
        )


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One row of `RelevanceScorer.rank`: where the document stood in the input, and how relevant it is."""

    index: int
    relevance: Relevance


def grade(outputs: PairOutputs, calibration: Calibration) -> Predictions:
    """Turn what a model gives for N pairs into levels and probabilities."""
    probabilities = calibration.probabilities(outputs.calibrated)
    return Predictions(
        outputs.scores, most_probable_level(probabilities), probabilities, expected_level(probabilities)
    )


class RelevanceScorer:
    """Grades pairs of query and document: by a cross-encoder, or by the calibrated cosine of an encoder.

    Args:
        model: A scorer bundle; an encoder bundle with a calibration; or an `Embedder` or a `CrossEncoder`
            that is already loaded.
        variant: See `Embedder`.
        threads: See `Embedder`.

    Raises:
        CalibrationError: The model gives no levels; the message says how to fit them.
        BundleError: The folder is missing or damaged.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder | CrossEncoder,
        *,
        variant: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.model: PairModel
        if isinstance(model, Embedder):
            self.model = BiEncoder(model)
        elif isinstance(model, CrossEncoder):
            self.model = model
        else:
            self.model = open_pair_model(model, variant=variant, threads=threads)
        self._calibration = self.model.calibration

    def predict(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> Predictions:
        """Grade N pairs.

        Args:
            pairs: (query, document) tuples; a document is text or a `Document`.
            batch_size: See `Embedder.encode`.
            show_progress_bar: See `Embedder.encode`.

        Returns:
            Scores, levels, probabilities and expected levels, in the order of the pairs. The score is the
            cosine of an encoder, the expected level of a cross-encoder's own probabilities, or the one number
            of a regression head.
        """
        outputs = self.model.outputs(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar)
        return grade(outputs, self._calibration)

    def rank(
        self, query: str, documents: Sequence[str | Document], *, top_k: int | None = None
    ) -> list[RankedDocument]:
        """Grade documents for one query, the most relevant first.

        Args:
            query: The query.
            documents: N documents.
            top_k: Keep the first so many; None keeps all.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k={top_k}; at least 1 is needed")
        found = self.predict([(query, document) for document in documents])
        order = np.argsort(-found.scores, kind="stable")[:top_k]
        return [RankedDocument(int(row), found[int(row)]) for row in order]
