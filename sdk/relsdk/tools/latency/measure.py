"""Time whole searches of every kind by turns, so that a noisy moment of the machine falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.variants import choose_variant
from relsdk.search.searcher import Searcher
from relsdk.search.time_budget import Clock
from relsdk.tools.latency.latencies import ENCODER, IN_BUDGET, SCORER, Facts, Latency, Parts, latency
from relsdk.tools.latency.verdict import Verdict, decide

__all__ = ["KS", "Benchmark", "Plan", "run_benchmark"]

KS = (10, 50, 100)
_WARMUP_CALLS = 3
_BLOCK = 10  # searches of one kind before the next kind has its turn

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The measurements to take.

    Attributes:
        budget_ms: What p99 may take.
        ks: Numbers of hits.
        repeats: How often each query is searched in each way, at most.
        seconds: Time for each way, at most; at least one block is measured.

    Raises:
        InputError: A value is out of range.
    """

    budget_ms: float
    ks: tuple[int, ...] = KS
    repeats: int = 3
    seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("budget_ms", "repeats", "seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r}; a number above 0 is needed")
        if not self.ks or min(self.ks) < 1:
            raise InputError(f"ks={self.ks!r}; whole numbers of at least 1 are needed")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The results of a benchmark.

    Attributes:
        model: The encoder's name.
        variant: Its file.
        scorer: The scorer's name; None without one.
        scorer_variant: The scorer's file; None without one.
        queries: How many different lines were searched.
        latencies: One row for each way and k.
        parts: What a search consists of.
        facts: What the advice is from.
        verdict: The answer.
    """

    model: str
    variant: str
    scorer: str | None
    scorer_variant: str | None
    queries: int
    latencies: tuple[Latency, ...]
    parts: Parts
    facts: Facts
    verdict: Verdict


@dataclass(slots=True)
class _Way:
    """One kind of search, and its times so far."""

    mode: str
    k: int
    searcher: Searcher
    budget_ms: float | None
    seconds: list[float] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)

    def run(self, query: str, clock: Clock, *, counted: bool) -> None:
        started = clock()
        result = self.searcher.search(query, self.k, budget_ms=self.budget_ms)
        took = clock() - started
        if counted:
            self.seconds.append(took)
            self.candidates.append(result.candidates)
            self.scored.append(result.scored)

    def latency(self, threads: int, budget_ms: float) -> Latency:
        return latency(
            self.mode,
            self.k,
            self.seconds,
            threads=threads,
            budget_ms=budget_ms,
            candidates=self.candidates,
            scored=self.scored,
        )


def run_benchmark(
    embedder: Embedder,
    index: Index,
    queries: Sequence[str],
    plan: Plan,
    *,
    scorer: RelevanceScorer | None = None,
    clock: Clock = time.perf_counter,
    on_progress: Progress | None = None,
) -> Benchmark:
    """Search every query in every way and decide what fits.

    Args:
        embedder: The encoder that built the index.
        index: The documents.
        queries: What users typed, at least one.
        plan: What to measure.
        scorer: Re-scores; None measures without one only.
        clock: Seconds that never go back.
        on_progress: Called with ("search", searches done).

    Raises:
        InputError: There are no queries, or one is empty or too long.
        EncoderMismatchError: The index was built by another encoder.
    """
    if not queries:
        raise InputError("there are no queries; give at least one")
    ways = _ways(embedder, index, scorer, plan, clock)
    _take_turns(ways, queries, plan, clock, on_progress)
    latencies = tuple(way.latency(embedder.threads, plan.budget_ms) for way in ways)
    parts = _parts(embedder, index, queries, plan, clock)
    facts = _facts(embedder, index, queries, scorer)
    return Benchmark(
        model=embedder.name,
        variant=embedder.variant.name,
        scorer=None if scorer is None else scorer.model.bundle.name,
        scorer_variant=None if scorer is None else scorer.model.variant.name,
        queries=len(set(queries)),
        latencies=latencies,
        parts=parts,
        facts=facts,
        verdict=decide(latencies, parts, facts, plan.budget_ms),
    )


def _ways(
    embedder: Embedder, index: Index, scorer: RelevanceScorer | None, plan: Plan, clock: Clock
) -> list[_Way]:
    """Return the kinds of searches to measure, with their models loaded and run."""
    plain = Searcher(embedder, index, clock=clock)
    plain.warmup()
    ways = [_Way(ENCODER, k, plain, None) for k in plan.ks]
    if scorer is None:
        return ways
    rescoring = Searcher(embedder, index, scorer, clock=clock)
    rescoring.warmup()
    ways += [_Way(SCORER, k, rescoring, None) for k in plan.ks]
    return ways + [_Way(IN_BUDGET, k, rescoring, plan.budget_ms) for k in plan.ks]


def _take_turns(
    ways: Sequence[_Way], queries: Sequence[str], plan: Plan, clock: Clock, on_progress: Progress | None
) -> None:
    """Give each way a block of searches in turn, until it has all its queries or its time is used up."""
    for way in ways:
        started = clock()
        for query in queries[:_WARMUP_CALLS]:
            way.run(query, clock, counted=False)
            if clock() - started > plan.seconds / 10:  # slow enough to be warm
                break
    wanted, done = len(queries) * plan.repeats, 0
    for start in range(0, wanted, _BLOCK):
        open_ways = [way for way in ways if sum(way.seconds) < plan.seconds]
        for way in open_ways:
            for position in range(start, min(start + _BLOCK, wanted)):
                way.run(queries[position % len(queries)], clock, counted=True)
                done += 1
                if sum(way.seconds) >= plan.seconds:
                    break
        if on_progress is not None:
            on_progress("search", done)
        if not open_ways:
            break


def _parts(embedder: Embedder, index: Index, queries: Sequence[str], plan: Plan, clock: Clock) -> Parts:
    encode, retrieve = list[float](), list[float]()
    for query in queries[:1000]:
        if sum(encode) + sum(retrieve) >= plan.seconds:
            break
        started = clock()
        vector = embedder.encode_query(query)  # (D,)
        encoded = clock()
        index.search(vector, min(plan.ks))
        retrieve.append(clock() - encoded)
        encode.append(encoded - started)
    p99 = [float(np.percentile(part, 99)) * 1e3 for part in (encode, retrieve)]
    return Parts(encode=p99[0], retrieve=p99[1])


def _facts(embedder: Embedder, index: Index, queries: Sequence[str], scorer: RelevanceScorer | None) -> Facts:
    settings, best = embedder.bundle.encoder_settings, choose_variant(embedder.bundle)
    info = index.info()
    return Facts(
        quantisation=embedder.variant.quantisation,
        int8_variant=best.name if best.quantisation == "int8" else "",
        query_tower=bool(embedder.variant.query_file),
        dimension=embedder.dimension,
        smaller_dimensions=tuple(dim for dim in settings.matryoshka_dims if dim < embedder.dimension),
        threads=embedder.threads,
        cpus=choose_threads().threads,
        repeated=1.0 - len(set(queries)) / len(queries),
        scorer_quantisation="" if scorer is None else scorer.model.variant.quantisation,
        ef_search=info.config.ef_search if info.kind == "hnsw" else 0,
        documents=info.count,
    )
