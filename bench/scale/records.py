"""What a simulation starts from: rates that were measured, and assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "PREMISES", "Assumptions", "BuildRates", "Rates", "assumption_texts"]

# Files of a segment -> what they keep.
KINDS = {
    "vectors.npy": "vectors, fp32",
    "codes.npy": "vectors, int8",
    "scales.npy": "vectors, int8",
    "graph.hnsw": "graph",
    "documents.sqlite": "documents",
    "postings.bin": "words",
    "columns.bin": "fields to filter by",
    "columns.json": "fields to filter by",
}

# What the arithmetic takes for granted, beside the numbers of `Assumptions`.
PREMISES = {
    "growth": (
        "A search, and each document that is added to a graph, costs a + b ln n; two sizes give a and b."
    ),
    "tokens": "A token costs the same in a short text and in a long one.",
    "documents": "Documents, their words and their fields are like those measured: titles of videos.",
    "input": "The workers of a machine pass over the input side by side: it comes over the network once.",
    "parts": "Disks and the network give parts as fast as memory did when they were verified.",
    "store": (
        "A store's graphs cost what ours do, hold fp32 vectors in memory, and a query searches each of them."
    ),
    "loader": "One process loads a store; what its client spends on sending is not counted.",
    "failures": "Nothing fails, and nothing is done twice.",
    "payment": "Cores are paid for while they work; those that answer queries, all the time.",
}


@dataclass(frozen=True)
class BuildRates:
    """An index that was built of given vectors, by one thread.

    Attributes:
        documents: How many.
        seconds: Of the whole build.
        peak_bytes: Most memory of the process that no file stands behind.
        file_bytes: Bytes of each kind of file, by `KINDS`.
        search_ms: Median milliseconds of a search by the graph, one thread.
        open_bytes: Such memory that it takes to search it.
    """

    documents: int
    seconds: float
    peak_bytes: float
    file_bytes: Mapping[str, float]
    search_ms: float
    open_bytes: float


@dataclass(frozen=True)
class Rates:
    """What one core of one machine does.

    Attributes:
        dimension: Of the vectors.
        tokens_per_text: Mean of the texts that were encoded, prompt included.
        tokens_per_s: Of documents in bulk, int8.
        query_ms: Median milliseconds to encode one query.
        query_model: What encoded the queries.
        input_bytes_per_row: Of the input file.
        plan_rows_per_s: Of the pass over the input that checks and counts it.
        skip_rows_per_s: Of a worker on its way to the rows that are its own.
        rows_per_part: Most rows of a part.
        part_bytes_per_row: Of the parts.
        write_bytes_per_s: Of parts, until they are on the disk.
        verify_bytes_per_s: Of parts that are read and compared with their hash.
        rest_s_per_document: Of a build, without the graph.
        builds: A small one and a larger one.
        exact_bytes_per_s: Of vectors that an exact search reads.
        loader_documents_per_s: Of the process that loads a store, before anything is sent.
        loader_bytes_per_document: Memory of that process.
        files_of_a_segment: Of an index.
    """

    dimension: int
    tokens_per_text: float
    tokens_per_s: float
    query_ms: float
    query_model: str
    input_bytes_per_row: float
    plan_rows_per_s: float
    skip_rows_per_s: float
    rows_per_part: int
    part_bytes_per_row: float
    write_bytes_per_s: float
    verify_bytes_per_s: float
    rest_s_per_document: float
    builds: tuple[BuildRates, BuildRates]
    exact_bytes_per_s: float
    loader_documents_per_s: float
    loader_bytes_per_document: float
    files_of_a_segment: int

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Rates:
        """Make rates of their JSON."""
        small, large = (BuildRates(**build) for build in content["builds"])
        return cls(**{**content, "builds": (small, large)})


def _assume(value: Any, text: str) -> Any:
    return field(default=value, metadata={"text": text})


@dataclass(frozen=True)
class Assumptions:
    """What was not measured: prices, machines, and what is put up with. Each field says what it is."""

    price_core_hour: float = _assume(0.04, "US dollars for one core and its memory for an hour")
    price_gb_month: float = _assume(0.02, "US dollars to keep 10^9 bytes for a month")
    months: float = _assume(1.0, "months that files are kept and queries are answered")
    machine_cores: int = _assume(16, "cores of a machine")
    machine_ram_gb: float = _assume(64.0, "memory of a machine, 10^9 bytes")
    network_gb_s: float = _assume(1.25, "network of a machine, 10^9 bytes a second")
    storage_gb_s: float = _assume(2.0, "shared file system, all machines together, 10^9 bytes a second")
    worker_share: float = _assume(0.9, "share of the rate of one core that each of several workers keeps")
    graph_thread_share: float = _assume(0.8, "the same for the threads that build a graph")
    document_tokens: float = _assume(0.0, "tokens of a document; 0: as those that were measured")
    segment_documents: int = _assume(1_000_000, "documents of one graph in a store")
    replicas: int = _assume(1, "copies of what a store keeps in memory")
    queries_per_s: float = _assume(100.0, "queries a second")
    index_hours: float = _assume(24.0, "longest build or load that is put up with, hours")
    serial_hours: float = _assume(1.0, "longest wait for a step that one core does alone, hours")
    exact_ms: float = _assume(100.0, "longest exact search that is put up with, ms")
    folder_files: int = _assume(100_000, "most files of a folder")
    open_files: int = _assume(1024, "most files that a process may have open")


def assumption_texts() -> dict[str, str]:
    """Return what each assumption says, by its name."""
    return {name: one.metadata["text"] for name, one in Assumptions.__dataclass_fields__.items()}
