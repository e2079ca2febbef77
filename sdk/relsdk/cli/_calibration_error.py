"""The calibration errors of levels as a table: plain, debiased, and their intervals."""

from __future__ import annotations

from collections.abc import Iterable

from relsdk.cli.output import echo, echo_table
from relsdk.metrics import DebiasedEce, GradeReport

__all__ = ["echo_calibration_errors"]

_OF = ("most probable level", "level >= 1", "level >= 2", "level = 3")


def echo_calibration_errors(reports: Iterable[tuple[str, GradeReport]]) -> None:
    """Print one row for each report and kind of probability; a report without debiased errors has none."""
    rows = []
    for name, report in reports:
        errors = [report.debiased_ece, *(report.debiased_ece_at_least or ())]
        rows += [
            [name, *_cells(what, one)] for what, one in zip(_OF, errors, strict=False) if one is not None
        ]
    if rows:
        echo()
        header = ["", "calibration error of", "ECE", "debiased", "95 % of queries", ""]
        echo_table(header, rows, right=(2, 3, 4))


def _cells(what: str, error: DebiasedEce) -> list[str]:
    told = "" if error.is_distinguishable else "not distinguishable from 0"
    # An interval that begins at 0 means something else than one that is rounded to it.
    low = "<0.001" if 0.0 < error.low < 0.0005 else f"{error.low:.3f}"
    return [what, f"{error.ece:.3f}", f"{error.value:.3f}", f"{low} to {error.high:.3f}", told]
