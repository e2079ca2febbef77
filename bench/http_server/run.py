"""A run: sizes, folders, the processes that stages start, and texts that no request had before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.http_server.api import embed_queries
from bench.http_server.library import Library
from bench.http_server.models import Folders, Texts
from bench.http_server.processes import Cpus, Server, python_path

CLIENTS = 16


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        calls: Of each contender, one at a time.
        rounds: Of blocks, by turns.
        block_s: Seconds of a block.
        work: Requests before memory is read.
        repeats: Of processes whose memory is read.
        load_s: Of each load of the overload.
        recovery_s: Of the load after it.
        fill_s: Of the load before the soak, which fills caches.
        soak_s: Of the soak.
        documents: Of a rerank request.
    """

    calls: int = 1500
    rounds: int = 7
    block_s: float = 6.0
    work: int = 2000
    repeats: int = 3
    load_s: float = 60.0
    recovery_s: float = 15.0
    fill_s: float = 120.0
    soak_s: float = 3600.0
    documents: int = 20


TOY = Sizes(
    calls=4,
    rounds=2,
    block_s=0.2,
    work=4,
    repeats=1,
    load_s=0.6,
    recovery_s=0.4,
    fill_s=0.2,
    soak_s=1.5,
    documents=3,
)


@dataclass
class Run:
    """One run of the stages.

    Attributes:
        work: Holds what is made; later runs find it.
        shared: Has the real queries and titles.
        folders: Models and index.
        cpus: Who runs where.
        sizes: How much is run.
        peers: Names of those to run; None means all.
        absent: Peer -> why it could not run; filled by the stage.
        present: Peer -> version.
    """

    work: Path
    shared: Path
    folders: Folders
    cpus: Cpus
    sizes: Sizes
    peers: Sequence[str] | None = None
    absent: dict[str, str] = field(default_factory=dict)
    present: dict[str, str] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        self.texts = Texts(self.shared)

    def take(self, requests: int, count: int = 1) -> int:
        """Return a first number for requests of so many texts each, whose texts no request had before."""
        first = -(-self._next // count)
        self._next = (first + requests) * count
        return first

    def library(self, model: Path, **more: Path) -> Library:
        """Start the library: a model, and where they are named an `index` and a `scorer`."""
        settings = {"shared": self.shared, "model": model, **more}
        return Library(
            {name: str(Path(path).absolute()) for name, path in settings.items()}, self.cpus.server
        )

    def server(self, *arguments: str | Path) -> Server:
        """Start `relsdk serve`."""
        command = [sys.executable, "-m", "relsdk", "serve", *map(str, arguments), "--port", "{port}"]
        log = self.work / "logs/relsdk.log"
        return Server("relsdk serve", command, self.cpus.server, log, environment=python_path())

    def embed(self, first: int, count: int = 1) -> Callable[[int], bytes]:
        """Return a lane's message: queries from a number on."""
        return lambda number: embed_queries(self.texts.some(first + number, count))


def latency(seconds: ArrayLike) -> dict[str, Any]:
    """Return percentiles in milliseconds; only the count where there is no sample."""
    found = np.asarray(seconds, dtype=np.float64) * 1e3
    if not found.size:
        return {"count": 0}
    points = {f"p{q}_ms": short(np.percentile(found, q)) for q in (50, 90, 99)}
    return {"count": int(found.size), **points, "max_ms": short(found.max())}


def short(value: Any) -> float:
    """Return six digits: more would be noise, and results are committed."""
    return float(f"{value:.6g}")
