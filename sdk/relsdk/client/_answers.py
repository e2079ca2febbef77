"""The answers of a server: their types, and how they become relsdk's records.

Whatever is not as it must be is refused: a vector too few, one that is no number, a level that there is not.

Shape letters: N inputs, D dimension, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from relsdk.client._exchange import Answer, Exchange
from relsdk.errors import CalibrationError
from relsdk.levels import RelevanceLevel
from relsdk.records import Document, Hit, Passage, Predictions, Promise, Relevance, SearchResult, Signals

__all__ = [
    "DeleteAnswer",
    "Embeddings",
    "Grades",
    "IndexDescription",
    "InfoAnswer",
    "Limits",
    "ModelDescription",
    "SearchAnswer",
    "ServerInfo",
    "WriteAnswer",
    "document_with",
    "predictions_of",
    "read",
    "results_of",
    "vectors_of",
    "written_count",
]

Kind = TypeVar("Kind")
Result = TypeVar("Result")
Count = Annotated[int, msgspec.Meta(ge=0)]
Limit = Annotated[int, msgspec.Meta(ge=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Probabilities = tuple[Probability, Probability, Probability, Probability]

# Of what is written with six digits.
_TOLERANCE = 1e-4


class WrongAnswerError(ValueError):
    """An answer that no relsdk server gives; `read` makes a `ServerError` of it."""


class Limits(msgspec.Struct, frozen=True):
    """What a server takes in one request."""

    max_body_bytes: Limit = 8 << 20
    max_inputs: Limit = 2048
    max_documents: Limit = 512


class ModelDescription(msgspec.Struct, frozen=True):
    """A model behind the address.

    Attributes:
        id: Its name: `model=` of a call.
        kind: "encoder" or "scorer".
        dimension: Of an encoder's vectors.
        max_tokens: Longest input, in tokens.
        variant: The ONNX file that runs.
        fingerprint: See `Embedder.fingerprint`.
        levels: Whether it gives levels.
        promises: Precisions that hits keep which it grades alone.
    """

    id: str
    kind: str
    dimension: int | None
    max_tokens: int
    variant: str
    fingerprint: str
    levels: bool
    promises: list[Promise] = []


class IndexDescription(msgspec.Struct, frozen=True):
    """An index behind the address.

    Attributes:
        name: `index=` of a call.
        model: The encoder that built it.
        scorer: What re-scores its hits where a search does not say.
        documents: How many there are.
        generation: The one that answers.
        levels: Whether hits have levels.
        promises: Precisions that hits of hybrid and lexical searches keep.
        modes: How documents are found there.
        writable: Whether documents can be written.
    """

    name: str
    model: str
    scorer: str | None
    documents: int
    generation: str
    levels: bool
    modes: list[str]
    writable: bool
    promises: list[Promise] = []


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server serves: models, indexes, and its limits for one request."""

    version: str
    models: list[ModelDescription]
    indexes: list[IndexDescription]
    limits: Limits


class InfoAnswer(msgspec.Struct):
    """GET /info."""

    relsdk: ServerInfo


class _Embedding(msgspec.Struct):
    index: int
    embedding: bytes  # base64 of little-endian float32


class Embeddings(msgspec.Struct):
    """POST /v1/embeddings."""

    data: list[_Embedding]
    truncated: Count


class _Grade(msgspec.Struct):
    score: float
    level: RelevanceLevel | None = None
    probabilities: Probabilities | None = None
    expected_level: float | None = None


class Grades(msgspec.Struct):
    """POST /v1/grade."""

    model: str
    grades: list[_Grade]
    truncated: Count


class _Hit(_Grade, kw_only=True):
    id: str
    title: str
    text: str
    passage: Passage | None
    signals: Signals | None
    metadata: dict[str, Any]


class _Facet(msgspec.Struct):
    value: str | int | float | bool
    count: Count


class _Result(msgspec.Struct):
    hits: list[_Hit]
    order: str
    matching: Count | None
    candidates: Count
    scored: Count
    skipped: Count
    scored_hits: Count
    scanned: bool
    elapsed_ms: float
    steps: dict[str, float]
    facets: dict[str, list[_Facet]] = {}
    nothing_relevant: Probability | None = None
    outside: list[str] = []


class SearchAnswer(msgspec.Struct):
    """POST /v1/search."""

    generation: str
    results: list[_Result]
    promise: Promise | None = None


class WriteAnswer(msgspec.Struct):
    """POST /v1/documents: what was written, or what was taken to be written."""

    written: Count | None = None
    accepted: Count | None = None


class DeleteAnswer(msgspec.Struct):
    """POST /v1/documents/delete."""

    deleted: Count


def read(exchange: Exchange, answer: Answer, kind: type[Kind], convert: Callable[[Kind], Result]) -> Result:
    """Read the body of an answer, and turn it into what a call returns.

    Raises:
        ServerError: It is no JSON, or of another shape, or `convert` refuses it.
    """
    try:
        return convert(msgspec.json.decode(answer.content, type=kind))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WrongAnswerError) as problem:
        raise exchange.wrong(answer, str(problem)) from problem


