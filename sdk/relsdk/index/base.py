"""Settings of an index, and the interfaces of a vector index and of an encoder.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.records import Document

__all__ = ["Encoder", "IndexConfig", "Neighbours", "Progress", "VectorIndex", "check_whole_number"]

KINDS = ("hnsw", "flat")

# (stage, how many are done): called from time to time during long work.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class IndexConfig:
    """Settings of the vector search.

    Attributes:
        kind: "hnsw", a graph (approximate, fast), or "flat", exact search (no graph on disk).
        M: Links per document in the graph; the lowest layer has twice as many.
        ef_construction: Candidates kept while the graph is built; more costs build time and raises recall.
        ef_search: Candidates kept while it is searched; more costs search time and raises recall.
        seed: For the layer that each document gets. Builds with one thread are reproducible.
        exact_rows: A filter that leaves at most so many documents, and at most half, is searched exactly; one
            that leaves more, too, where the graph would not be faster.
        int8: Also keep the vectors in 8 bits a number: exact and filtered search then reads a quarter of the
            memory, and scores its candidates from the whole vectors. The graph is as it was.
        passage_characters: Split documents into passages of at most so many characters, each with a vector;
            a hit is a document with its best passage. 0 does not split.

    Raises:
        InputError: A value is out of range.
    """

    kind: str = "hnsw"
    M: int = 16
    ef_construction: int = 200
    ef_search: int = 256
    seed: int = 100
    exact_rows: int = 20_000
    int8: bool = False
    passage_characters: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind={self.kind!r}; allowed are {' and '.join(map(repr, KINDS))}")
        if not isinstance(self.int8, bool):
            raise InputError(f"int8={self.int8!r}; True or False is needed")
        bounds = {
            "M": (2, 512),
            "ef_construction": (1, 100_000),
            "ef_search": (1, 100_000),
            "seed": (0, 2**31 - 1),
            "exact_rows": (0, 2**31 - 1),
            "passage_characters": (0, 2**31 - 1),
        }
        for name, (low, high) in bounds.items():
            check_whole_number(name, getattr(self, name), low, high)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> IndexConfig:
        """Make settings of `to_dict`'s result.

        Raises:
            InputError: An unknown name, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in content if name not in known]
        if unknown:
            raise InputError(f"unknown index setting {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**content)


class Neighbours(NamedTuple):
    """The result of a vector search, best first.

    Attributes:
        rows: (Q, K) int64 row numbers.
        scores: (Q, K) float32 cosines, falling along the last axis.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class VectorIndex(ABC):
    """Finds the rows of a matrix of unit vectors that are nearest to a query."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        config: IndexConfig,
        *,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> VectorIndex:
        """Index a matrix.

        Args:
            vectors: (N, D) unit rows, N >= 1; kept, not copied, so a memory map stays one.
            config: The settings.
            num_threads: None chooses from affinity and container quota.
            on_progress: Called with ("graph", vectors done).
        """

    @abstractmethod
    def search(self, queries: NDArray[np.float32], k: int, *, ef_search: int | None = None) -> Neighbours:
        """Find the nearest rows of each query; safe to call from many threads.

        Args:
            queries: (Q, D) unit rows.
            k: How many; beyond N there are N.
            ef_search: Replaces the configured one for this call; exact search takes no notice.

        Returns:
            (Q, min(k, N)) rows and cosines.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load` needs, besides vectors and settings, into a folder.

        Raises:
            OSError: The file system refused.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, vectors: NDArray[np.float32], config: IndexConfig) -> VectorIndex:
        """Read what `save` wrote.

        Args:
            folder: Where it is.
            vectors: The matrix (N, D) that was indexed.
            config: The settings.

        Raises:
            IndexFolderError: It is damaged, or belongs to another matrix.
        """


class Encoder(Protocol):
    """Whatever turns documents into vectors; `relsdk.Embedder` is one.

    An encoder may also have a `path`, or a `bundle` with one: the index notes it, so that queries find the
    model again.
    """

    @property
    def name(self) -> str:
        """For people."""

    @property
    def fingerprint(self) -> str:
        """Equal for encoders whose vectors may be compared, different otherwise."""

    @property
    def dimension(self) -> int:
        """D."""

    def encode_document(self, inputs: Sequence[Document], /) -> NDArray[Any]:
        """Return one unit vector for each document, (n, D)."""


def check_whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int within bounds.

    Raises:
        InputError: It is no whole number, or out of bounds.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or int(value) < low or (high is not None and int(value) > high):  # type: ignore[call-overload]
        allowed = f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
        raise InputError(f"{name}={value!r}; a whole number {allowed} is needed")
    return int(value)  # type: ignore[call-overload, no-any-return]
