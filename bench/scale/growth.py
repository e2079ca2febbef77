"""What a step costs at a size that was not measured.

A search of a graph, and each document that is added to one, visits a number of documents that grows with the
logarithm of what is there: milliseconds are a + b ln n, the seconds of a build n (a + b ln n). Two sizes give
a and b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.scale.records import Rates

__all__ = [
    "Growth",
    "graph_seconds",
    "open_bytes_per_document",
    "peak_bytes_per_document",
    "per_document",
    "search_growth",
]


@dataclass(frozen=True)
class Growth:
    """a + b ln n; b is not below 0: more documents never cost less.

    Attributes:
        a: At n = 1.
        b: For each factor e.
    """

    a: float
    b: float

    @classmethod
    def through(cls, first: tuple[float, float], second: tuple[float, float]) -> Growth:
        """Return the curve through two points (n, value)."""
        (n, value), (m, other) = first, second
        b = max(0.0, (other - value) / math.log(m / n))
        return cls(other - b * math.log(m), b)

    def at(self, n: float) -> float:
        """Return the value."""
        return self.a + self.b * math.log(max(n, 1.0))


def graph_seconds(rates: Rates, documents: float) -> float:
    """Return the core seconds of one graph of so many documents."""
    points = [
        (build.documents, max(0.0, build.seconds / build.documents - rates.rest_s_per_document))
        for build in rates.builds
    ]
    return documents * max(0.0, Growth.through(*points).at(documents))


def search_growth(rates: Rates) -> Growth:
    """Return the milliseconds of a search by the graph."""
    small, large = ((build.documents, build.search_ms) for build in rates.builds)
    return Growth.through(small, large)


def per_document(rates: Rates) -> dict[str, float]:
    """Return the bytes of each kind of file a document, of the larger build."""
    large = rates.builds[1]
    return {kind: size / large.documents for kind, size in large.file_bytes.items()}


def peak_bytes_per_document(rates: Rates) -> float:
    """Return the memory that a build takes for each document, without what the process has anyhow.

    It is at least the graph, which is all in memory when it is saved.
    """
    small, large = rates.builds
    return _memory(rates, large.peak_bytes - small.peak_bytes)


def open_bytes_per_document(rates: Rates) -> float:
    """Return the memory that an open index takes for each document; it is at least the graph, too."""
    small, large = rates.builds
    return _memory(rates, large.open_bytes - small.open_bytes)


def _memory(rates: Rates, more: float) -> float:
    small, large = rates.builds
    return max(more / (large.documents - small.documents), per_document(rates)["graph"])
