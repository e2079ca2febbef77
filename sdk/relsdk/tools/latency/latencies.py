"""Latencies, and the facts of model and machine that the advice needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ENCODER", "IN_BUDGET", "SCORER", "Facts", "Latency", "Parts", "latency"]

# How a search is run: without a scorer; with one that sees all candidates; with what the budget leaves it.
ENCODER, SCORER, IN_BUDGET = "encoder", "scorer", "scorer within budget"


@dataclass(frozen=True, slots=True)
class Latency:
    """Whole searches of one kind, one at a time.

    Attributes:
        mode: "encoder", "scorer" or "scorer within budget".
        k: Hits asked for.
        calls: How many searches were timed.
        p50: Milliseconds; so are p90, p95 and p99. Of fewer than 100 calls, p99 is near the slowest.
        p90: See p50.
        p95: See p50.
        p99: See p50.
        queries_per_second: Of one caller, divided by the threads: per core.
        candidates: Mean number of documents that were retrieved.
        scored: Mean number of them that the scorer saw.
        fits: Whether p99 is within the budget.
    """

    mode: str
    k: int
    calls: int
    p50: float
    p90: float
    p95: float
    p99: float
    queries_per_second: float
    candidates: float
    scored: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """The p99 of the parts of a search, in milliseconds.

    Attributes:
        encode: A query to its vector.
        retrieve: The vector to the documents of the smallest k.
    """

    encode: float
    retrieve: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of model and machine that could be changed.

    Attributes:
        quantisation: Of the encoder's file: "fp32", "int8" or another name.
        int8_variant: An int8 file that the bundle has and this CPU runs; empty when there is none.
        query_tower: Whether queries have a smaller encoder of their own.
        dimension: Of the vectors.
        smaller_dimensions: Those below it that the model was trained to be cut to.
        threads: Threads per operator.
        cpus: What this process may use.
        repeated: Share of the queries that occurred before, in the file's order.
        scorer_quantisation: Of the scorer's file; empty without a scorer.
        ef_search: Search effort of the index; 0 for exact search.
        documents: How many the index holds.
    """

    quantisation: str
    int8_variant: str
    query_tower: bool
    dimension: int
    smaller_dimensions: tuple[int, ...]
    threads: int
    cpus: int
    repeated: float
    scorer_quantisation: str
    ef_search: int
    documents: int


def latency(
    mode: str,
    k: int,
    seconds: Sequence[float],
    *,
    threads: int,
    budget_ms: float,
    candidates: Sequence[int],
    scored: Sequence[int],
) -> Latency:
    """Summarise timed searches, at least one.

    Args:
        mode: How they were run.
        k: Hits asked for.
        seconds: How long each took.
        threads: How many cores they kept busy.
        budget_ms: What p99 is compared with.
        candidates: Of each search.
        scored: Of each search.
    """
    milliseconds = np.asarray(seconds, dtype=np.float64) * 1e3
    p50, p90, p95, p99 = np.percentile(milliseconds, [50, 90, 95, 99]).tolist()
    return Latency(
        mode=mode,
        k=k,
        calls=len(seconds),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        queries_per_second=len(seconds) / max(float(np.sum(seconds)), 1e-9) / threads,
        candidates=float(np.mean(candidates)),
        scored=float(np.mean(scored)),
        fits=p99 <= budget_ms,
    )
