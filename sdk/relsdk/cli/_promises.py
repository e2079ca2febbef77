"""Promises as a table, and what is said of those that cannot be made."""

from __future__ import annotations

from collections.abc import Iterable

from relsdk.calibration import Promise
from relsdk.cli.output import echo, echo_table, percent

__all__ = ["echo_promises"]


def echo_promises(promises: Iterable[tuple[str, Promise]], refusals: Iterable[tuple[str, str]] = ()) -> None:
    """Print a row for each promise, and on stderr why others cannot be made, each with what it is of."""
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
    for name, refusal in refusals:
        echo(f"{name}: {refusal}", err=True)
