"""Promises as a table, what is said of those that cannot be made, and what other pairs say of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from relsdk.calibration import Promise
from relsdk.cli._warnings import warn
from relsdk.cli.output import echo, echo_table, percent

if TYPE_CHECKING:  # `relsdk model info` measures nothing
    from relsdk.tools.evaluation import Evaluation
    from relsdk.tools.index_evaluation import IndexEvaluation

__all__ = ["echo_promise_checks", "echo_promises", "promised_options", "warn_of_promises"]

# A threshold that leaves out fewer of the right pairs leaves out hardly any.
_HARDLY_ANY = 0.02
# A variance between fewer queries is not well known.
_FEW_QUERIES = 30


def warn_of_promises(
    promises: Iterable[tuple[str, Promise]], refusals: Iterable[tuple[str, str]] = ()
) -> None:
    """Say what promises that leave hardly anything out are not, which rest on little, and why others fail."""
    for name, one in promises:
        if one.queries < _FEW_QUERIES:
            warn(
                f"{name}: the promise of {one.precision:g} for level >= {one.level} rests on {one.pairs:,} "
                f"pairs of {one.queries:,} queries; before you rely on it, let relsdk eval check it on pairs "
                "of other queries"
            )
        if one.recall > 1 - _HARDLY_ANY:
            warn(
                f"{name}: the pairs have {one.precision:g} for level >= {one.level} by themselves, and "
                "the threshold leaves hardly any out; searches that find worse documents do not keep it: "
                "label what they find, or see --random-negatives"
            )
    for name, refusal in refusals:
        warn(f"{name}: {refusal}")


def echo_promises(promises: Iterable[tuple[str, Promise]]) -> None:
    """Print a row for each promise."""
    rows = [
        [
            name,
            str(one.level),
            percent(one.precision),
            percent(one.confidence),
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


def promised_options(promises: Sequence[Sequence[Promise]]) -> str:
    """Return the options of `relsdk query` for the first promise that all variants make, if there is one."""
    made = [[(one.level, one.precision) for one in of_variant] for of_variant in promises]
    for level, precision in made[0]:
        if all((level, precision) in others for others in made):
            return f"--min-level {level} --min-precision {precision:g}"
    return ""


def echo_promise_checks(evaluations: Iterable[tuple[str, Evaluation | IndexEvaluation]]) -> None:
    """Print a row for each promise that was measured on other pairs."""
    rows = []
    for name, item in evaluations:
        for one in item.promises:
            low, high = map(percent, one.interval or (None, None))
            rows.append(
                [
                    name,
                    str(one.promise.level),
                    percent(one.promise.precision),
                    percent(one.promise.confidence),
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
