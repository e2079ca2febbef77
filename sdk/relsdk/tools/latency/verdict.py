"""Turn latencies into an answer: the k that fits, with or without a scorer, and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from relsdk.tools.latency.latencies import ENCODER, IN_BUDGET, SCORER, Facts, Latency, Parts

__all__ = ["Verdict", "decide"]

# Queries that occurred before, from which on a cache of their vectors is worth naming.
_MANY_REPEATED = 0.05
# Timed searches from which on p99 says more than the slowest of them.
_FEW_CALLS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer.

    Attributes:
        budget_ms: What p99 may take.
        fits: Whether at least the smallest k fits without the scorer.
        k_without_scorer: The largest k measured that fits; 0 when none does.
        k_with_scorer: The largest k that fits with all candidates scored; 0 when none does or there is none.
        summary: One sentence.
        advice: What to change, the most effective first; empty when everything fits.
        caution: What weakens the measurement; empty when nothing does.
    """

    budget_ms: float
    fits: bool
    k_without_scorer: int
    k_with_scorer: int
    summary: str
    advice: tuple[str, ...]
    caution: tuple[str, ...]


def decide(latencies: Sequence[Latency], parts: Parts, facts: Facts, budget_ms: float) -> Verdict:
    """Answer from the latencies of all modes and k, of at least the mode "encoder"."""
    plain, scored = _largest_fitting(latencies, ENCODER), _largest_fitting(latencies, SCORER)
    has_scorer = any(row.mode == SCORER for row in latencies)
    advice: list[str] = []
    if any(row.mode == ENCODER and not row.fits for row in latencies):
        advice += _faster_search(latencies, parts, facts)
    if any(row.mode == SCORER and not row.fits for row in latencies):
        advice += _faster_scoring(latencies, facts, budget_ms)
    fewest = min(row.calls for row in latencies)
    caution = []
    if fewest < _FEW_CALLS:
        caution.append(
            f"one way was timed only {fewest} times, so p99 is near the slowest of them: give more queries, "
            "--repeats or --seconds"
        )
    if facts.documents < max(row.k for row in latencies):
        caution.append(
            f"there are {facts.documents:,} documents, fewer than the largest k: give as many as "
            "you will serve"
        )
    if facts.threads > facts.cpus:
        caution.append(f"{facts.threads} threads share {facts.cpus} CPUs, so they wait for each other")
    return Verdict(
        budget_ms=budget_ms,
        fits=plain > 0,
        k_without_scorer=plain,
        k_with_scorer=scored,
        summary=_summary(latencies, plain, scored, has_scorer, budget_ms),
        advice=tuple(advice),
        caution=tuple(caution),
    )


def _largest_fitting(latencies: Sequence[Latency], mode: str) -> int:
    """Return the largest k up to which every k fits; 0 when the smallest does not."""
    rows = sorted((row for row in latencies if row.mode == mode), key=lambda row: row.k)
    return max((row.k for row in takewhile(lambda row: row.fits, rows)), default=0)


def _summary(
    latencies: Sequence[Latency], plain: int, scored: int, has_scorer: bool, budget_ms: float
) -> str:
    fastest = min((row for row in latencies if row.mode == ENCODER), key=lambda row: row.k)
    budget = f"{budget_ms:g} ms at p99"
    if not plain:
        took = f"k={fastest.k} without a scorer takes {fastest.p99:.1f} ms at p99"
        return f"No: {took}, {budget_ms:g} are allowed."
    answer = f"Yes: within {budget} up to k={plain} without a scorer"
    if not has_scorer:
        return f"{answer}."
    if scored:
        return f"{answer}, up to k={scored} with all candidates scored."
    within = [row for row in latencies if row.mode == IN_BUDGET and row.fits and row.scored > 0]
    if within:
        row = max(within, key=lambda one: one.k)
        return (
            f"{answer}; not with all candidates scored, but with budget_ms, which scores about "
            f"{row.scored:.0f} of {row.candidates:.0f} at k={row.k}."
        )
    return f"{answer}, but with the scorer at no k."


def _faster_search(latencies: Sequence[Latency], parts: Parts, facts: Facts) -> list[str]:
    """Name what makes encoding and retrieval faster, the larger part first."""
    fitting = _largest_fitting(latencies, ENCODER)
    advice = [f"ask for fewer hits: k={fitting} fits"] if fitting else []
    encode, retrieve = _faster_encoding(facts), []
    if facts.smaller_dimensions:
        cut = max(facts.smaller_dimensions)
        retrieve.append(f"cut the vectors from {facts.dimension} to {cut} dimensions: --dim {cut}")
    else:
        retrieve.append(
            "train with a Matryoshka loss, so that vectors can be cut to fewer dimensions: --dim DIM"
        )
    if facts.ef_search:
        retrieve.append(f"search with less effort than ef_search={facts.ef_search}, which costs some recall")
    else:
        retrieve.append(f"search the {facts.documents:,} documents with a graph: --kind hnsw for the index")
    ordered = encode + retrieve if parts.encode >= parts.retrieve else retrieve + encode
    return [*advice, *ordered]


def _faster_encoding(facts: Facts) -> list[str]:
    advice = []
    if facts.quantisation != "int8":
        if facts.int8_variant:
            advice.append(f"load the int8 file: --variant {facts.int8_variant}")
        else:
            advice.append("export an int8 file: relsdk export encoder CHECKPOINT BUNDLE")
    if not facts.query_tower:
        advice.append(
            "give queries a smaller encoder in the same space: relsdk train distill, then relsdk export "
            "encoder --query-tower"
        )
    if facts.threads < facts.cpus:
        advice.append(
            f"use more threads for a query: --threads {facts.cpus}; fewer queries a second per core"
        )
    if facts.repeated >= _MANY_REPEATED:
        advice.append(
            f"keep the vectors of queries, {facts.repeated:.0%} occur again: Embedder(query_cache=N)"
        )
    return advice


def _faster_scoring(latencies: Sequence[Latency], facts: Facts, budget_ms: float) -> list[str]:
    """Name what lets a scorer fit."""
    advice = []
    within = [row for row in latencies if row.mode == IN_BUDGET and row.scored >= 1]
    for row in within[:1]:
        advice.append(
            f"score what fits: Searcher.search(budget_ms={budget_ms:g}) scores about {row.scored:.0f} of "
            f"{row.candidates:.0f} candidates at k={row.k}" + ("" if row.fits else f", p99 {row.p99:.1f} ms")
        )
    per_candidate = _milliseconds_per_candidate(latencies)
    plain = min((row for row in latencies if row.mode == ENCODER), key=lambda row: row.k)
    if per_candidate > 0:
        room = int(max(budget_ms - plain.p99, 0.0) / per_candidate)
        advice.append(
            f"re-score fewer candidates: one costs {per_candidate:.2f} ms, so about {room} fit; rank with "
            "fewer hits, or cut the documents' text"
        )
    if facts.scorer_quantisation != "int8":
        advice.append("export the scorer as int8: relsdk export scorer CHECKPOINT BUNDLE")
    if facts.threads < facts.cpus:
        advice.append(f"use more threads for the scorer: --threads {facts.cpus}")
    return advice


def _milliseconds_per_candidate(latencies: Sequence[Latency]) -> float:
    """Return what scoring adds for each candidate, from medians at the smallest k; 0 when it is not known."""
    plain = {row.k: row for row in latencies if row.mode == ENCODER}
    for row in latencies:
        if row.mode == SCORER and row.k in plain and row.scored > 0:
            return max(row.p50 - plain[row.k].p50, 0.0) / row.scored
    return 0.0
