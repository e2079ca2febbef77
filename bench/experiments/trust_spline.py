"""What the prior of a calibration's spline is chosen by: fits on few pairs, and their loss on the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.experiments.trust_models import Models
from bench.experiments.trust_promises import fitting_rows
from relsdk.calibration.fitting import BEND, PIECES, fit_spline_link

# Pieces, and the change of a slope's logarithm that the prior takes for little. One piece is a straight line.
SPLINES = ((1, BEND), (PIECES, 0.1), (PIECES, BEND), (PIECES, 1.0), (PIECES, 10.0), (6, BEND), (24, BEND))
PAIRS = (50, 200, 500, 2000)


def compared_splines(models: Models, *, seed: int, draws: int) -> list[dict[str, Any]]:
    """Fit each spline to so many pairs of the encoder's cosines; measure on the rest.

    Args:
        models: "unseen" is of the queries that the encoder learned, "others" of another search engine.
        seed: Of the draws.
        draws: How often so many pairs are drawn, whole queries.

    Returns:
        For each data, number of pairs and spline the mean log loss of the rest (`log_loss`), how much more
        that is than by the spline that is used (`more`, with a standard error of the mean over the draws).
    """
    rows = []
    for split in ("unseen", "others"):
        outputs, labels, queries = (
            models.outputs("encoder", split),
            models.labels(split),
            models.queries(split),
        )
        for pairs in (number for number in PAIRS if 2 * number <= len(labels)):
            losses = np.empty((draws, len(SPLINES)))
            for draw, fitted in enumerate(fitting_rows(queries, pairs, draws, seed)):
                rest = np.flatnonzero(~fitted)
                for column, (pieces, bend) in enumerate(SPLINES):
                    link = fit_spline_link(
                        outputs[fitted], labels[fitted], "log_distance", pieces=pieces, bend=bend
                    )
                    likelihood = link.probabilities(outputs[rest])[np.arange(len(rest)), labels[rest]]
                    losses[draw, column] = -np.log(likelihood).mean()
            more = losses - losses[:, [SPLINES.index((PIECES, BEND))]]
            errors = more.std(axis=0, ddof=1) / np.sqrt(draws)
            for column, (pieces, bend) in enumerate(SPLINES):
                rows.append(
                    {
                        "data": split,
                        "pairs": pairs,
                        "pieces": pieces,
                        "bend": bend,
                        "log_loss": round(float(losses[:, column].mean()), 5),
                        "more": round(float(more[:, column].mean()), 5),
                        "standard_error": round(float(errors[column]), 5),
                    }
                )
    return rows
