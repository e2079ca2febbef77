"""Measure a bundle on labelled pairs, and fit its calibration on them.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import CalibrationKey, open_for_calibration, save_calibration
from relsdk.calibration import (
    Calibration,
    LevelShares,
    Promise,
    QueryRange,
    cross_validated_probabilities,
    estimate_level_shares,
    fit_calibration,
    fit_pool,
    method_name,
    shift_prior,
)
from relsdk.errors import InputError
from relsdk.levels import most_probable_level
from relsdk.metrics import (
    Abstention,
    GradeReport,
    RankingReport,
    ReliabilityBin,
    abstention_curve,
    grade_report,
    ranking_report,
    reliability_curves,
)
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.open import open_pair_model
from relsdk.models.pair_model import Pair, PairModel, PairOutputs
from relsdk.models.pooled_scorer import PooledScorer, pooled
from relsdk.models.relevance_scorer import grade
from relsdk.records import Document, LabelledPair
from relsdk.runtime.variants import runs_exactly
from relsdk.tools._promises import PromiseCheck, Target, check_promise, check_targets, try_promises
from relsdk.tools.random_negatives import random_negatives

__all__ = [
    "CalibrationReport",
    "Evaluation",
    "calibrate_bundle",
    "calibrate_model",
    "evaluate",
]

_RAREST = 1e-9  # weights must be above 0
_WantedPromises = tuple[Sequence[Target], float]  # targets, and their confidence


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of an encoder or a scorer on labelled pairs.

    Attributes:
        model: The bundle's name.
        variant: Its ONNX file.
        dimension: Of the vectors; None for a scorer, which has none.
        ranking: Order of the scores.
        grading: Levels and probabilities; None when the bundle has no calibration.
        abstention: What answering only where it is sure costs; empty when the bundle has no calibration.
        reliability: How often what had a probability was so, bin by bin: of the most probable level, and of
            P(level >= 1, 2, 3); empty when the bundle has no calibration.
        promises: Of each promise that is stored in the bundle, whether these pairs keep it.
        warnings: What else is to be known to read them, a sentence each.
    """

    model: str
    variant: str
    dimension: int | None
    ranking: RankingReport
    grading: GradeReport | None
    abstention: tuple[Abstention, ...] = ()
    reliability: tuple[tuple[ReliabilityBin, ...], ...] = ()
    promises: tuple[PromiseCheck, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return {
            "model": self.model,
            "variant": self.variant,
            "dimension": self.dimension,
            "ranking": self.ranking.to_dict(),
            "grading": None if self.grading is None else self.grading.to_dict(),
            "abstention": [point.to_dict() for point in self.abstention],
            "reliability": [[one.to_dict() for one in curve] for curve in self.reliability],
            "promises": [one.to_dict() for one in self.promises],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The result of fitting the calibration of one variant.

    Attributes:
        variant: The ONNX file.
        dimension: Of the vectors; None for a scorer, which has none.
        method: The model that was kept.
        queries: Distinct queries among the pairs.
        held_out_log_loss: Of each method, cross-validated over queries; of a pool, also of each model alone.
        grading: Of the kept method, on pairs whose query it was not fitted on. It says nothing of
            `level_shares`: those pairs have no labels.
        random_pairs: How many pairs with random documents are among them.
        level_shares: Of the pairs without labels that the calibration was corrected for; None without any.
        level_changes: How many of those are of another level by the correction.
        query_range: Between what the queries lie; None of a scorer.
        promises: Precisions that searches can ask for.
        refusals: Why what else was asked for cannot be promised, and what it would take.
    """

    variant: str
    dimension: int | None
    method: str
    queries: int
    held_out_log_loss: dict[str, float]
    grading: GradeReport
    random_pairs: int = 0
    level_shares: LevelShares | None = None
    level_changes: int | None = None
    query_range: QueryRange | None = None
    promises: tuple[Promise, ...] = ()
    refusals: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        shares = self.level_shares and self.level_shares.to_dict()
        return {**asdict(self), "grading": self.grading.to_dict(), "level_shares": shares}


def evaluate(
    model: PairModel, pairs: Sequence[LabelledPair], *, show_progress_bar: bool = False
) -> Evaluation:
    """Score labelled pairs and measure order and, where the bundle is calibrated, levels and promises.

    Raises:
        InputError: There are no pairs.
    """
    outputs, labels, queries = _outputs_and_labels(model, pairs, show_progress_bar)
    evaluation = Evaluation(
        model=model.bundle.name,
        variant=model.variant.name,
        dimension=model.dimension,
        ranking=ranking_report(queries, labels, outputs.scores),
        grading=None,
    )
    if not model.is_calibrated:
        return replace(evaluation, warnings=("no levels: fit them with relsdk calibrate",))
    shares = grade(outputs, model.calibration).probabilities  # (N, L)
    key = model.calibration_key
    promises = model.variant.promises_of(key)
    fitted = model.variant.quality.get("calibration", {}).get(str(key), {}) if promises else {}
    return replace(
        evaluation,
        grading=grade_report(labels, shares, queries),
        abstention=tuple(abstention_curve(labels, shares)),
        reliability=reliability_curves(labels, shares, queries),
        promises=tuple(check_promise(one, shares, labels, queries) for one in promises),
        warnings=tuple(_other_populations(fitted)),
    )


def _other_populations(fitted: Mapping[str, Any]) -> Iterator[str]:
    """Say of which pairs promises are, where those are not like labelled ones.

    Args:
        fitted: The report of the calibration that made them, as JSON.
    """
    if fitted.get("random_pairs"):
        yield (
            f"{fitted['random_pairs']:,} pairs of random documents had a part in the promises "
            "(--random-negatives); pairs without such documents keep them more easily"
        )
    if fitted.get("level_shares"):
        yield (
            "the promises are of pairs whose levels are as frequent as among those without labels "
            "(--unlabelled); check them on pairs of searches, and not on pairs that were picked for labelling"
        )


def calibrate_bundle(
    path: str | os.PathLike[str],
    pairs: Sequence[LabelledPair],
    *,
    variants: Sequence[str] = (),
    truncate_dim: int | None = None,
    encoder: Embedder | None = None,
    targets: Sequence[Target] = (),
    confidence: float = 0.95,
    threads: int | None = None,
    random_documents: int = 0,
    unlabelled: Sequence[tuple[str, Document]] | None = None,
    show_progress_bar: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[CalibrationReport]:
    """Fit the map to levels for a bundle's variants and store it in the bundle.

    Scores differ a little between the ONNX files of a model, so each gets a fit of its own.

    Args:
        path: The bundle, of an encoder or a scorer.
        pairs: Labelled pairs of at least 5 queries, with labels on both sides of each level.
        variants: Names; by default all that this CPU runs exactly.
        truncate_dim: Calibrate for vectors cut to this dimension; None does it for the dimension that an
            encoder has of itself and for each one that it was trained to be cut to, from the same vectors.
        encoder: For a scorer: fit the pool of its judgement and this encoder's, for searches with both.
        targets: Levels with a precision each, such as (2, 0.9): promise that hits can be chosen of which at
            least this share is of the level or above; see `relsdk.calibration.promise_precision`. What cannot
            be promised is told in the report. Promises of an earlier calibration go.
        confidence: Of each promise.
        threads: See `Embedder`.
        random_documents: Add pairs of level 0: each query with so many documents of other queries. For
            searches over everything, where most documents have nothing to do with the query.
        unlabelled: Pairs as they come in use: the calibration is corrected for the shares that levels have
            among them, by `estimate_level_shares`.
        show_progress_bar: See `Embedder.encode`.
        on_step: Called with a short description before each variant.

    Returns:
        One report a variant and dimension, that of the model itself first, with metrics on held-out queries.

    Raises:
        CalibrationError: The pairs cannot support a calibration.
        BundleError: relsdk did not write this folder.
    """
    if unlabelled is not None and not unlabelled:
        raise InputError("there are no pairs without labels; leave them out, or pass some")
    check_targets(targets, confidence)
    added = random_negatives(pairs, random_documents)
    bundle = open_for_calibration(os.fspath(path))
    names = list(variants) or [variant.name for variant in bundle.variants if runs_exactly(variant)]
    dimensions = bundle.calibrated_dimensions if truncate_dim is None else []
    if len(dimensions) > 1:
        truncate_dim = bundle.encoder_settings.dimension
    reports = []
    for name in names:
        on_step(f"calibrate {name}")
        opened = open_pair_model(bundle.path, variant=name, threads=threads, truncate_dim=truncate_dim)
        model = pooled(opened, encoder)
        several = dimensions if isinstance(model, BiEncoder) and len(dimensions) > 1 else [model.dimension]
        wanted = (targets, confidence)
        reports += _calibrate(model, pairs, added, several, unlabelled, wanted, show_progress_bar)
    return reports


def _calibrate(
    model: PairModel,
    pairs: Sequence[LabelledPair],
    added: Sequence[LabelledPair],
    dimensions: Sequence[int | None],
    unlabelled: Sequence[tuple[str, Document]] | None,
    wanted: _WantedPromises,
    show_progress_bar: bool,
) -> list[CalibrationReport]:
    """Fit and store the map of each dimension, with random pairs added; the model runs once."""
    plain, labels, queries = _split([*pairs, *added])
    labelled = _outputs_at(model, plain, dimensions, show_progress_bar)
    traffic = None if unlabelled is None else _outputs_at(model, unlabelled, dimensions, show_progress_bar)
    reports = []
    for place, (dimension, outputs) in enumerate(zip(dimensions, labelled, strict=True)):
        report, calibration = _fit(model, dimension, outputs, labels, queries)
        report = replace(report, random_pairs=len(added))
        if isinstance(model, BiEncoder):
            report = replace(report, query_range=_query_range(model.embedder, queries, outputs.scores))
        if traffic is not None and unlabelled is not None:
            names = [query for query, _ in unlabelled]
            report, calibration = _correct(report, calibration, outputs, traffic[place], names)
        promises, refusals = try_promises(
            calibration.probabilities(outputs.calibrated),
            labels,
            queries,
            *wanted,
            weights=_weights(report.level_shares, labels),
        )
        report = replace(report, promises=promises, refusals=refusals)
        key = model.calibration_key if dimension is None else CalibrationKey(dimension)
        measured = report.to_dict()
        stored = measured.pop("promises")  # beside the calibration
        save_calibration(model.bundle, model.variant, key, calibration.to_dict(), measured, stored)
        reports.append(report)
    return reports


def _outputs_at(
    model: PairModel, pairs: Sequence[Pair], dimensions: Sequence[int | None], show_progress_bar: bool
) -> list[PairOutputs]:
    """Return the outputs for pairs at each dimension."""
    if isinstance(model, BiEncoder) and len(dimensions) > 1:
        several = [dimension for dimension in dimensions if dimension is not None]
        return model.outputs_at(pairs, several, show_progress_bar=show_progress_bar)
    return [model.outputs(pairs, show_progress_bar=show_progress_bar)]


def _correct(
    report: CalibrationReport,
    fitted: Calibration,
    labelled: PairOutputs,
    traffic: PairOutputs,
    queries: list[str],
) -> tuple[CalibrationReport, Calibration]:
    """Correct a calibration for the levels among pairs without labels, of these queries."""
    before = fitted.probabilities(traffic.calibrated)
    shares = estimate_level_shares(before, queries, fitted.probabilities(labelled.calibrated).mean(axis=0))
    calibration = shift_prior(fitted, shares)
    after = most_probable_level(calibration.probabilities(traffic.calibrated))
    changes = int((after != most_probable_level(before)).sum())
    return replace(report, level_shares=shares, level_changes=changes), calibration


def _weights(shares: LevelShares | None, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return how many pairs without labels each labelled one stands for, (N,); the shares count as known."""
    if shares is None:
        return None
    of_level = np.asarray(shares.after) / np.asarray(shares.labelled)  # (L,)
    return np.asarray(np.maximum(of_level, _RAREST)[labels], dtype=np.float64)


def calibrate_model(
    model: PairModel,
    pairs: Sequence[LabelledPair],
    *,
    targets: Sequence[Target] = (),
    confidence: float = 0.95,
    show_progress_bar: bool = False,
) -> CalibrationReport:
    """Fit the map to levels for a model that is open, and store it in its bundle; see `calibrate_bundle`.

    The model itself stays as it was opened.
    """
    check_targets(targets, confidence)
    wanted = (targets, confidence)
    (report,) = _calibrate(model, pairs, [], [model.dimension], None, wanted, show_progress_bar)
    return report


def _outputs_and_labels(
    model: PairModel, pairs: Sequence[LabelledPair], show_progress_bar: bool
) -> tuple[PairOutputs, NDArray[np.int64], list[str]]:
    """Return outputs, labels (N,) and queries of the pairs."""
    plain, labels, queries = _split(pairs)
    return model.outputs(plain, show_progress_bar=show_progress_bar), labels, queries


def _split(pairs: Sequence[LabelledPair]) -> tuple[list[Pair], NDArray[np.int64], list[str]]:
    """Return the pairs themselves, their labels (N,) and their queries."""
    if not pairs:
        raise InputError("there are no labelled pairs")
    plain: list[Pair] = [(pair.query, pair.document) for pair in pairs]
    return plain, np.array([int(pair.level) for pair in pairs]), [pair.query for pair in pairs]


def _query_range(embedder: Embedder, queries: list[str], cosines: NDArray[np.float32]) -> QueryRange:
    """Measure the queries of pairs and their cosines (N,)."""
    best: dict[str, float] = {}
    for query, cosine in zip(queries, cosines.tolist(), strict=True):
        best[query] = max(cosine, best.get(query, cosine))
    tokens = embedder.tokenize(list(best), prompt_name=embedder.known_prompt("query")).ids
    return QueryRange.of(tokens, embedder.unknown_id, list(best.values()))


def _fit(
    model: PairModel,
    dimension: int | None,
    outputs: PairOutputs,
    labels: NDArray[np.int64],
    queries: list[str],
) -> tuple[CalibrationReport, Calibration]:
    fit = fit_pool if isinstance(model, PooledScorer) else fit_calibration
    calibration, losses = fit(outputs.calibrated, labels, queries)
    held_out = cross_validated_probabilities(calibration, outputs.calibrated, labels, queries)
    report = CalibrationReport(
        variant=model.variant.name,
        dimension=dimension,
        method=method_name(calibration),
        queries=len(set(queries)),
        held_out_log_loss=losses,
        grading=grade_report(labels, held_out, queries),
    )
    return report, calibration
