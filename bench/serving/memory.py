"""Resident memory of a process that encodes, and its growth over calls of mixed shapes.

The processes run one after the other: memory does not depend on the machine's mood, and the times beside it
are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.harness.interleave import time_fields
from bench.serving.children import mixed_shapes
from bench.serving.encode_bulk import texts_of_mixed_length
from bench.serving.peers import OURS, PEERS, note, wanted
from bench.serving.processes import answer, start_child
from bench.serving.settings import Settings

SOAK = 100_000  # calls of the default file
CALLS = 500  # calls of every encoder, peers too
SETTLED = 1000  # growth is counted from here


def run(settings: Settings) -> list[dict[str, Any]]:
    """Let each encoder make some calls."""
    return _called("memory", settings, wanted(settings), CALLS)


def soak(settings: Settings) -> list[dict[str, Any]]:
    """Let relsdk's default file make many."""
    return _called("soak", settings, OURS[:1], 1000 if settings.small else SOAK)


def _called(suite: str, settings: Settings, names: Sequence[str], calls: int) -> list[dict[str, Any]]:
    texts, rows = texts_of_mixed_length(settings, 1000), []
    for name in names:
        found = answer(start_child(settings, "soak", name, calls=calls, texts=texts))
        if "absent" in found:
            settings.absent.setdefault(name, found["absent"])
            continue
        if name in PEERS:
            note(settings, PEERS[name].package)
        rows.append(_row(suite, name, found, calls, sum(map(len, mixed_shapes(texts, calls)))))
    return rows


def memory_of(curve: dict[str, list[float]], settled: int) -> dict[str, Any]:
    """Return what a curve of memory says.

    Args:
        curve: `calls` and `mb`, the first at 0 calls.
        settled: Growth is counted from this many calls on.
    """
    calls, mb = np.array(curve["calls"]), np.array(curve["mb"])
    start = float(mb[np.searchsorted(calls, settled)])
    return {
        "resident_mb": float(mb[-1]),
        "peak_mb": float(mb.max()),
        "settled_mb": start,
        "settled_after_calls": settled,
        "growth_percent": round((float(mb[-1]) / start - 1.0) * 100, 3),
        "series": {"calls": calls.tolist(), "mb": mb.tolist()},
    }


def _row(suite: str, name: str, found: dict[str, Any], calls: int, texts: int) -> dict[str, Any]:
    seconds = np.array(found["seconds"])
    memory = memory_of(found, min(SETTLED, calls // 10))
    return {
        "suite": suite,
        "case": f"{calls:,} calls",
        "contender": name,
        "role": "ours" if name in OURS else "peer",
        "parameters": {"calls": calls, "texts_in_a_call": "1 to 4"},
        "samples": len(seconds),
        **time_fields(seconds),
        "throughput": float(f"{texts / seconds.sum():.6g}"),
        "throughput_unit": "texts",
        "quality": {"growth_percent": memory["growth_percent"]},
        "memory": memory,
    }
