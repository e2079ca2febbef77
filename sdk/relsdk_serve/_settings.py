"""Everything that the command line sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relsdk.runtime.hardware import choose_threads
from relsdk_serve._logs import LogFormat

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may hold and how long it may take.

    Attributes:
        body: Bytes.
        inputs: Texts of one request.
        documents: Documents to rerank, or pairs to grade, of one request.
        wait: Seconds that a request may wait; None lets 20 requests wait for each worker.
        body_seconds: Until a request has arrived as a whole.
        send_seconds: Until a client has read what it was sent; longer for long answers.
        header_seconds: Until a connection has sent the head of a request.
        worker_seconds: A batch that takes longer is a dead worker.
    """

    body: int = 8 << 20
    inputs: int = 2048
    documents: int = 512
    wait: float | None = None
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    header_seconds: float = 10.0
    worker_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server's settings; names and folders as the command line gives them.

    Attributes:
        models: Encoders and scorers by name.
        indexes: Indexes by name.
        scorers: Scorers that searches take unless they say otherwise; by name.
        variant: See `relsdk.Embedder`.
        host: Address to listen at.
        port: Port; 0 takes a free one.
        workers: Threads that run models.
        key_file: Keys, one a line.
        insecure: Whether an address beyond loopback may do without keys.
        open_info: Whether /metrics, /info and /openapi.json need no key.
        cors: Origins whose pages may ask.
        limits: See `Limits`.
        query_cache: Vectors of the latest queries that are kept.
        state: Folder for what outlives a restart.
        log: How a line a request is written to stderr; None writes none.
        log_queries: File for queries and their hits.
        drain_seconds: From SIGTERM, unready, until connections are no longer taken.
        grace_seconds: From then on until what still runs is cut off.
    """

    models: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    scorers: dict[str, str] = field(default_factory=dict)
    variant: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = field(default_factory=lambda: choose_threads().threads)
    key_file: Path | None = None
    insecure: bool = False
    open_info: bool = False
    cors: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    query_cache: int = 10_000
    state: Path | None = None
    log: LogFormat | None = None
    log_queries: Path | None = None
    drain_seconds: float = 5.0
    grace_seconds: float = 25.0
