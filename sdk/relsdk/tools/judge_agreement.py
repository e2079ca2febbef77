"""How far a judge's grades agree with people's labels, and what such a judge may be used for.

Shape letters: N pairs in common, L = 4 levels, Q queries.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk.metrics import UndefinedMetricError, accuracy, average_precision, quadratic_weighted_kappa
from relsdk.records import LabelledPair

__all__ = ["JudgeReport", "judge_report"]

_DRAWS = 500
_INTERVAL = (0.025, 0.975)
# Pairs in common from which a training corrects opinions (relsdk_training.data.opinions), ten an opinion.
_NEEDED = 40
# Pairs in common whose accuracy is known to 5 percent points: 1.96 sqrt(0.25 / n) = 0.05.
_GOOD = 385
_TEST_SET = "test set: no, whatever the agreement: what is measured is likeness to the judge"

_Int = NDArray[np.int64]
_Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """Agreement of a judge with people; None where a value does not exist.

    Attributes:
        grades: Pairs that the judge graded.
        pairs: N: those that people labelled too, once for each of their labels.
        queries: Q of them.
        measures: "accuracy" (share of equal levels), "qwk" (quadratic weighted kappa), "ap_1", "ap_2", "ap_3"
            (average precision of the opinions for people's level >= 1, 2, 3; of the mean over the judge's
            samples where there are several), "higher" and "lower" (shares graded above and below people).
        intervals: 95 % of each measure, from queries drawn with replacement; None of a single query.
        counts: L rows, the opinion; L columns, people's level.
        wrong_order: Of two pairs that people put at different levels, the share that the judge puts the wrong
            way round.
        equal_order: The share that it puts at one level.
    """

    grades: int
    pairs: int
    queries: int
    measures: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    counts: tuple[tuple[int, ...], ...]
    wrong_order: float | None
    equal_order: float | None

    def probabilities(self) -> list[list[float | None]]:
        """Return P(people's level | opinion) as counted: a row for each opinion, None where there is none."""
        return [[count / sum(row) if sum(row) else None for count in row] for row in self.counts]

    def uses(self) -> tuple[str, ...]:
        """Say what the judge may be used for, a sentence each."""
        return _weak_labels(self), _filter(self), _TEST_SET, _pairs_in_common(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; a measure's interval is "MEASURE_interval"."""
        return {
            "grades": self.grades,
            "pairs": self.pairs,
            "queries": self.queries,
            **self.measures,
            **{f"{name}_interval": interval for name, interval in self.intervals.items()},
            "counts": self.counts,
            "probabilities": self.probabilities(),
            "wrong_order": self.wrong_order,
            "equal_order": self.equal_order,
            "uses": self.uses(),
        }


def judge_report(
    grades: Iterable[LabelledPair], labelled: Iterable[LabelledPair], *, seed: int = 0
) -> JudgeReport:
    """Compare a judge's grades with people's labels of the same pairs.

    Two pairs are the same if title and text of their documents are equal, and their queries up to case, width
    and spaces. A grade that is repeated counts once.

    Args:
        grades: Pairs with the judge's level; `probabilities` in a document's metadata, as relsdk judge writes
            them, order pairs of one level.
        labelled: Pairs with people's level.
        seed: Of the draws.

    Raises:
        InputError: No pair is in both.
    """
    graded, common = _join(grades, labelled)
    opinions, labels, scores, query_of = common
    if not len(labels):
        raise InputError(
            f"none of the {graded:,} grades is of a labelled pair; both files need pairs of the same query, "
            "title and text"
        )
    values = _measure(opinions, labels, scores)
    counts = np.bincount(opinions * NUM_LEVELS + labels, minlength=NUM_LEVELS**2).reshape(NUM_LEVELS, -1)
    wrong, equal = _orders(counts)
    return JudgeReport(
        graded,
        len(labels),
        int(query_of.max()) + 1,
        {name: _or_none(value) for name, value in values.items()},
        _intervals(opinions, labels, scores, query_of, seed),
        tuple(tuple(row) for row in counts.tolist()),
        wrong,
        equal,
    )


def _join(
    grades: Iterable[LabelledPair], labelled: Iterable[LabelledPair]
) -> tuple[int, tuple[_Int, _Int, _Float, _Int]]:
    """Return how many grades there are; of the pairs in common opinions, labels, scores, queries: (N,)."""
    human: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for pair in labelled:
        human[_key(pair)].append(int(pair.level))
    count = 0
    rows: dict[tuple[tuple[str, str, str], int], float] = {}
    for pair in grades:
        count += 1
        if _key(pair) in human:
            rows.setdefault((_key(pair), int(pair.level)), _score(pair))
    queries: dict[str, int] = {}
    table = [
        (opinion, level, score, queries.setdefault(key[0], len(queries)))
        for (key, opinion), score in rows.items()
        for level in human[key]
    ]
    opinions, labels, scores, query_of = np.array(table, dtype=np.float64).reshape(-1, 4).T
    return count, (opinions.astype(np.int64), labels.astype(np.int64), scores, query_of.astype(np.int64))


def _key(pair: LabelledPair) -> tuple[str, str, str]:
    query = " ".join(unicodedata.normalize("NFKC", pair.query).casefold().split())
    return query, pair.document.title, pair.document.text


def _score(pair: LabelledPair) -> float:
    """Return the mean level over the judge's samples, where they are known; else its level."""
    shares = pair.document.metadata.get("probabilities")
    if isinstance(shares, list) and len(shares) == NUM_LEVELS:
        if all(isinstance(share, int | float) and math.isfinite(share) for share in shares):
            return float(sum(level * share for level, share in enumerate(shares)))
    return float(pair.level)


def _measure(opinions: _Int, labels: _Int, scores: _Float) -> dict[str, float]:
    """Return the measures by name, NaN for those that do not exist."""
    measures: dict[str, Callable[[], float]] = {
        "accuracy": lambda: accuracy(labels, opinions),
        "qwk": lambda: quadratic_weighted_kappa(labels, opinions),
        "ap_1": lambda: average_precision(labels >= 1, scores),
        "ap_2": lambda: average_precision(labels >= 2, scores),
        "ap_3": lambda: average_precision(labels >= 3, scores),
        "higher": lambda: float((opinions > labels).mean()),
        "lower": lambda: float((opinions < labels).mean()),
    }
    values = {}
    for name, measure in measures.items():
        try:
            values[name] = measure()
        except UndefinedMetricError:
            values[name] = math.nan
    return values


def _intervals(
    opinions: _Int, labels: _Int, scores: _Float, query_of: _Int, seed: int
) -> dict[str, tuple[float, float] | None]:
    """Measure the pairs of as many queries as there are, drawn with replacement, again and again."""
    if not query_of.any():  # one query says nothing of others
        return dict.fromkeys(_measure(opinions, labels, scores))
    rng = np.random.default_rng(seed)
    order = np.argsort(query_of, kind="stable")
    of_query = np.split(order, np.cumsum(np.bincount(query_of))[:-1])
    draws = []
    for _ in range(_DRAWS):
        rows = np.concatenate([of_query[one] for one in rng.integers(0, len(of_query), len(of_query))])
        draws.append(_measure(opinions[rows], labels[rows], scores[rows]))
    intervals: dict[str, tuple[float, float] | None] = {}
    for name in draws[0]:
        values = np.array([draw[name] for draw in draws])
        low, high = np.quantile(values, _INTERVAL).tolist()  # NaN where a draw has no such level
        intervals[name] = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    return intervals


def _orders(counts: _Int) -> tuple[float | None, float | None]:
    """Return which shares of two pairs of different human levels are in the wrong order, and in none."""
    wrong = equal = total = 0
    for above in range(NUM_LEVELS):
        for below in range(above):
            together = np.outer(counts[:, above], counts[:, below])  # [i, j]: opinions i above, j below
            total += int(together.sum())
            equal += int(np.trace(together))
            wrong += int(np.triu(together, 1).sum())
    return (wrong / total, equal / total) if total else (None, None)


def _is_chance(report: JudgeReport) -> bool:
    kappa = report.intervals["qwk"]
    return kappa is None or kappa[0] <= 0


def _weak_labels(report: JudgeReport) -> str:
    if report.pairs < _NEEDED:
        verdict = (
            f"with care: pairs in common are {report.pairs}, too few to show its habits; label {_NEEDED} or "
            "more of those that it graded, drawn at random"
        )
    elif _is_chance(report):
        verdict = "no: its agreement with people cannot be told from chance"
    else:
        higher, lower = report.measures["higher"], report.measures["lower"]
        verdict = (
            f"yes, corrected: GRADES in data.weak, these {report.pairs:,} labels in data.train or data.dev; "
            f"uncorrected it teaches its habits ({higher:.0%} higher than people, {lower:.0%} lower)"
        )
    return f"weak labels: {verdict}"


def _filter(report: JudgeReport) -> str:
    if report.wrong_order is None or report.equal_order is None or _is_chance(report):
        verdict = "no: it is not known to order pairs as people do"
    else:
        verdict = (
            "only if more of what is written is out of order than it mistakes itself: it puts "
            f"{report.wrong_order:.1%} of two pairs that people tell apart the wrong way round, and "
            f"{report.equal_order:.1%} alike"
        )
    return f"filter of written queries (filter.judge): {verdict}"


def _pairs_in_common(report: JudgeReport) -> str:
    missing = _GOOD - report.pairs
    known = "enough" if missing <= 0 else f"{missing:,} more are needed"
    return f"pairs in common: {report.pairs:,}; {known} to know its accuracy to 5 points"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
