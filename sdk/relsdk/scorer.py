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
from relsdk.records import Document, Relevance

__all__ = ["Predictions", "RankedDocument", "RelevanceScorer", "grade"]


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

    def __getitem__(self, row: int) -> Relevance:
        p0, p1, p2, p3 = self.probabilities[row].tolist()
        return Relevance(
            level=RelevanceLevel(int(self.levels[row])),
            probabilities=(p0, p1, p2, p3),
            expected_level=float(self.expected_levels[row]),
            score=float(self.scores[row]),
        )


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One row of `RelevanceScorer.rank`: where the document stood in the input, and how relevant it is."""

    index: int
    relevance: Relevance


def grade(scores: NDArray[np.float32], calibration: Calibration) -> Predictions:
    """Turn scores (N,) into levels and probabilities."""
    probabilities = calibration.probabilities(scores)
    return Predictions(
        scores, most_probable_level(probabilities), probabilities, expected_level(probabilities)
    )


class RelevanceScorer:
    """Grades pairs of query and document by the calibrated cosine of an encoder.

    Args:
        model: An encoder bundle with a calibration, or an `Embedder` that is already loaded.
        variant: See `Embedder`.
        threads: See `Embedder`.

    Raises:
        CalibrationError: The bundle has no calibration.
        BundleError: The folder is missing or damaged.
    """

    def __init__(
        self, model: str | os.PathLike[str] | Embedder, *, variant: str = "auto", threads: int | None = None
    ) -> None:
        self.embedder = (
            model if isinstance(model, Embedder) else Embedder(model, variant=variant, threads=threads)
        )
        self._calibration = self.embedder.calibration

    def predict(
        self,
        pairs: Sequence[tuple[str, str | Document]],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> Predictions:
        """Grade N pairs.

        Args:
            pairs: (query, document) tuples; a document is text or a `Document`.
            batch_size: See `Embedder.encode`.
            show_progress_bar: See `Embedder.encode`.

        Returns:
            Scores, levels, probabilities and expected levels, in the order of the pairs.
        """
        return grade(pair_cosines(self.embedder, pairs, batch_size, show_progress_bar), self._calibration)

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


def pair_cosines(
    embedder: Embedder,
    pairs: Sequence[tuple[str, str | Document]],
    batch_size: int | None = None,
    show_progress_bar: bool = False,
) -> NDArray[np.float32]:
    """Return the cosine of each pair, (N,) float32; a text that occurs twice is encoded once."""
    queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
    texts = [embedder.document_text(document) for _, document in pairs]
    documents = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    q = embedder.encode_query(list(queries), batch_size=batch_size, show_progress_bar=show_progress_bar)
    d = embedder.encode_document(list(documents), batch_size=batch_size, show_progress_bar=show_progress_bar)
    left = q[[queries[query] for query, _ in pairs]]  # (N, D)
    right = d[[documents[text] for text in texts]]  # (N, D)
    dots = np.einsum("nd,nd->n", left, right)
    if not embedder.bundle.settings.normalize:
        dots = dots / np.maximum(np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1), 1e-12)
    return np.asarray(dots, dtype=np.float32)
