"""Contenders timed by turns: A A A B B B, then B B B A A A, and so on; ratios within rounds; noise from A/A.

A slow moment of the machine meets all contenders of a round, every second round runs in reverse order so that
a drift cancels, and the first calls of a block, which fetch its weights back into the cache, are not counted.
One contender runs twice, as itself and as its copy: what the two differ by is the noise.

Shape letters: R rounds, C calls of a block.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.results_format.statistics import QUANTILES, Noise, median_estimate, noise_of, percentiles

COPY = "copy"
_PRODUCTS = 48  # about 5 ms
Clock = Callable[[], float]


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        name: How results call it.
        call: Does one unit of work; takes the number of the input, so that all contenders work on the same.
        role: "ours", "peer" or "yardstick".
        items: How many texts, documents or queries one call handles; for the throughput.
        quality: Figures that belong to the time.
        extra: What else the row shall say.
        before: Runs before each call, not timed.
        after: Runs after each call on its result, not timed.
    """

    name: str
    call: Callable[[int], Any]
    role: str = "peer"
    items: int = 1
    quality: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], Any] | None = None
    after: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Plan:
    """How much is run: `rounds` blocks of `calls` timed calls by each of `threads`, `warmup` before each."""

    rounds: int
    calls: int
    warmup: int = 3
    threads: int = 1


@dataclass(frozen=True)
class Times:
    """Of one contender.

    Attributes:
        seconds: (R, C) one call each (C = calls x threads).
        walls: (R,) seconds that each block took from its first call to its last.
    """

    seconds: NDArray[np.float64]
    walls: NDArray[np.float64]

    def round_seconds(self, threads: int) -> NDArray[np.float64]:
        """(R,) what a call took in each round: the median call, or with several threads the wall's share."""
        return np.median(self.seconds, axis=1) if threads == 1 else self.walls / self.seconds.shape[1]


def run_blocks(contenders: Sequence[Contender], plan: Plan, clock: Clock = time.perf_counter) -> list[Times]:
    """Time every contender on the same inputs, in blocks by turns."""
    blocks: list[list[tuple[list[float], float]]] = [[] for _ in contenders]
    gc.collect()
    gc.freeze()  # what is loaded by now is not searched for garbage during somebody's call
    try:
        for number in range(plan.rounds):
            turn = list(enumerate(contenders))
            for place, contender in turn if number % 2 == 0 else turn[::-1]:
                blocks[place].append(_block(contender, number, plan, clock))
    finally:
        gc.unfreeze()
    return [
        Times(np.array([calls for calls, _ in rounds]), np.array([wall for _, wall in rounds]))
        for rounds in blocks
    ]


def measure(
    suite: str,
    case: str,
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    parameters: dict[str, Any] | None = None,
    unit: str = "calls",
    clock: Clock = time.perf_counter,
) -> list[dict[str, Any]]:
    """Time the contenders and a copy of the first; return one result row each, the copy's left out.

    Args:
        suite: Name of the suite.
        case: Name of the case.
        contenders: The first is what ratios refer to.
        plan: How much to run.
        parameters: What the case is made of.
        unit: What an item is, for the throughput.
        clock: Seconds; tests give another.
    """
    click.echo(f"{suite}: {case}", err=True)  # some cases take minutes
    first = contenders[0]
    everyone = [*contenders, replace(first, name=COPY)]
    times = run_blocks(everyone, plan, clock)
    rounds = [found.round_seconds(plan.threads) for found in times]
    noise = noise_of(rounds[0], rounds[-1])
    rows = []
    for contender, found, medians in zip(contenders, times, rounds, strict=False):
        row = {
            "suite": suite,
            "case": case,
            "contender": contender.name,
            "role": contender.role,
            "parameters": dict(parameters or {}),
            "samples": int(found.seconds.size),
            **time_fields(found.seconds),
            "throughput": _short(contender.items * found.seconds.size / found.walls.sum()),
            "throughput_unit": unit,
            "quality": dict(contender.quality),
            "noise": {name: _short(value) for name, value in noise.to_dict().items()},
            "round_medians_ms": [_short(value * 1e3) for value in medians],
            **contender.extra,
        }
        if contender is not first:
            row.update(_ratio_fields(first.name, medians, rounds[0], noise))
        rows.append(row)
    return rows


def time_fields(seconds: NDArray[np.float64]) -> dict[str, Any]:
    """Return a row's percentiles in milliseconds, and its quantiles."""
    milliseconds = seconds.ravel() * 1e3
    return {
        **{f"{name}_ms": _short(value) for name, value in percentiles(milliseconds).items()},
        "quantiles_ms": {str(q): _short(float(np.percentile(milliseconds, q))) for q in QUANTILES},
    }


def warnings_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say of which rows the noise drowns the difference."""
    return [
        f"{row['suite']}, {row['case']}: {row['contender']} against {row['ratio']['to']} is "
        f"{row['ratio']['median']:.2f}, within the noise (identical contenders: {row['noise']['floor']:.1%})"
        for row in rows
        if row.get("drowned") and row["role"] != "yardstick"
    ]


def yardstick() -> Contender:
    """Fixed arithmetic, which no change of ours touches: it shows how fast the machine was.

    It takes some milliseconds, as a query does: what takes less than a time slice of the scheduler does not
    notice that the CPU is shared.
    """
    # A rotation: other products vanish or overflow, and arithmetic on denormals is much slower.
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(160, 160)))[0].astype(np.float32)

    def work(_: int) -> float:
        product = matrix
        for _ in range(_PRODUCTS):
            product = product @ matrix
        return float(product[0, 0])

    return Contender("numpy products", work, role="yardstick")


def _ratio_fields(
    to: str, medians: NDArray[np.float64], reference: NDArray[np.float64], noise: Noise
) -> dict[str, Any]:
    found = median_estimate(medians / reference)
    ratio = {name: _short(value) for name, value in found.to_dict().items()}
    return {"ratio": {"to": to, **ratio}, "drowned": noise.drowns(found)}


def _block(contender: Contender, number: int, plan: Plan, clock: Clock) -> tuple[list[float], float]:
    """Return the seconds of each call of a block, and of the block without the warm-up."""
    start = number * plan.calls * plan.threads
    for warm in range(plan.warmup):
        _timed(contender, start - plan.warmup + warm, clock)  # inputs that this block does not time
    if plan.threads == 1:
        spans = [_timed(contender, start + i, clock) for i in range(plan.calls)]
        return [end - begin for begin, end in spans], sum(end - begin for begin, end in spans)
    barrier = threading.Barrier(plan.threads)

    def work(thread: int) -> list[tuple[float, float]]:
        barrier.wait()
        first = start + thread * plan.calls
        return [_timed(contender, first + i, clock) for i in range(plan.calls)]

    with ThreadPoolExecutor(plan.threads) as pool:
        spans = [span for found in pool.map(work, range(plan.threads)) for span in found]
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return [end - begin for begin, end in spans], wall


def _timed(contender: Contender, number: int, clock: Clock) -> tuple[float, float]:
    """Run one call; return when it began and ended."""
    if contender.before is not None:
        contender.before()
    begin = clock()
    result = contender.call(number)
    end = clock()
    if contender.after is not None:
        contender.after(result)
    return begin, end


def _short(value: float) -> float:
    """Six digits: more would be noise, and results are committed."""
    return float(f"{value:.6g}")
