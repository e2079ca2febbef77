"""Figures of what was timed: medians, recall, the share of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.serving.quality import recall


def calls(walls: Sequence[float], cpus: Sequence[float]) -> dict[str, Any]:
    """Return percentiles in milliseconds, of the clock and of the CPU's time."""
    wall, cpu = np.array(walls) * 1e3, np.array(cpus) * 1e3
    return {
        "calls": len(walls),
        "p50_ms": short(np.median(wall)),
        "p95_ms": short(np.percentile(wall, 95)),
        "cpu_p50_ms": short(np.median(cpu)),
    }


def searches(
    answers: Sequence[dict[str, Any]], starts: Sequence[int], exact: list[list[int]]
) -> dict[str, Any]:
    """Join the blocks of searches, each from a query on, and say what share of the nearest was found."""
    walls = [wall for answer in answers for wall in answer["wall_s"]]
    cpus = [cpu for answer in answers for cpu in answer["cpu_s"]]
    found, wanted = [], []
    for answer, start in zip(answers, starts, strict=True):
        found += answer["found"]
        wanted += [exact[(start + at) % len(exact)] for at in range(len(answer["found"]))]
    return {**calls(walls, cpus), "recall_at_10": short(recall(found, wanted))}


def rounded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary with its numbers cut to six digits."""
    return {key: short(value) if isinstance(value, float) else value for key, value in content.items()}


def median_of(answers: Iterable[dict[str, float]]) -> dict[str, Any]:
    """Return the median seconds of some changes, and each."""
    kept = list(answers)
    walls = [short(one["wall_s"]) for one in kept]
    return {
        "wall_s": short(np.median(walls)),
        "cpu_s": short(np.median([one["cpu_s"] for one in kept])),
        "each_wall_s": walls,
        "each_cpu_s": [short(one["cpu_s"]) for one in kept],
    }


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(np.median(values))


def short(value: Any) -> float:
    """Return six digits: more would be noise, and results are committed."""
    return float(f"{value:.6g}")
