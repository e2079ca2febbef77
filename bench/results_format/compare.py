"""Two result files: what became slower, what became faster, and what is noise.

Shape letters: R rounds of an interleaved run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.results_format.records import Results, Row
from bench.results_format.statistics import Estimate, median_ratio
from relsdk.errors import InputError

__all__ = ["MIN_FLOOR", "MIN_ROUNDS", "Change", "compare_results", "differences_of_header", "lost_rows"]

# A change of less is never called one: two processes differ by as much in where their memory lies.
MIN_FLOOR = 0.05
# With fewer rounds a bootstrap interval of the median is too narrow to mean anything.
MIN_ROUNDS = 5
# Many rows are compared at once, so each is asked for more than the usual 95 %.
_LEVEL = 0.99


@dataclass(frozen=True, slots=True)
class Change:
    """How one row moved between two runs.

    Attributes:
        suite: See `Row`.
        case: See `Row`.
        contender: See `Row`.
        measure: "time" or "memory".
        before: Median call in milliseconds (or resident MB) of the first file.
        after: The same of the second file.
        ratio: after / before; above 1 is slower (or larger).
        adjusted: The same after both runs' times are divided, round by round, by those of the yardstick in
            the same case, so that a slower moment of the machine cancels; None without a yardstick in both.
        floor: What was taken for noise: 0.05 means that ratios from 1 / 1.05 to 1.05 are no change.
        verdict: "regression", "improvement" or "noise".
        reason: What speaks for another verdict, for people; mostly "".
    """

    suite: str
    case: str
    contender: str
    measure: str
    before: float
    after: float
    ratio: Estimate
    adjusted: Estimate | None
    floor: float
    verdict: str
    reason: str = ""


def compare_results(before: Results, after: Results, *, min_floor: float = MIN_FLOOR) -> list[Change]:
    """Judge every row that is in both files.

    A row is a regression when the bootstrap interval (99 %) of after / before lies above the noise floor, of
    the times as they are and of the times against the yardstick; an improvement when both lie below it.
    Anything else is noise. The floor is the largest of `min_floor` and what identical contenders of either
    run differed by.

    Args:
        before: The reference.
        after: The run to judge.
        min_floor: Changes of less are never called one.

    Returns:
        One change a row and measure, in the order of `after`, without the yardsticks themselves.

    Raises:
        InputError: `min_floor` is not a share of at least 0, or the files have no row in common.
    """
    if not (np.isfinite(min_floor) and min_floor >= 0):
        raise InputError(f"min_floor={min_floor}; a share of at least 0 is needed, such as 0.05")
    old = {row.key: row for row in before.rows}
    rulers = _yardsticks(before), _yardsticks(after)
    changes = []
    for row in after.rows:
        reference = old.get(row.key)
        if reference is None or row.role == "yardstick":
            continue
        place = row.suite, row.case
        ruler = rulers[0].get(place), rulers[1].get(place)
        if reference.round_medians_ms and row.round_medians_ms:
            changes.append(_time_change(reference, row, ruler, min_floor))
        if reference.memory and row.memory:
            megabytes = reference.memory.resident_mb, row.memory.resident_mb
            changes.append(_memory_change(row.key, *megabytes, min_floor))
    if not changes:
        raise InputError(
            f"{before.path} and {after.path} have no measured row in common; "
            "compare two runs of the same suites"
        )
    return changes


def differences_of_header(before: Results, after: Results) -> list[str]:
    """Return what makes two files hard to compare, one sentence each."""
    found = []
    for label, path in (
        ("CPU", ("machine", "cpu")),
        ("number of CPUs", ("machine", "cpus")),
        ("number of threads", ("threads",)),
        ("model", ("model", "fingerprint")),
        ("protocol", ("protocol",)),
    ):
        a, b = (_inside(results.header, path) for results in (before, after))
        if a != b:
            found.append(
                f"not the same {label}" + ("" if isinstance(a, dict) else f": {a} before, {b} after")
            )
    return found


def _yardsticks(results: Results) -> dict[tuple[str, str], Row]:
    return {(row.suite, row.case): row for row in results.rows if row.role == "yardstick"}


def _time_change(before: Row, after: Row, rulers: tuple[Row | None, Row | None], min_floor: float) -> Change:
    a, b = np.array(before.round_medians_ms), np.array(after.round_medians_ms)  # (R,)
    ratio = median_ratio(b, a, level=_LEVEL)
    adjusted = None
    lengths = [len(ruler.round_medians_ms) if ruler else 0 for ruler in rulers]
    if rulers[0] and rulers[1] and lengths == [len(a), len(b)]:
        adjusted = median_ratio(
            b / np.array(rulers[1].round_medians_ms), a / np.array(rulers[0].round_medians_ms), level=_LEVEL
        )
    floor = max([min_floor, *(row.noise.floor for row in (before, after) if row.noise)])
    verdict, reason = _verdict(ratio, adjusted, floor)
    if min(len(a), len(b)) < MIN_ROUNDS:
        verdict, reason = "noise", f"fewer than {MIN_ROUNDS} rounds"
    medians = float(np.median(a)), float(np.median(b))
    return Change(*after.key, "time", *medians, ratio, adjusted, floor, verdict, reason)


def _memory_change(key: tuple[str, str, str], a: float, b: float, min_floor: float) -> Change:
    """One number a side: no interval, only the floor."""
    ratio = Estimate(b / a, b / a, b / a)
    verdict, reason = _verdict(ratio, None, min_floor)
    return Change(*key, "memory", a, b, ratio, None, min_floor, verdict, reason)


def _verdict(ratio: Estimate, adjusted: Estimate | None, floor: float) -> tuple[str, str]:
    both = [ratio] if adjusted is None else [ratio, adjusted]
    if all(item.low > 1.0 + floor for item in both):
        return "regression", ""
    if all(item.high < 1.0 / (1.0 + floor) for item in both):
        return "improvement", ""
    if ratio.low > 1.0 + floor or ratio.high < 1.0 / (1.0 + floor):
        return "noise", "the yardstick moved as well"
    if adjusted is not None and adjusted.low > 1.0 + floor:
        return "noise", "slower against the yardstick alone: the machine was faster; run both again"
    return "noise", ""


def lost_rows(before: Results, after: Results) -> list[tuple[str, str, str]]:
    """Return the rows of relsdk's own that were measured before and are not any more."""
    measured = {row.key for row in after.rows if row.round_medians_ms or row.memory}
    had = (row for row in before.rows if row.round_medians_ms or row.memory)
    return [row.key for row in had if row.role == "ours" and row.key not in measured]


def _inside(content: object, path: tuple[str, ...]) -> object:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content
