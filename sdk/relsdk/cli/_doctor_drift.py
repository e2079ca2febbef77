"""`relsdk doctor --state`: whether a server's searches still find what they found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from relsdk.calibration import SearchProfile
from relsdk.cli._warnings import warn
from relsdk.cli.output import echo_table
from relsdk.errors import RelsdkError
from relsdk.metrics import Interval
from relsdk.tools.drift import FIRST_SEARCHES, LARGE_SHIFT, SMALL_SHIFT, DriftState, SearchDrift

__all__ = ["check_drift", "drift_to_dict", "echo_drift"]

# Seconds without a new file after which no server writes it; it does each minute.
_STALE = 300
_KINDS = {
    "level": "level of the best hit",
    "cosine": "cosine of the best hit",
    "tokens": "tokens of a query",
    "unknown": "queries with unknown tokens",
}


def echo_drift(state: DriftState) -> None:
    """Print each kind of count: before, now, and how far it has moved, with an interval of 95 %."""
    _warn_if_stale(state)
    rows = []
    for index, order, drift in _all(state):
        day = drift.day
        intervals = day.shift_intervals_from(drift.reference)
        for kind, text in _KINDS.items():
            cells = [f"{index}, {order}", text, _shown(drift.reference, kind), _shown(day, kind)]
            rows.append([*cells, f"{day.searches(kind):,}", _verdict(drift, day, kind, intervals.get(kind))])
    echo_table(["searches", "what", "before", "last day", "of", "moved"], rows, right=(4,))


def _warn_if_stale(state: DriftState) -> None:
    age = time.time() - state.written
    if age > _STALE:
        warn(f"drift.json was written {age / 60:,.0f} minutes ago: no server writes it now")


def check_drift(state: DriftState) -> None:
    """Refuse a large shift, which the exit code tells.

    Raises:
        RelsdkError: It names what has moved.
    """
    moved = [
        f"{_KINDS[kind]} ({index}, {order}: {shift:.2f})"
        for index, order, drift in _all(state)
        for kind, shift in drift.shifts.items()
        if shift >= LARGE_SHIFT
    ]
    if moved:
        raise RelsdkError(
            f"searches have moved far from those of the reference: {', '.join(moved)}; levels may no longer "
            "hold: grade some of today's hits, then run relsdk calibrate --index --queries again"
        )


def drift_to_dict(state: DriftState) -> dict[str, Any]:
    """Return a JSON form: shares before and now, without the hours; warn where nobody writes them."""
    _warn_if_stale(state)
    content: dict[str, Any] = {}
    for index, order, drift in _all(state):
        day = drift.day
        content.setdefault(index, {})[order] = {
            "source": drift.source,
            "searches": {kind: day.searches(kind) for kind in day.kinds()},
            "shifts": dict(drift.shifts),
            "intervals": {
                kind: interval.to_dict()
                for kind, interval in day.shift_intervals_from(drift.reference).items()
                if kind in drift.shifts
            },
            "reference": drift.reference.to_dict(),
            "day": day.to_dict(),
        }
    return {"written": state.written, "searches": content}


def _all(state: DriftState) -> Iterator[tuple[str, str, SearchDrift]]:
    for index, orders in state.searches.items():
        for order, drift in orders.items():
            yield index, order, drift


def _verdict(drift: SearchDrift, day: SearchProfile, kind: str, interval: Interval | None) -> str:
    shift = drift.shifts.get(kind)
    if shift is not None:
        word = "far" if shift >= LARGE_SHIFT else "a little" if shift >= SMALL_SHIFT else "no"
        if interval is None:
            return f"{word} ({shift:.2f})"
        if not interval.low:
            return f"{word} ({shift:.2f}, no more than noise)"
        return f"{word} ({shift:.2f}; {interval.low:.2f} to {interval.high:.2f})"
    known = drift.reference.searches("tokens")
    if drift.source == "first searches" and known < FIRST_SEARCHES:
        return f"not known: {known:,} of the first {FIRST_SEARCHES:,} searches"
    return "not known: too few searches" if day.searches(kind) else "not known"


def _shown(profile: SearchProfile, kind: str) -> str:
    """Return a distribution in a few numbers."""
    counts = np.array(getattr(profile, kind))
    total = counts.sum()
    if not total:
        return "-"
    if kind == "level":
        names = ("none", "0", "1", "2", "3")
        shares = [f"{name}: {share:.0%}" for name, share in zip(names, counts / total, strict=True) if share]
        return " ".join(shares)
    if kind == "unknown":
        return f"{1 - counts[0] / total:.1%}"
    low, middle, high = np.searchsorted(np.cumsum(counts), np.array([0.1, 0.5, 0.9]) * total)
    if kind == "tokens":
        return f"{middle} (80 % in {low}-{high})"
    scale = len(counts)
    return f"{middle / scale:.2f} (80 % in {low / scale:.2f}-{high / scale:.2f})"
