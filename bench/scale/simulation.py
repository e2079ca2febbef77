"""Hours, cores, bytes and cost of each step for collections that nobody measured: pure functions.

N documents, W cores on machines of some cores each. Every step says the arithmetic behind its hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.scale.growth import (
    graph_seconds,
    open_bytes_per_document,
    peak_bytes_per_document,
    per_document,
    search_growth,
)
from bench.scale.limits import Limit, find_limits, first_limit
from bench.scale.records import PREMISES, Assumptions, Rates

__all__ = ["Step", "query_costs", "simulate", "steps", "storage"]

HOUR, GB = 3600.0, 1e9
_HOURS_A_MONTH = 730.0


@dataclass(frozen=True)
class Step:
    """One step of N documents on W cores.

    Attributes:
        name: Which.
        hours: From its start to its end.
        cores: How many it uses.
        core_hours: Hours of each of them.
        cost: Of these, US dollars.
        bytes_written: What is on the disks afterwards.
        arithmetic: Where the hours come from.
    """

    name: str
    hours: float
    cores: int
    core_hours: float
    cost: float
    bytes_written: float
    arithmetic: str


def simulate(
    rates: Rates, assumed: Assumptions, documents: Sequence[int], cores: Sequence[int]
) -> dict[str, Any]:
    """Return steps, storage, queries and limits as JSON values."""
    limits = find_limits(rates, assumed)
    first = first_limit(limits)
    return {
        "assumptions": asdict(assumed),
        "premises": PREMISES,
        "limits": [asdict(limit) for limit in limits],
        "first_limit": first.name,
        "collections": [
            {
                "documents": count,
                "exceeded": [limit.name for limit in limits if _exceeds(count, limit)],
                "storage": storage(rates, assumed, count),
                "queries": query_costs(rates, assumed, count),
                "steps": [asdict(step) for width in cores for step in steps(rates, assumed, count, width)],
            }
            for count in documents
        ],
    }


def _exceeds(documents: int, limit: Limit) -> bool:
    return limit.documents is not None and documents > limit.documents


def steps(rates: Rates, assumed: Assumptions, documents: int, cores: int) -> list[Step]:
    """Return the steps in their order; the last is what a new model costs."""
    every = [
        _plan(rates, assumed, documents),
        _encode(rates, assumed, documents, cores),
        _verify(rates, assumed, documents),
        _folders(rates, assumed, documents, cores),
        _store(rates, assumed, documents, cores),
    ]
    plan, encode, _, _, store = every
    again = (plan, encode, store)
    name = "encode again with a new model, into a new store"
    hours, core_hours = (sum(getattr(step, key) for step in again) for key in ("hours", "core_hours"))
    written = sum(step.bytes_written for step in again)
    arithmetic = "plan + encode + store; parts and store are there twice until the old ones are removed"
    return [*every, _step(assumed, name, hours, cores, core_hours, written, arithmetic)]


def _step(
    assumed: Assumptions,
    name: str,
    hours: float,
    cores: int,
    core_hours: float,
    written: float,
    arithmetic: str,
) -> Step:
    cost = core_hours * assumed.price_core_hour
    return Step(name, hours, cores, core_hours, cost, written, arithmetic)


def _plan(rates: Rates, assumed: Assumptions, n: int) -> Step:
    hours = n / rates.plan_rows_per_s / HOUR
    arithmetic = f"{n:,} rows / {rates.plan_rows_per_s:,.0f} rows/s, one core"
    return _step(assumed, "plan: check and count the input", hours, 1, hours, 0.0, arithmetic)


def _encode(rates: Rates, assumed: Assumptions, n: int, cores: int) -> Step:
    """Each worker computes its share, and reads all rows before its own on the way there."""
    texts_s = _texts_per_s(rates, assumed)
    share = assumed.worker_share if cores > 1 else 1.0
    part_bytes = n * rates.part_bytes_per_row
    computing = n / (texts_s * cores * share) / HOUR
    reading = n / rates.skip_rows_per_s / HOUR
    writing = part_bytes / rates.write_bytes_per_s / cores / HOUR
    machines = math.ceil(cores / assumed.machine_cores)
    moved = machines * n * rates.input_bytes_per_row + part_bytes
    bandwidth = min(machines * assumed.network_gb_s, assumed.storage_gb_s) * GB
    network = moved / bandwidth / HOUR
    hours = max(computing + reading + writing, network)
    arithmetic = (
        f"{n:,} / ({texts_s:,.1f} texts/s x {cores} x {share:g}) = {computing:,.2f} h, + every worker passes "
        f"the input at {rates.skip_rows_per_s:,.0f} rows/s = {reading:,.2f} h, + parts written = "
        f"{writing:,.2f} h; the shared file system alone would take {network:,.2f} h"
    )
    return _step(assumed, "encode into parts", hours, cores, hours * cores, part_bytes, arithmetic)


def _texts_per_s(rates: Rates, assumed: Assumptions) -> float:
    return rates.tokens_per_s / (assumed.document_tokens or rates.tokens_per_text)


def _verify(rates: Rates, assumed: Assumptions, n: int) -> Step:
    size = n * rates.part_bytes_per_row
    hours = size / rates.verify_bytes_per_s / HOUR
    arithmetic = f"{size / GB:,.0f} GB of parts / {rates.verify_bytes_per_s / 1e6:,.0f} MB/s, one core"
    return _step(assumed, "verify all parts: a second start", hours, 1, hours, 0.0, arithmetic)


def _folders(rates: Rates, assumed: Assumptions, n: int, cores: int) -> Step:
    """As few index folders as fit in the memory of a machine each."""
    most = int(assumed.machine_ram_gb * GB / peak_bytes_per_document(rates))
    folders = math.ceil(n / most)
    each = n / folders
    threads = min(cores, assumed.machine_cores)
    share = assumed.graph_thread_share if threads > 1 else 1.0
    reading = each * rates.part_bytes_per_row / rates.verify_bytes_per_s / HOUR
    rest = each * rates.rest_s_per_document / HOUR
    graph = graph_seconds(rates, each) / (threads * share) / HOUR
    one = reading + rest + graph
    rounds = math.ceil(folders / max(1, cores // assumed.machine_cores))
    arithmetic = (
        f"{folders:,} x {each:,.0f} documents, as {assumed.machine_ram_gb:g} GB hold at most {most:,}; "
        f"each: parts read {reading:,.2f} h, documents and words {rest:,.2f} h, graph by {threads} threads "
        f"{graph:,.2f} h; {rounds} one after another"
    )
    if folders > 1:
        arithmetic += "; relsdk searches one folder at a time: take a store"
    written = n * _index_bytes(rates)
    core_hours = one * threads * folders
    used = min(cores, threads * folders)
    return _step(assumed, "index in folders", one * rounds, used, core_hours, written, arithmetic)


def _index_bytes(rates: Rates) -> float:
    return sum(size for kind, size in per_document(rates).items() if kind != "vectors, int8")


def _store(rates: Rates, assumed: Assumptions, n: int, cores: int) -> Step:
    """One process loads, then the store's machines build their graphs at our rate."""
    sent = n * (4.0 * rates.dimension + rates.input_bytes_per_row)
    checking = n / rates.loader_documents_per_s / HOUR
    network = sent / (assumed.network_gb_s * GB) / HOUR
    load = max(checking, network)
    share = assumed.graph_thread_share if cores > 1 else 1.0
    segments = math.ceil(n / assumed.segment_documents)
    graph = segments * graph_seconds(rates, n / segments) * assumed.replicas / HOUR
    hours = load + graph / (cores * share)
    arithmetic = (
        f"one loader {load:,.2f} h (checks {checking:,.2f} h, network {network:,.2f} h), then {segments:,} "
        f"graphs: {graph:,.1f} core hours / ({cores} x {share:g})"
    )
    each = per_document(rates)
    written = n * (each["graph"] + each["documents"]) * assumed.replicas
    core_hours = load + graph / share
    return _step(assumed, "load into a store", hours, cores, core_hours, written, arithmetic)


