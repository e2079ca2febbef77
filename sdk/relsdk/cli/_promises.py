"""Promises as a table, and what is said of those that cannot be made."""

from __future__ import annotations

from collections.abc import Iterable

from relsdk.calibration import Promise
from relsdk.cli.output import echo, echo_table, percent

__all__ = ["echo_promises"]


# A threshold that leaves out fewer of the right pairs leaves out hardly any.
_HARDLY_ANY = 0.02


def echo_promises(promises: Iterable[tuple[str, Promise]], refusals: Iterable[tuple[str, str]] = ()) -> None:
    """Print a row for each promise; on stderr what it is not, and why others cannot be made."""
    promises = list(promises)
    rows = [
        [
            name,
            str(one.level),
            f"{one.precision:g}",
            f"{one.confidence:g}",
            f"{one.threshold:.4f}",
            percent(one.recall),
            percent(one.reached),
            f"{one.pairs:,}",
            f"{one.queries:,}",
        ]
        for name, one in promises
    ]
    if rows:
        header = ["promised for", "level >=", "precision", "confidence", "from P"]
        echo()
        echo_table([*header, "recall", "precision seen", "pairs", "queries"], rows, right=tuple(range(1, 9)))
    for name, one in promises:
        if one.recall > 1 - _HARDLY_ANY:
            echo(
                f"{name}: the pairs have {one.precision:g} for level >= {one.level} by themselves, and "
                "the threshold leaves hardly any out; searches that find worse documents do not keep it: "
                "label what they find, or see --random-negatives",
                err=True,
            )
    for name, refusal in refusals:
        echo(f"{name}: {refusal}", err=True)
