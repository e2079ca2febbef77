"""How relevant a document is to a query: level, probabilities, expected level.

Shape letters: N pairs, L = 4 levels, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import Calibration
from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel, expected_level, most_probable_level
from relsdk.models.cross_encoder import BiEncoder, CrossEncoder, Pair, PairModel, PairOutputs, open_pair_model
from relsdk.models.embedder import Embedder
from relsdk.models.pooled_scorer import EncoderAndScorer, beside, is_pooled
from relsdk.records import Document, Hit, Relevance

__all__ = ["Predictions", "RankedDocument", "RelevanceScorer", "grade", "scorer_for"]


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
    """Grades pairs of query and document: by a cross-encoder, by an encoder's calibrated cosine, or by both.

    Args:
        model: A scorer bundle; an encoder bundle with a calibration; or an `Embedder` or a `CrossEncoder`
            that is already loaded.
        encoder: Pool a scorer's judgement with this encoder's, as `relsdk calibrate --encoder` fitted it.
        variant: See `Embedder`.
        threads: See `Embedder`.

    Raises:
        CalibrationError: The model gives no levels, or was not calibrated beside the encoder; the message
            says how to do it.
        InputError: `encoder` is given, and the model is an encoder itself.
        BundleError: The folder is missing or damaged.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder | CrossEncoder,
        *,
        encoder: Embedder | None = None,
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
        self.model = beside(self.model, encoder)
        self._calibration = self.model.calibration

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.model, EncoderAndScorer):
            return _made_of, (type(self), self.model.scorer, self.model.embedder)
        return _made_of, (type(self), getattr(self.model, "embedder", self.model), None)

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
            cosine of an encoder, the expected level of a cross-encoder's own probabilities, the one number of
            a regression head, or the expected level under the pool of both.
        """
        outputs = self.model.outputs(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar)
        return grade(outputs, self._calibration)

    def predict_hits(self, found: Sequence[tuple[str, Hit]]) -> Predictions:
        """Grade N hits of queries, as `predict`; a pool takes their scores as the encoder's cosines."""
        pairs = [(query, hit.document) for query, hit in found]
        if not isinstance(self.model, EncoderAndScorer):
            return self.predict(pairs)
        return grade(self.model.with_cosines(pairs, [hit.score for _, hit in found]), self._calibration)

    def rank(
        self, query: str, documents: Sequence[str | Document], *, top_k: int | None = None
    ) -> list[RankedDocument]:
        """Grade documents for one query, the most relevant first.

        Args:
            query: The query.
            documents: N documents.
            top_k: Keep the first so many; None keeps all.
        """
        if isinstance(documents, str):
            raise InputError("documents is one string; a list of documents is needed")
        whole = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
        if top_k is not None and not (whole and top_k >= 1):
            raise InputError(f"top_k={top_k!r}; a whole number from 1 on is needed")
        found = self.predict([(query, document) for document in documents])
        order = np.argsort(-found.scores, kind="stable")[:top_k]
        return [RankedDocument(int(row), found[int(row)]) for row in order]


def _made_of(
    kind: type[RelevanceScorer], model: Embedder | CrossEncoder, encoder: Embedder | None
) -> RelevanceScorer:
    """Put together what was pickled."""
    return kind(model, encoder=encoder)


def scorer_for(
    embedder: Embedder, model: str | os.PathLike[str], *, threads: int | None = None
) -> RelevanceScorer:
    """Open a scorer to re-score what an encoder finds: pooled with it where it was calibrated so.

    Args:
        embedder: The encoder of the search.
        model: A bundle.
        threads: See `Embedder`.

    Raises:
        InputError: The bundle is the encoder of the search itself.
    """
    scorer = open_pair_model(model, threads=threads)
    if isinstance(scorer, BiEncoder) and scorer.embedder.fingerprint == embedder.fingerprint:
        raise InputError(
            f"{os.fspath(model)} is an encoder, not a scorer, and the one that searches: it would only give "
            "the same scores again; name a scorer bundle, or leave the scorer out"
        )
    if isinstance(scorer, CrossEncoder):
        return RelevanceScorer(scorer, encoder=embedder if is_pooled(scorer, embedder) else None)
    return RelevanceScorer(scorer.embedder if isinstance(scorer, BiEncoder) else model, threads=threads)
