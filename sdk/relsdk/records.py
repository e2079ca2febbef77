"""Frozen records that travel between the steps: documents, labelled pairs, relevance, hits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel

__all__ = [
    "Document",
    "Hit",
    "LabelledPair",
    "Matrix",
    "Passage",
    "Relevance",
    "SearchResult",
    "Signals",
    "Vector",
    "document_text",
]

# (D,) and (N, D), for signatures.
Vector = np.ndarray[tuple[int], np.dtype[Any]]
Matrix = np.ndarray[tuple[int, int], np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Document:
    """One searchable item.

    Attributes:
        id: Unique within an index, not empty.
        title: Short text; may be empty when `text` is not.
        text: Body: description, OCR, speech transcript.
        metadata: Anything JSON can hold; returned with hits, never encoded.
    """

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def document_text(template: str, document: str | Document) -> str:
    """Return the text that a model reads for a document: text as it is, a `Document` by the model's template.

    Raises:
        InputError: It is neither, or a title or text is no string.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, Document):
        raise InputError(f"a document is {type(document).__name__}; a string or a Document is needed")
    for name, value in (("title", document.title), ("text", document.text)):
        if not isinstance(value, str):
            raise InputError(f"the {name} of document {document.id!r} is {value!r}; a string is needed")
    return template.format(title=document.title, text=document.text).strip()


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A query, a document and the level that somebody gave them."""

    query: str
    document: Document
    level: RelevanceLevel


@dataclass(frozen=True, slots=True)
class Relevance:
    """The relevance of one document to one query.

    Attributes:
        level: The most probable level.
        probabilities: P(level = 0), ..., P(level = 3); they sum to 1.
        expected_level: Mean level under the probabilities, in [0, 3].
        score: The model's raw score (cosine for an encoder); higher is better.
    """

    level: RelevanceLevel
    probabilities: tuple[float, float, float, float]
    expected_level: float
    score: float


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document's text.

    Attributes:
        text: The part itself.
        start: Its first character in the text of the document.
        end: The character after its last.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Signals:
    """What each side of a search says of a hit: why it is there.

    Attributes:
        cosine: Of query and document (or passage).
        bm25: By the words that both have; 0 without a common one.
        best_possible: What BM25 of no document can surpass for this query.
        dense_rank: Place among what was found by meaning, from 1; None when it was found by words only.
        lexical_rank: Place among what was found by words, from 1; None when it was found by meaning only.
    """

    cosine: float
    bm25: float
    best_possible: float
    dense_rank: int | None
    lexical_rank: int | None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        document: What was found.
        score: What the list is ordered by; higher is better.
        relevance: Level and probabilities; None when the model has no calibration.
        passage: The part of the document that was found, where the index splits documents; score and level
            are those of the passage.
        signals: What meaning and words say of it, in a lexical or hybrid search.
    """

    document: Document
    score: float
    relevance: Relevance | None = None
    passage: Passage | None = None
    signals: Signals | None = None

    @property
    def cosine(self) -> float:
        """Of query and document, of a hit that an index found: its score in a dense search."""
        return self.score if self.signals is None else self.signals.cosine

    @property
    def level(self) -> RelevanceLevel | None:
        """The most probable level, or None when the model has no calibration."""
        return None if self.relevance is None else self.relevance.level

    @property
    def probabilities(self) -> tuple[float, float, float, float] | None:
        """P(level = 0..3), or None when the model has no calibration."""
        return None if self.relevance is None else self.relevance.probabilities


class SearchResult(list[Hit]):
    """The hits of one query: a list, which also says how much of the work was done.

    Args:
        hits: In the order in which they are shown.
        candidates: How many documents were retrieved for re-scoring (without a scorer: as hits).
        scored: How many of the candidates the scorer saw; 0 without a scorer.
        skipped: How many it did not see because `budget_ms` was used up; 0 without a scorer.
        scored_hits: How many of the hits the scorer saw: they come first, and only their `score` is the
            scorer's.
        elapsed_ms: From the call of the search to its result, in milliseconds.
        matching: How many documents the filter allowed; without a filter, all of the index.
        order: What the score is: "cosine", "bm25", "hybrid" (the calibrated model of both) or "scorer".
        scanned: Whether the filter read documents because no column answers it: the first time that costs a
            look at each of them.
    """

    __slots__ = (
        "candidates",
        "elapsed_ms",
        "matching",
        "order",
        "scanned",
        "scored",
        "scored_hits",
        "skipped",
    )

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        candidates: int = 0,
        scored: int = 0,
        skipped: int = 0,
        scored_hits: int = 0,
        elapsed_ms: float = 0.0,
        matching: int = 0,
        order: str = "cosine",
        scanned: bool = False,
    ) -> None:
        super().__init__(hits)
        self.candidates = candidates
        self.scored = scored
        self.skipped = skipped
        self.scored_hits = scored_hits
        self.elapsed_ms = elapsed_ms
        self.matching = matching
        self.order = order
        self.scanned = scanned
