"""The vectors of the latest queries, kept in bounded memory.

Shape letters: D dimension.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError

__all__ = ["CacheInfo", "QueryCache", "open_query_cache"]


class CacheInfo(NamedTuple):
    """Counts of a cache.

    Attributes:
        hits: Queries that were answered from it.
        misses: Queries that had to be encoded.
        entries: Vectors in it now.
        limit: The most it holds.
    """

    hits: int
    misses: int
    entries: int
    limit: int


def open_query_cache(limit: int) -> QueryCache | None:
    """Return a cache of at most `limit` vectors; None for 0.

    Raises:
        InputError: `limit` is no whole number, or below 0.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InputError(f"query_cache={limit!r}; a whole number of vectors is needed (0 keeps none)")
    return QueryCache(limit) if limit else None


class QueryCache:
    """A cache that drops the entry used longest ago. Safe to use from many threads, and after a fork.

    Args:
        limit: The most vectors it holds, at least 1; each takes 4 * D bytes and its text.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._hits = self._misses = 0
        self._guard = (os.getpid(), threading.Lock())

    def get(self, text: str) -> NDArray[np.float32] | None:
        """Return a text's vector, (D,), the caller's own; None when it is not there."""
        with self._lock():
            vector = self._vectors.get(text)
            if vector is None:
                self._misses += 1
                return None
            self._hits += 1
            self._vectors.move_to_end(text)
        return vector.copy()

    def put(self, text: str, vector: NDArray[np.float32]) -> None:
        """Keep a copy of a text's vector, (D,)."""
        kept = vector.copy()
        with self._lock():
            self._vectors[text] = kept
            self._vectors.move_to_end(text)
            while len(self._vectors) > self._limit:
                self._vectors.popitem(last=False)

    def look_up(
        self,
        texts: Iterable[str],
        encode: Callable[[list[str]], tuple[NDArray[np.float32], bool]],
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vector of each text, (D,); those that are missing are encoded together.

        Args:
            texts: The texts.
            encode: Takes n texts and returns their vectors (n, D), and whether to keep them.
        """
        hits = {text: self.get(text) for text in dict.fromkeys(texts)}
        vectors = {text: vector for text, vector in hits.items() if vector is not None}
        missing = [text for text in hits if text not in vectors]
        if missing:
            encoded, keep = encode(missing)
            vectors.update(zip(missing, encoded, strict=True))
            if keep:
                for text in missing:
                    self.put(text, vectors[text])
        return vectors

    def info(self) -> CacheInfo:
        """Return counts since it was made."""
        with self._lock():
            return CacheInfo(self._hits, self._misses, len(self._vectors), self._limit)

    def _lock(self) -> threading.Lock:
        process, lock = self._guard
        if process != os.getpid():  # another thread may have held the parent's when it forked
            lock = threading.Lock()
            self._guard = (os.getpid(), lock)
        return lock
