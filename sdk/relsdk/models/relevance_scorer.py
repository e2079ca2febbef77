"""Grade pairs of query and document: level, probabilities, expected level.

Shape letters: N pairs, L = 4 levels, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relsdk.calibration import Calibration
from relsdk.errors import InputError
from relsdk.levels import expected_level, most_probable_level
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.open import open_pair_model
from relsdk.models.pair_model import Pair, PairModel, PairOutputs
from relsdk.models.pooled_scorer import PooledScorer, pooled
from relsdk.models.steps import Flow, run_flow
from relsdk.records import Document, Hit, Predictions, RankedDocument

__all__ = ["Predictions", "RankedDocument", "RelevanceScorer", "grade", "open_scorer"]


def grade(outputs: PairOutputs, calibration: Calibration) -> Predictions:
    """Turn what a model gives for N pairs into levels and probabilities."""
    probabilities = calibration.probabilities(outputs.calibrated)
    return Predictions(
        outputs.scores, most_probable_level(probabilities), probabilities, expected_level(probabilities)
    )


class RelevanceScorer:
    """Grades pairs of query and document: by a cross-encoder, by an encoder's calibrated cosine, or by both.

    Args:
        model: A scorer bundle, an encoder bundle with a calibration, or a model that is already open.
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
        model: str | os.PathLike[str] | Embedder | BiEncoder | CrossEncoder | PooledScorer,
        *,
        encoder: Embedder | None = None,
        variant: str = "auto",
        threads: int | None = None,
    ) -> None:
        alone: PairModel
        if isinstance(model, Embedder):
            alone = BiEncoder(model)
        elif isinstance(model, BiEncoder | CrossEncoder | PooledScorer):
            alone = model
        else:
            alone = open_pair_model(model, variant=variant, threads=threads)
        self.model = pooled(alone, encoder)
        self._calibration = self.model.calibration

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,)

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
        options = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        return run_flow(self.flow(pairs, **options))

    def flow(self, pairs: Sequence[Pair], **options: Any) -> Flow[Predictions]:
        """Yield the steps of `predict`; see `relsdk.models.steps`."""
        outputs = yield from self.model.flow(pairs, **options)
        return grade(outputs, self._calibration)

    def predict_hits(self, hits: Sequence[tuple[str, Hit]]) -> Predictions:
        """Grade N hits of queries, as `predict`: by the passage that was found, where there is one.

        A pool takes the cosines that retrieval knows.
        """
        return run_flow(self.hits_flow(hits))

    def hits_flow(self, hits: Sequence[tuple[str, Hit]]) -> Flow[Predictions]:
        """Yield the steps of `predict_hits`."""
        pairs = [(query, _read_part(hit)) for query, hit in hits]
        if not isinstance(self.model, PooledScorer):
            return (yield from self.flow(pairs))
        outputs = yield from self.model.flow(pairs, [hit.cosine for _, hit in hits])
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
        if isinstance(documents, str):
            raise InputError("documents is one string; a list of documents is needed")
        whole = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
        if top_k is not None and not (whole and top_k >= 1):
            raise InputError(f"top_k={top_k!r}; a whole number from 1 on is needed")
        predictions = self.predict([(query, document) for document in documents])
        order = np.argsort(-predictions.scores, kind="stable")[:top_k]
        return [RankedDocument(int(row), predictions[int(row)]) for row in order]


def _read_part(hit: Hit) -> Document:
    """Return the document, with the text of the passage that was found."""
    return hit.document if hit.passage is None else replace(hit.document, text=hit.passage.text)


def open_scorer(
    embedder: Embedder, model: str | os.PathLike[str], *, threads: int | None = None
) -> RelevanceScorer:
    """Open the scorer that re-scores an encoder's hits; pool both where the scorer was calibrated so.

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
        both = PooledScorer(scorer, embedder)
        return RelevanceScorer(both if both.is_calibrated else scorer)
    return RelevanceScorer(scorer)
