"""The interface of a query model: it writes queries for a document that should have a wanted level.

Shape letters: N documents, S samples for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["REPEAT", "QueryExample", "QueryModel", "QueryRequest"]

# In place of a level: the query repeats the document.
REPEAT = -1


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What is asked of a query model.

    Attributes:
        document: Text of the document.
        level: The level that the query should have for it, 0-3.
    """

    document: str
    level: int


@dataclass(frozen=True, slots=True)
class QueryExample:
    """A query that has a known level for a document: what a query model learns from.

    Attributes:
        document: Text of the document.
        level: 0-3, or `REPEAT`.
        query: The query.
    """

    document: str
    level: int
    query: str


class QueryModel(Protocol):
    """f(document, level) -> query."""

    def write(self, requests: Sequence[QueryRequest], *, samples: int, seed: int) -> list[list[str]]:
        """Write queries.

        Args:
            requests: N of them.
            samples: S queries for each.
            seed: The same requests and seed give the same queries.

        Returns:
            N lists of at most S queries, raw: cleaning and judging is the caller's.

        Raises:
            TrainingError: The model cannot answer; what was written before is the caller's to keep.
        """
