"""What is measured, opened alike: relsdk's index, and libraries that can do some of the same.

All get the same vectors, the same M and effort where they have a graph, and one CPU.
Shape letters: n documents, D dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bench.living_index.corpus import Corpus, Matrix, Rows

# name -> class, imported where it is used. A row more is an option more: `relsdk int8`.
CONTENDERS = {
    "relsdk": "bench.living_index.ours:Ours",
    "usearch": "bench.living_index.vector_libraries:Usearch",
    "faiss HNSW": "bench.living_index.vector_libraries:FaissGraph",
    "faiss flat": "bench.living_index.vector_libraries:FaissFlat",
    "lancedb": "bench.living_index.databases:Lance",
    "qdrant local": "bench.living_index.databases:Qdrant",
    "txtai": "bench.living_index.databases:Txtai",
}


class Contender(ABC):
    """An index of documents with vectors; ids are row numbers of the corpus.

    Attributes:
        package: Whose version is reported.
        libraries: Modules that are imported before anything is timed.
        holds: What is written, for readers.
        filters: Names of filters that it has.
        memory_build: It is built and changed in a folder in memory: it waits for the disk at each document,
            and would take most of an hour.
    """

    package: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    holds: ClassVar[str]
    filters: ClassVar[frozenset[str]] = frozenset()
    memory_build: ClassVar[bool] = False

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    @abstractmethod
    def build(self, folder: Path, count: int, threads: int) -> None:
        """Make an index of the first documents, and write it."""

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Open what was written."""

    @abstractmethod
    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add documents (n,) with vectors (n, D)."""

    @abstractmethod
    def delete(self, rows: Rows) -> None:
        """Delete documents."""

    @abstractmethod
    def search(self, vector: Matrix, k: int, name: str | None = None) -> Sequence[int]:
        """Return the rows of the nearest documents, of those that a filter allows."""

    def upsert(self, rows: Rows, vectors: Matrix) -> None:
        """Replace documents."""
        self.delete(rows)
        self.add(rows, vectors)

    def warmup(self) -> None:  # noqa: B027  # most have nothing to do
        """Do what a server does before it answers."""

    def close(self) -> None:  # noqa: B027  # most have nothing to do
        """Release the folder."""


def contender_class(name: str) -> type[Contender]:
    """Return a contender's class.

    Raises:
        ImportError: Its library is not here.
    """
    found: type[Contender] = resolve_name(CONTENDERS[name])
    version(found.package)
    return found