def storage(rates: Rates, assumed: Assumptions, documents: int) -> dict[str, dict[str, float]]:
    """Return bytes and US dollars of what is kept, by its kind."""
    each = {"input": rates.input_bytes_per_row, "parts": rates.part_bytes_per_row, **per_document(rates)}
    price = assumed.price_gb_month * assumed.months / GB
    return {
        kind: {"bytes": documents * size, "cost": documents * size * price} for kind, size in each.items()
    }


def query_costs(rates: Rates, assumed: Assumptions, documents: int) -> dict[str, dict[str, Any]]:
    """Return what a query costs in one folder, in a store, and when it is exact.

    A store searches the graph of every segment. Memory is what an open index takes of its own: the
    graphs, which hold the vectors, above all.
    """
    growth = search_growth(rates)
    segments = math.ceil(documents / assumed.segment_documents)
    exact = documents * 4.0 * rates.dimension / rates.exact_bytes_per_s * 1e3
    graphs = documents * open_bytes_per_document(rates)
    ways = {
        "one folder": (growth.at(documents), graphs, 1),
        "a store": (segments * growth.at(documents / segments), graphs * assumed.replicas, segments),
        "exact": (exact, documents * 4.0 * rates.dimension, 1),
    }
    found = {name: _serving(rates, assumed, *way) for name, way in ways.items()}
    found["one folder"]["fits"] = found["one folder"]["machines_for_memory"] <= 1
    return found


def _serving(
    rates: Rates, assumed: Assumptions, search_ms: float, memory: float, graphs: int
) -> dict[str, Any]:
    cpu_ms = rates.query_ms + search_ms
    cores = assumed.queries_per_s * cpu_ms / 1e3
    by_memory = math.ceil(memory / (assumed.machine_ram_gb * GB))
    machines = max(math.ceil(cores / assumed.machine_cores), by_memory)
    hours = machines * assumed.machine_cores * _HOURS_A_MONTH * assumed.months
    return {
        "graphs": graphs,
        "search_ms": search_ms,
        "cpu_ms": cpu_ms,
        "cores": cores,
        "memory_bytes": memory,
        "machines": machines,
        "machines_for_memory": by_memory,
        "fits": True,
        "cost": hours * assumed.price_core_hour,
    }