def vectors_of(embeddings: Embeddings, count: int, dimensions: int | None) -> NDArray[np.float32]:
    """Return (N, D) vectors, in the order of the inputs.

    Args:
        embeddings: The answer.
        count: N.
        dimensions: D, where it is known.
    """
    rows = sorted(embeddings.data, key=lambda one: one.index)
    if [row.index for row in rows] != list(range(count)):
        raise WrongAnswerError(f"{len(rows)} vectors for {count} inputs, or not one for each")
    width = dimensions or len(rows[0].embedding) // 4
    short = next((row for row in rows if len(row.embedding) != 4 * width or width == 0), None)
    if short is not None:
        got = len(short.embedding) / 4
        raise WrongAnswerError(f"vector {short.index} has {got:g} numbers, and {width} are due")
    vectors = np.frombuffer(b"".join(row.embedding for row in rows), "<f4").reshape(count, width)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise WrongAnswerError(f"vector {int(np.flatnonzero(~finite)[0])} holds NaN or infinity")
    return vectors.astype(np.float32)  # a copy: writable, and of this machine's byte order


def predictions_of(grades: Grades, count: int) -> Predictions:
    """Return the relevance of N pairs.

    Raises:
        CalibrationError: The model gives scores alone.
    """
    if len(grades.grades) != count:
        raise WrongAnswerError(f"{len(grades.grades)} grades for {count} pairs")
    rows = [_relevance(grade) for grade in grades.grades]
    known = [row for row in rows if row is not None]
    if len(known) < count:
        raise CalibrationError(
            f"{grades.model} gives scores and no levels; calibrate it where it is served: relsdk calibrate"
        )
    return Predictions(
        np.array([row.score for row in known], dtype=np.float32),
        np.array([row.level for row in known], dtype=np.int64),
        np.array([row.probabilities for row in known], dtype=np.float64).reshape(count, len(RelevanceLevel)),
        np.array([row.expected_level for row in known], dtype=np.float64),
    )


def results_of(answer: SearchAnswer, count: int, k: int) -> list[SearchResult]:
    """Return the hits of each of `count` queries, at most k of each."""
    if len(answer.results) != count:
        raise WrongAnswerError(f"{len(answer.results)} results for {count} queries")
    most = max(len(result.hits) for result in answer.results)
    if most > k:
        raise WrongAnswerError(f"{most} hits, and at most {k} were asked for")
    return [_result(result, answer.generation, answer.promise) for result in answer.results]


def written_count(answer: WriteAnswer, count: int) -> int:
    """Return how many of so many documents were written, or taken to be written; of equal ids, the last."""
    done = answer.accepted if answer.written is None else answer.written
    if done is None or not 1 <= done <= count:
        raise WrongAnswerError(f"{done} documents written, of {count}")
    return done


def document_with(document: Document, identifier: str) -> Document:
    """Return a document, if it is the one that was asked for."""
    if document.id != identifier:
        raise WrongAnswerError(f"document {document.id!r}, where {identifier!r} was asked for")
    return document


def _result(result: _Result, generation: str, promise: Promise | None) -> SearchResult:
    return SearchResult(
        [_hit(hit) for hit in result.hits],
        candidates=result.candidates,
        scored=result.scored,
        skipped=result.skipped,
        scored_hits=result.scored_hits,
        elapsed_ms=result.elapsed_ms,
        matching=result.matching,
        order=result.order,
        scanned=result.scanned,
        facets={name: [(one.value, one.count) for one in rows] for name, rows in result.facets.items()},
        generation=generation,
        steps=result.steps,
        nothing_relevant=result.nothing_relevant,
        outside=result.outside,
        promise=promise,
    )


def _hit(hit: _Hit) -> Hit:
    document = Document(hit.id, hit.title, hit.text, hit.metadata)
    return Hit(document, hit.score, _relevance(hit), hit.passage, hit.signals)


def _relevance(grade: _Grade) -> Relevance | None:
    """Return level, probabilities and expected level, which are there together or not at all."""
    level, probabilities, expected = grade.level, grade.probabilities, grade.expected_level
    if level is None and probabilities is None and expected is None:
        return None
    if level is None or probabilities is None or expected is None:
        raise WrongAnswerError("a part of level, probabilities and expected_level is missing")
    total = sum(probabilities)
    mean = sum(level * probability for level, probability in enumerate(probabilities))
    if abs(total - 1.0) > _TOLERANCE or abs(mean - expected) > 10 * _TOLERANCE:
        raise WrongAnswerError(
            f"the probabilities {list(probabilities)} sum to {total:g}, and their mean is {mean:g}, not the "
            f"expected level, {expected:g}"
        )
    return Relevance(level, probabilities, expected, grade.score)
