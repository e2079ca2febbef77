"""Promises as a table, what is said of those that cannot be made, and what other pairs say of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from relsdk.calibration import Promise
from relsdk.cli.output import echo, echo_table, percent

if TYPE_CHECKING:  # `relsdk model info` measures nothing
    from relsdk.tools.evaluation import Evaluation

__all__ = ["echo_promise_checks", "echo_promises"]

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


def echo_promise_checks(evaluations: Iterable[Evaluation]) -> None:
    """Print a row for each promise that was measured on other pairs."""
    rows = []
    for item in evaluations:
        for one in item.promises:
            low, high = map(percent, one.interval or (None, None))
            rows.append(
                [
                    item.variant,
                    str(one.promise.level),
                    f"{one.promise.precision:g}",
                    f"{one.promise.confidence:g}",
                    f"{one.promise.threshold:.4f}",
                    percent(one.share),
                    percent(one.recall),
                    percent(one.precision),
                    f"{low} to {high}" if one.interval else "-",
                    one.verdict,
                ]
            )
    if rows:
        header = ["promise of", "level >=", "precision", "confidence", "from P", "pairs above", "recall"]
        echo()
        echo_table([*header, "precision here", "95 % of queries", ""], rows, right=tuple(range(1, 9)))
