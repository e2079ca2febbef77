"""What ends first when a collection grows: each limit as the number of documents at which it is reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.scale.growth import graph_seconds, open_bytes_per_document, peak_bytes_per_document
from bench.scale.records import Assumptions, Rates

__all__ = ["Limit", "find_limits", "first_limit", "most_workers"]

_GB, _HOUR = 1e9, 3600.0
# An index has at most three graphs and a tail after it was compacted.
_SEGMENTS = 4


@dataclass(frozen=True)
class Limit:
    """Something that ends.

    Attributes:
        name: What.
        documents: At how many documents; None where it does not depend on them.
        arithmetic: Why there.
        remedy: What to do then.
        optional: Whether it concerns only those who ask for it.
    """

    name: str
    documents: float | None
    arithmetic: str
    remedy: str
    optional: bool = False


def find_limits(rates: Rates, assumed: Assumptions) -> list[Limit]:
    """Return all limits, the first that is reached before the others."""
    found = [*_memory(rates, assumed), *_time(rates, assumed), *_files(rates, assumed)]
    return sorted(found, key=lambda limit: float("inf") if limit.documents is None else limit.documents)


def first_limit(limits: Sequence[Limit]) -> Limit:
    """Return the first that everybody meets."""
    return next(limit for limit in limits if not limit.optional)


def most_workers(rates: Rates, assumed: Assumptions) -> float:
    """Return at how many workers passing over the input takes each as long as its share of the encoding."""
    tokens = assumed.document_tokens or rates.tokens_per_text
    return rates.skip_rows_per_s / (rates.tokens_per_s / tokens * assumed.worker_share)


def _memory(rates: Rates, assumed: Assumptions) -> Iterator[Limit]:
    ram = assumed.machine_ram_gb * _GB
    for name, size, remedy in (
        (
            "memory to build one folder",
            peak_bytes_per_document(rates),
            "a machine with more memory, or a store",
        ),
        (
            "memory to search one folder",
            open_bytes_per_document(rates),
            "a machine with more memory, fewer dimensions, or a store",
        ),
        (
            "memory of the process that loads a store, for ids",
            rates.loader_bytes_per_document,
            "load in several files",
        ),
    ):
        yield Limit(name, ram / size, f"{assumed.machine_ram_gb:g} GB / {size:,.0f} bytes a document", remedy)


def _time(rates: Rates, assumed: Assumptions) -> Iterator[Limit]:
    threads = assumed.machine_cores * assumed.graph_thread_share
    budget = assumed.index_hours * _HOUR
    documents = _most_documents(rates, budget, threads)
    core_ms = graph_seconds(rates, documents) / documents * 1e3
    yield Limit(
        f"graph of one folder within {assumed.index_hours:g} h",
        documents,
        f"{assumed.index_hours:g} h x {assumed.machine_cores} threads x {assumed.graph_thread_share:g} / "
        f"{core_ms:.2f} core ms a document at that size, beside {rates.rest_s_per_document * 1e3:.2f} ms for "
        "documents and words",
        "a store, whose machines share the graphs",
    )
    serial = assumed.serial_hours * _HOUR
    for name, rate, remedy in (
        ("planning pass over the input", rates.plan_rows_per_s, "several input files, a command each"),
        (
            "verifying all parts at a second start",
            rates.verify_bytes_per_s / rates.part_bytes_per_row,
            "several input files, a folder each",
        ),
    ):
        arithmetic = f"{assumed.serial_hours:g} h x {rate:,.0f} rows/s, one core"
        yield Limit(f"{name} within {assumed.serial_hours:g} h", serial * rate, arithmetic, remedy)
    sent = 4.0 * rates.dimension + rates.input_bytes_per_row
    network = assumed.network_gb_s * _GB / sent
    for name, rate in (
        ("one process that loads a store", rates.loader_documents_per_s),
        ("network of the machine that loads", network),
    ):
        yield Limit(
            f"{name} within {assumed.index_hours:g} h",
            budget * rate,
            f"{assumed.index_hours:g} h x {rate:,.0f} documents/s",
            "several loaders, each with its own input",
        )
    scanned = rates.exact_bytes_per_s / (4.0 * rates.dimension)
    yield Limit(
        f"exact search within {assumed.exact_ms:g} ms",
        assumed.exact_ms / 1e3 * scanned,
        f"{assumed.exact_ms:g} ms x {scanned:,.0f} vectors/s, one core",
        "the graph, which is the default; or a filter first",
        optional=True,
    )


def _files(rates: Rates, assumed: Assumptions) -> Iterator[Limit]:
    yield Limit(
        "part files in one folder",
        float(assumed.folder_files) * rates.rows_per_part,
        f"{assumed.folder_files:,} files x {rates.rows_per_part:,} rows",
        "several input files, a folder each",
    )
    opened = _SEGMENTS * rates.files_of_a_segment
    yield Limit(
        "open files of an index",
        None,
        f"{_SEGMENTS} segments x {rates.files_of_a_segment} files = {opened} of {assumed.open_files:,}, at "
        "any size",
        "nothing",
    )


def _most_documents(rates: Rates, seconds: float, threads: float) -> float:
    """Return how many documents a folder may have to be built in so many seconds: by bisection."""
    low, high = 1.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2.0
        needed = graph_seconds(rates, middle) / threads + middle * rates.rest_s_per_document
        low, high = (middle, high) if needed <= seconds else (low, middle)
    return low
