"""Frozen records that travel between the steps: documents, labelled pairs, relevance, promises, hits.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS, RelevanceLevel

__all__ = [
    "Document",
    "Hit",
    "LabelledPair",
    "Matrix",
    "Passage",
    "Predictions",
    "Promise",
    "RankedDocument",
    "Relevance",
    "SearchResult",
    "Signals",
    "Vector",
    "document_text",
]

_LEVELS = tuple(RelevanceLevel)
_Share = Annotated[float, Meta(ge=0, le=1)]
_Inside = Annotated[float, Meta(gt=0, lt=1)]
_Count = Annotated[int, Meta(ge=1, le=1 << 53)]
# That of `relsdk calibrate` without --confidence.
_USUAL_CONFIDENCE = 0.95

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

    def level_at(self, confidence: float) -> RelevanceLevel | None:
        """Return the most probable level where its probability is at least `confidence`, else None: unsure.

        It is `level` or nothing, so that what is answered is right about that often ("Selective
        classification", El-Yaniv & Wiener 2010). The highest level that is reached with that confidence,
        P(level >= k) >= confidence, is another question: it is never unsure, since P(level >= 0) is 1, and it
        calls low what is only uncertain. `Searcher.search(min_level=k, min_confidence=)` asks that one.

        Args:
            confidence: From 0 to 1; `relsdk eval` shows what each costs.

        Raises:
            InputError: It is no number from 0 to 1.
        """
        number = isinstance(confidence, int | float | np.number) and not isinstance(confidence, bool)
        if not (number and 0 <= confidence <= 1):
            raise InputError(f"confidence={confidence!r}; a number from 0 to 1 is needed")
        return self.level if self.probabilities[self.level] >= confidence else None


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Relevance of N pairs, as arrays.

    Attributes:
        scores: (N,) float32 raw scores.
        levels: (N,) int64 most probable levels.
        probabilities: (N, L) float64.
        expected_levels: (N,) float64 in [0, 3].
    """

    scores: NDArray[np.float32]
    levels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    expected_levels: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Put the pairs of several calls, at least one, behind each other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.expected_levels for part in parts]),
        )

    def __getitem__(self, row: int) -> Relevance:
        p0, p1, p2, p3 = self.probabilities[row].tolist()
        return Relevance(
            level=_LEVELS[self.levels[row]],
            probabilities=(p0, p1, p2, p3),
            expected_level=float(self.expected_levels[row]),
            score=float(self.scores[row]),
        )


