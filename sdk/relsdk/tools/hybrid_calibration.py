"""Fit the model of cosine and words that orders and grades a hybrid search.

Each labelled pair goes with a second one: its query and a random document of another one, of level 0 (see
`relsdk.tools.random_negatives`).

Shape letters: N labelled pairs, M random ones, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink, cross_validated_probabilities, fit_hybrid, hybrid_features
from relsdk.errors import CalibrationError, InputError
from relsdk.index import Index
from relsdk.levels import NUM_LEVELS, expected_level
from relsdk.metrics import GradeReport, RankingReport, grade_report, ranking_report
from relsdk.models.embedder import Embedder
from relsdk.records import LabelledPair
from relsdk.tools._promises import Target, check_targets, try_promises
from relsdk.tools.random_negatives import draw_unjudged

__all__ = ["HybridReport", "calibrate_hybrid"]

# The least that a calibration is fitted on; random pairs do not count.
_LEAST_PAIRS, _LEAST_QUERIES = 50, 5

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HybridReport:
    """The result of fitting a hybrid model.

    Attributes:
        variant: The ONNX file of the encoder.
        queries: Distinct queries among the pairs.
        random_pairs: M, which were added with level 0.
        held_out_log_loss: Of "hybrid" and of the "cosine" alone, on all N + M pairs.
        ranking: Order of the labelled pairs, each scored by a fit that has not seen its query.
        cosine_ranking: Their order by cosine.
        grading: Levels of the labelled pairs, each by a fit that has not seen its query.
        refusals: Why something that was asked for cannot be promised, and what it would take.
    """

    variant: str
    queries: int
    random_pairs: int
    held_out_log_loss: dict[str, float]
    ranking: RankingReport
    cosine_ranking: RankingReport
    grading: GradeReport
    refusals: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        reports = {name: getattr(self, name).to_dict() for name in ("ranking", "cosine_ranking", "grading")}
        return {**asdict(self), **reports}


def calibrate_hybrid(
    index: Index,
    embedder: Embedder,
    pairs: Sequence[LabelledPair],
    *,
    targets: Sequence[Target] = (),
    confidence: float = 0.95,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> tuple[HybridLink, HybridReport]:
    """Fit the model of cosine and BM25; `Index.store_hybrid` makes an index search by it.

    The pairs should be none that the encoder was trained on: it knows those by heart, and words would seem to
    add nothing.

    Args:
        index: Knows how rare words are. Documents of the pairs need not be in it.
        embedder: The encoder that built it.
        pairs: At least 50 labelled pairs of at least 5 queries, some of level 0 and some of level 3.
        targets: See `relsdk.tools.evaluation.calibrate_bundle`; the model holds the promises, which are of
            labelled pairs, without the random ones.
        confidence: Of each promise.
        seed: Of the random documents.
        show_progress_bar: See `Embedder.encode`.

    Returns:
        The model, and metrics on held-out queries.

    Raises:
        EncoderMismatchError: The index was built with another encoder.
        CalibrationError: The pairs cannot support a calibration.
        InputError: There are no pairs, or the index holds no words.
    """
    index.check_encoder(embedder)
    check_targets(targets, confidence)
    if not pairs:
        raise InputError("there are no labelled pairs")
    queries = {query: number for number, query in enumerate(dict.fromkeys(pair.query for pair in pairs))}
    if len(pairs) < _LEAST_PAIRS or len(queries) < _LEAST_QUERIES:
        raise CalibrationError(
            f"{len(pairs)} labelled pairs of {len(queries)} queries are too few; {_LEAST_PAIRS} of "
            f"{_LEAST_QUERIES} are needed"
        )
    texts = {(pair.document.title, pair.document.text): pair.document for pair in pairs}
    numbers = {key: number for number, key in enumerate(texts)}
    query_of = np.array([queries[pair.query] for pair in pairs])
    document_of = np.array([numbers[pair.document.title, pair.document.text] for pair in pairs])
    labels = np.array([int(pair.level) for pair in pairs])
    if not {0, NUM_LEVELS - 1} <= set(labels.tolist()):  # random pairs would be on the other side
        raise CalibrationError(
            f"labels are from {labels.min()} to {labels.max()}; pairs of levels 0 and 3 are needed"
        )
    more = draw_unjudged(query_of, query_of, document_of, len(texts), seed)  # (M, 2)
    query_of = np.concatenate([query_of, more[:, 0]])  # (N + M,)
    document_of = np.concatenate([document_of, more[:, 1]])

    asked = embedder.encode_query(list(queries), show_progress_bar=show_progress_bar)
    documents = list(texts.values())
    answers = embedder.encode_document(documents, show_progress_bar=show_progress_bar)
    cosines = np.einsum("nd,nd->n", asked[query_of], answers[document_of])
    bm25, best = np.zeros((2, len(query_of)))
    for query, number in queries.items():
        own = np.flatnonzero(query_of == number)
        bm25[own], best[own] = index.bm25(query, [documents[place] for place in document_of[own]])
    features = hybrid_features(cosines, bm25, best)
    names = [list(queries)[number] for number in query_of]
    model, report = _fit(features, labels, names, embedder.variant.name)
    probabilities = model.probabilities(features[: len(labels)])  # (N, L)
    promises, refusals = try_promises(probabilities, labels, names[: len(labels)], targets, confidence)
    return replace(model, promises=promises), replace(report, refusals=refusals)


def _fit(features: Float, labels: Int, queries: list[str], variant: str) -> tuple[HybridLink, HybridReport]:
    """Fit features of N labelled pairs (labels), and behind them M random ones."""
    labelled = len(labels)
    levels = np.concatenate([labels, np.zeros(len(features) - labelled, dtype=np.int64)])
    model, losses = fit_hybrid(features, levels, queries)
    held_out = cross_validated_probabilities(model, features, levels, queries)[:labelled]  # (N, L)
    own = queries[:labelled]
    report = HybridReport(
        variant=variant,
        queries=len(set(queries)),
        random_pairs=len(features) - labelled,
        held_out_log_loss=losses,
        ranking=ranking_report(own, labels, expected_level(held_out)),
        cosine_ranking=ranking_report(own, labels, features[:labelled, 0]),
        grading=grade_report(labels, held_out, own),
    )
    return model, report
