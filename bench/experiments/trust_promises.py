"""Are promises of precision kept? Many splits by query of labelled pairs that no model learned from.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from bench.experiments.trust_models import Models
from relsdk.calibration import fit_calibration, promise_precision
from relsdk.errors import CalibrationError

PRECISIONS = (0.8, 0.9, 0.95)
LEVELS = (1, 2, 3)
# Precision that is given away is told of thresholds with so many pairs.
ENOUGH = 500

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def kept_promises(
    outputs: NDArray[np.float32], labels: Int, queries: Sequence[str], *, pairs: int, splits: int, seed: int
) -> list[dict[str, Any]]:
    """Fit on some of the pairs, measure on the rest, again and again.

    Args:
        outputs: (N,) or (N, C) what a calibration takes.
        labels: (N,) levels.
        queries: (N,) whose pairs are all on one side of a split.
        pairs: How many to fit on.
        splits: How often.
        seed: Of the splits.

    Returns:
        Of each level and precision: in how many splits it was `promised`; in what share of all splits it was
        `broken`, because the rest of the pairs has less (one that is refused is not broken); in what share
        the threshold that just reaches it on the pairs that were fitted on is (`plain_broken_share`); medians
        of the precision and the recall on the rest, of the recall of the best threshold there
        (`median_best_recall`), and of what is given away where the threshold had `ENOUGH` pairs and did not
        let all through.
    """
    found: dict[tuple[int, float], list[dict[str, float]]] = {
        case: [] for case in product(LEVELS, PRECISIONS)
    }
    plain = dict.fromkeys(found, 0)
    for fitted in fitting_rows(queries, pairs, splits, seed):
        rest = ~fitted
        own = [query for query, one in zip(queries, fitted, strict=True) if one]
        try:
            calibration, _ = fit_calibration(outputs[fitted], labels[fitted], own)
        except CalibrationError:
            continue  # nothing is promised
        probabilities = calibration.probabilities(outputs)  # (N, L)
        for level, precision in found:
            shares = probabilities[:, level:].sum(axis=1)
            right = labels >= level
            simple = lowest_threshold(shares[fitted], right[fitted], precision)
            reached = right[rest][shares[rest] >= simple]
            plain[level, precision] += bool(len(reached) and reached.mean() < precision)
            kept = kept_promise(shares, labels, queries, fitted, level, precision)
            if kept is not None:
                best = lowest_threshold(shares[rest], right[rest], precision)
                kept["best_recall"] = float((shares[rest] >= best)[right[rest]].mean())
                found[level, precision].append(kept)
    return [
        _summary(level, precision, rows, splits, plain[level, precision])
        for (level, precision), rows in found.items()
    ]


def kept_promise(
    shares: Float,
    labels: Int,
    queries: Sequence[str],
    fitted: NDArray[np.bool_],
    level: int,
    precision: float,
) -> dict[str, float] | None:
    """Promise a precision by some of the pairs, and look at the rest.

    Args:
        shares: (N,) P(level >= `level`).
        labels: (N,) levels.
        queries: N of them.
        fitted: (N,) which pairs promise.
        level: Of the promise.
        precision: Of the promise.

    Returns:
        `precision` and `recall` on the rest, how many fitted `pairs` lie above the threshold, and whether
        `all` of the rest do; None where nothing can be promised.
    """
    own = [query for query, one in zip(queries, fitted, strict=True) if one]
    try:
        promise = promise_precision(shares[fitted], labels[fitted], own, level=level, precision=precision)
    except CalibrationError:
        return None
    above, right = shares[~fitted] >= promise.threshold, labels[~fitted] >= level
    return {
        "precision": float(right[above].mean()),
        "recall": float(above[right].mean()),
        "pairs": float(promise.pairs),
        "all": float(above.all()),
    }


def fitting_rows(queries: Sequence[str], pairs: int, splits: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which of N pairs a split fits on, (N,): those of random queries, until there are enough."""
    names, row_of = np.unique(np.asarray(queries), return_inverse=True)
    sizes = np.bincount(row_of)
    for split in range(splits):
        order = np.random.default_rng((seed, split)).permutation(len(names))
        last = int(np.searchsorted(np.cumsum(sizes[order]), pairs))
        yield np.isin(row_of, order[: last + 1])


def lowest_threshold(shares: Float, right: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest threshold at which these pairs have the precision; infinite without one."""
    order = np.argsort(-shares, kind="stable")
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(np.diff(shares[order]) != 0, True)
    good = np.flatnonzero((reached >= precision) & last_of_tie)
    return float(shares[order][good[-1]]) if len(good) else np.inf


def _summary(
    level: int, precision: float, rows: list[dict[str, float]], splits: int, plain: int
) -> dict[str, Any]:
    result: dict[str, Any] = {"level": level, "target_precision": precision, "splits": splits}
    result |= {"promised": len(rows), "plain_broken_share": round(plain / splits, 4)}
    if not rows:
        return result
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    broken = int((column["precision"] < precision).sum())
    given = column["precision"] - precision
    counted = (column["pairs"] >= ENOUGH) & (column["all"] == 0)
    # The splits share pairs, so this is a little too narrow.
    interval = binomtest(broken, splits).proportion_ci(method="wilson")
    return {
        **result,
        "broken": broken,
        "broken_share": round(broken / splits, 4),
        "broken_interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "lets_all_through": int(column["all"].sum()),
        "median_precision": round(float(np.median(column["precision"])), 4),
        "given_away_splits": int(counted.sum()),
        "median_given_away": round(float(np.median(given[counted])), 4) if counted.any() else None,
        "median_recall": round(float(np.median(column["recall"])), 4),
        "median_best_recall": round(float(np.median(column["best_recall"])), 4),
    }


def promises_from_dev(models: Models) -> list[dict[str, Any]]:
    """Calibrate the encoder on dev, promise, and look once at test: an illustration, one draw of many."""
    dev, test = models.outputs("encoder", "dev"), models.outputs("encoder", "test")
    labels, queries = models.labels("dev"), models.queries("dev")
    calibration, _ = fit_calibration(dev, labels, queries)
    fitted, wanted = (calibration.probabilities(outputs) for outputs in (dev, test))  # (N, L)
    rows: list[dict[str, Any]] = []
    for level, precision in product(LEVELS, PRECISIONS):
        shares, right = wanted[:, level:].sum(axis=1), models.labels("test") >= level
        row: dict[str, Any] = {"level": level, "target_precision": precision}
        try:
            promise = promise_precision(
                fitted[:, level:].sum(axis=1), labels, queries, level=level, precision=precision
            )
        except CalibrationError as error:
            rows.append({**row, "refused": str(error)})
            continue
        kept = shares >= promise.threshold
        found = {"precision_on_test": float(right[kept].mean()), "recall_on_test": float(kept[right].mean())}
        rows.append({**row, **promise.to_dict(), **found})
    return rows
