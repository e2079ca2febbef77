"""How far levels and probabilities are off, and what a correction for other populations does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.experiments.trust_models import Models
from bench.experiments.trust_promises import fitting_rows, kept_promise
from relsdk.bundle import read_bundle
from relsdk.calibration import (
    Calibration,
    estimate_level_shares,
    fit_calibration,
    fit_pool,
    shift_prior,
)
from relsdk.errors import CalibrationError
from relsdk.levels import most_probable_level
from relsdk.metrics import expected_calibration_error, grade_report
from relsdk.runtime.variants import runs_exactly

Float = NDArray[np.float64]
Int = NDArray[np.int64]
# Labelled pairs that a team may start with, and what is then asked of them.
FEW = (50, 100, 200, 500, 1000, 2000)
FEW_CASE = (2, 0.9)
# Share of level 0 in the other population.
IRRELEVANT = 0.6


def exact_variants(bundle: Path) -> list[str]:
    """Return the names of a bundle's files that this CPU runs exactly, fp32 first."""
    return sorted(variant.name for variant in read_bundle(bundle).variants if runs_exactly(variant))


def measured_errors(models: Models) -> list[dict[str, Any]]:
    """Calibrate on dev, with each file that this CPU runs exactly, and measure on test.

    Returns:
        Of each model and file its grades, the share of levels that are others than with the file in fp32
        (`levels_changed`), and that share if both have fp32's calibration (`levels_changed_by_rounding`).
    """
    rows = []
    for kind in ("encoder", "tower", "scorer", "pool"):
        of_fp32: tuple[Calibration, Int] | None = None
        for variant in exact_variants(models.scorer if kind == "pool" else getattr(models, kind)):
            dev, test = (models.outputs(kind, split, variant) for split in ("dev", "test"))
            fit = fit_pool if kind == "pool" else fit_calibration
            calibration, _ = fit(dev, models.labels("dev"), models.queries("dev"))
            probabilities = calibration.probabilities(test)
            report = grade_report(models.labels("test"), probabilities, models.queries("test"))
            levels = most_probable_level(probabilities)
            shared, exact = of_fp32 = of_fp32 or (calibration, levels)
            changes = {
                "levels_changed": levels,
                "levels_changed_by_rounding": most_probable_level(shared.probabilities(test)),
            }
            row = {name: round(float((found != exact).mean()), 5) for name, found in changes.items()}
            rows.append({"model": kind, "variant": variant, **row, **report.to_dict()})
    return rows


def few_labels(
    outputs: NDArray[np.float32], labels: Int, queries: Sequence[str], *, seed: int, draws: int
) -> list[dict[str, Any]]:
    """Say what a calibration on few pairs gives: its error, and a threshold with its promise.

    Args:
        outputs: (N,) of pairs that no model saw.
        labels: (N,) levels.
        queries: (N,) of each pair.
        seed: Of the draws.
        draws: How often so many pairs are drawn, whole queries.

    Returns:
        For each number of pairs: the plain `ece` on the rest, which has so many pairs that noise adds little,
        how often the precision was `promised` and, of those, `broken`, and the `recall` and `precision` of
        the threshold: median and 90 % interval over the draws.
    """
    level, precision = FEW_CASE
    rows = []
    for pairs in (number for number in FEW if 2 * number <= len(labels)):  # the rest is to be more
        found: dict[str, list[float]] = {"ece": [], "precision": [], "recall": []}
        unfit = 0
        for fitted in fitting_rows(queries, pairs, draws, seed):
            own = [query for query, one in zip(queries, fitted, strict=True) if one]
            try:
                calibration, _ = fit_calibration(outputs[fitted], labels[fitted], own)
            except CalibrationError:
                unfit += 1
                continue
            probabilities = calibration.probabilities(outputs)  # (N, L)
            rest = ~fitted
            found["ece"].append(expected_calibration_error(labels[rest], probabilities[rest]))
            shares = probabilities[:, level:].sum(axis=1)
            kept = kept_promise(shares, labels, queries, fitted, level, precision)
            if kept is not None:
                found["precision"].append(kept["precision"])
                found["recall"].append(kept["recall"])
        rows.append(
            {
                "pairs": pairs,
                "draws": draws,
                "cannot_be_fitted": unfit,
                "promised": len(found["precision"]),
                "broken": int((np.array(found["precision"]) < precision).sum()),
                **{name: _spread(values) for name, values in found.items()},
            }
        )
    return rows


def _spread(values: Sequence[float]) -> list[float] | None:
    """Return the 5 %, 50 % and 95 % quantile."""
    return [round(float(one), 4) for one in np.quantile(values, (0.05, 0.5, 0.95))] if values else None


def shifted_priors(models: Models, *, seed: int, draws: int) -> dict[str, Any]:
    """Correct a calibration of dev for pairs of test most of which are irrelevant, without their labels.

    Returns:
        Means over the draws `before` and `after` the correction: the debiased calibration errors of the most
        probable level and of P(level >= 1), 2, 3 (`ece`), and the mean P(level = 0) (`share_of_0`).
    """
    dev, test = models.outputs("encoder", "dev"), models.outputs("encoder", "test")
    calibration, _ = fit_calibration(dev, models.labels("dev"), models.queries("dev"))
    labelled = calibration.probabilities(dev).mean(axis=0)  # (L,)
    labels, queries = models.labels("test"), np.array(models.queries("test"))
    irrelevant, others = np.flatnonzero(labels == 0), np.flatnonzero(labels > 0)
    irrelevant = irrelevant[: int(len(others) / (1 / IRRELEVANT - 1))]  # all, where test has enough others
    count = round(len(irrelevant) * (1 / IRRELEVANT - 1))
    found: dict[str, list[list[float]]] = {"before": [], "after": []}
    for draw in range(draws):
        chosen = np.random.default_rng((seed, draw)).choice(others, count, replace=False)
        rows = np.concatenate([irrelevant, chosen])
        before = calibration.probabilities(test[rows])
        shares = estimate_level_shares(before, queries[rows].tolist(), labelled)
        after = shift_prior(calibration, shares).probabilities(test[rows])
        for name, probabilities in (("before", before), ("after", after)):
            report = grade_report(labels[rows], probabilities, queries[rows].tolist()).to_dict()
            errors = [report["debiased_ece"], *report["debiased_ece_at_least"]]
            share = float(probabilities[:, 0].mean())
            found[name].append([*(error["value"] for error in errors), share])
    row: dict[str, Any] = {"draws": draws, "pairs": len(irrelevant) + count, "share": IRRELEVANT}
    for name, values in found.items():
        *ece, share = np.mean(values, axis=0).round(5).tolist()
        row[name] = {"ece": ece, "share_of_0": share}
    return row