@dataclass(frozen=True, slots=True)
class Promise:
    """A precision that hits above a threshold keep.

    Of the hits with P(level >= `level`) >= `threshold` a share of at least `precision` is of that level or
    above, in the population that the labelled pairs are a sample of. A promise like this one is wrong in at
    most 1 - `confidence` of all cases.

    Attributes:
        level: 1, 2 or 3; hits of this level or above count as right.
        precision: What is promised.
        confidence: Of the promise.
        threshold: Of P(level >= `level`).
        recall: Share of the right pairs that lie at or above the threshold.
        reached: The precision of the labelled pairs there.
        pairs: How many lie there.
        queries: Of how many queries these are.
    """

    level: Annotated[int, Meta(ge=1, le=NUM_LEVELS - 1)]
    precision: _Inside
    confidence: _Inside
    threshold: _Share
    recall: _Share
    reached: _Share
    pairs: _Count
    queries: _Count

    @staticmethod
    def check(level: int, precision: float, confidence: float) -> None:
        """Refuse what cannot be promised, whatever the pairs.

        Raises:
            InputError: With the name of the argument.
        """
        if level not in range(1, NUM_LEVELS):
            raise InputError(f"level={level!r}; 1, 2 or 3 is needed")
        if not 0.0 < precision < 1.0:
            raise InputError(
                f"precision={precision!r}; a number between 0 and 1 is needed (no number of pairs can show 1)"
            )
        if not 0.5 <= confidence < 1.0:
            raise InputError(f"confidence={confidence!r}; a number from 0.5 up to 1, without 1, is needed")

    @staticmethod
    def calibrate_options(
        promises: Iterable[Promise], level: int | None = None, precision: float | None = None
    ) -> str:
        """Return the options of `relsdk calibrate` that make promises again, and one more.

        Each level is combined with each precision there, so they are named once.

        Args:
            promises: Of one calibration.
            level: Of one more; None for no more.
            precision: Of one more.
        """
        made = list(promises)
        precisions = dict.fromkeys(
            [*([] if precision is None else [precision]), *(p.precision for p in made)]
        )
        levels = dict.fromkeys([*([] if level is None else [level]), *(p.level for p in made)])
        words = [f"--target-precision {one:g}" for one in precisions] + [f"--level {one}" for one in levels]
        confidence = max((p.confidence for p in made), default=_USUAL_CONFIDENCE)
        return " ".join(words + ([] if confidence == _USUAL_CONFIDENCE else [f"--confidence {confidence:g}"]))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, from which `relsdk.typed_json.convert_json` makes the promise again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One row of `RelevanceScorer.rank`: where the document stood in the input, and how relevant it is."""

    index: int
    relevance: Relevance


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
        matching: How many documents the filter allowed; without a filter, all of the index. None of a vector
            store, which would have to look for them.
        order: What the score is: "cosine", "bm25", "hybrid" (the calibrated model of both) or "scorer".
        scanned: Whether the filter read documents because no column answers it: the first time that costs a
            look at each of them.
        facets: Of each field that was asked for, its values and how many of the allowed documents have them.
        generation: The name of the index's generation that answered.
        steps: Milliseconds of each step: "encode", "count", "retrieve", "score"; of several queries those up
            to this one.
        best: The first candidate in the order of relevance, whatever conditions, a sort and an offset leave
            of it; of a scorer, the first that it saw. None when there is none.
        nothing_relevant: The probability that no candidate is of level 2 or above, whatever conditions and an
            offset leave of them: that of the likeliest to be. With a scorer, of those that it saw. 1 without
            a candidate; None without levels. From 0.5 on, "nothing relevant" is the likelier answer.
        outside: In what the query is unlike those that the encoder's calibration was fitted on, in words: its
            length, tokens that are not in the vocabulary, how near the best candidate is. Levels are less
            to be relied on then, and a promise does not hold. Only of a dense search without a scorer; see
            `QueryRange`.
        promise: The promise whose threshold kept the hits, where `min_precision` was asked for.
    """

    __slots__ = (
        "best",
        "candidates",
        "elapsed_ms",
        "facets",
        "generation",
        "matching",
        "nothing_relevant",
        "order",
        "outside",
        "promise",
        "scanned",
        "scored",
        "scored_hits",
        "skipped",
        "steps",
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
        matching: int | None = 0,
        order: str = "cosine",
        scanned: bool = False,
        facets: Mapping[str, list[tuple[str | float | bool, int]]] | None = None,
        generation: str = "",
        steps: Mapping[str, float] | None = None,
        best: Hit | None = None,
        nothing_relevant: float | None = None,
        outside: Sequence[str] = (),
        promise: Promise | None = None,
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
        self.facets = dict(facets or {})
        self.generation = generation
        self.steps = dict(steps or {})
        self.best = best
        self.nothing_relevant = nothing_relevant
        self.outside = tuple(outside)
        self.promise = promise

    @property
    def warnings(self) -> list[str]:
        """What is to be known before the levels and the promise are relied on, in words; mostly nothing."""
        if not self.outside:
            return []
        promise = "" if self.promise is None else ", and the promised precision does not hold for it"
        return [
            f"levels are less to be trusted for this query{promise}: {'; '.join(self.outside)}; label pairs "
            "of such queries and calibrate again"
        ]
