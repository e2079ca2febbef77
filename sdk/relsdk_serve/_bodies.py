"""Requests and answers of every route; the OpenAPI document is made of them.

Shape letters: D dimension.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Truncate = bool | Literal["error"]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Precision = Annotated[float, msgspec.Meta(gt=0, lt=1)]  # of a promise
Count = Annotated[int, msgspec.Meta(ge=0)]
Level = Annotated[int, msgspec.Meta(ge=0, le=3)]
Mode = Literal["dense", "lexical", "hybrid"]


class Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request of relsdk's own routes: a field that it does not know is a mistake."""


class Foreign(msgspec.Struct, kw_only=True):
    """A request as other servers take it: fields that mean nothing here are passed over."""


class Answer(msgspec.Struct, kw_only=True):
    """An answer."""


# Errors.


class ErrorDetail(Answer, kw_only=True):
    """What is wrong and what to do."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorAnswer(Answer, kw_only=True):
    """An error; `message` stands outside, too, where Cohere's clients look for it."""

    error: ErrorDetail
    message: str


class TeiErrorAnswer(Answer, kw_only=True):
    """An error as text-embeddings-inference answers it."""

    error: str
    error_type: str
    message: str
    type: str
    code: str


# Models.


class PromiseBody(Answer, kw_only=True):
    """Of hits with P(level >= k) >= threshold a share of at least `precision` has level k or above."""

    level: Level
    precision: Precision
    confidence: Precision
    threshold: Probability
    recall: Probability
    reached: Probability
    pairs: Count
    queries: Count


class ModelCard(Answer, kw_only=True):
    """A model that is served; `promises` are those that it keeps where it grades alone."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["relsdk"] = "relsdk"
    kind: Literal["encoder", "scorer"]
    dimension: int | None
    max_tokens: int
    variant: str
    fingerprint: str
    levels: bool
    promises: list[PromiseBody]


class ModelList(Answer, kw_only=True):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


# Embeddings, as OpenAI has them.


class EmbeddingsRequest(Foreign, kw_only=True):
    """Texts to encode; `input_type` chooses the model's prompt for queries or documents."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    input_type: Literal["query", "document", "search_query", "search_document"] | None = None
    prompt_name: str | None = None
    truncate: Truncate = True


class Usage(Answer, kw_only=True):
    """Tokens of the inputs, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(Answer, kw_only=True):
    """One vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(Answer, kw_only=True):
    """Vectors in the order of the inputs; `truncated` counts inputs that were cut."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage
    truncated: int


# Levels.


class Grade(Answer, kw_only=True):
    """How relevant a document is to a query; without a calibration only the score is known."""

    score: float
    level: Level | None = None
    level_name: str | None = None
    probabilities: list[float] | None = None
    expected_level: float | None = None


class RerankDocument(Foreign, kw_only=True):
    """A document with parts."""

    text: str = ""
    title: str = ""


class RerankRequest(Foreign, kw_only=True):
    """A query and its documents, as Cohere and Jina have them."""

    query: str
    documents: list[str | RerankDocument]
    model: str | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool = False
    truncate: Truncate = True


class RerankText(Answer, kw_only=True):
    """The text of a document."""

    text: str


class RerankResult(Grade, kw_only=True):
    """One document, by its place in the request."""

    index: int
    relevance_score: float
    document: RerankText | None = None


class ApiVersion(Answer, kw_only=True):
    """The version of Cohere's interface that was spoken."""

    version: str


class BilledUnits(Answer, kw_only=True):
    """What Cohere would bill."""

    search_units: int = 1


class RerankMeta(Answer, kw_only=True):
    """What Cohere's clients read."""

    api_version: ApiVersion
    billed_units: BilledUnits


class TotalUsage(Answer, kw_only=True):
    """Tokens of the inputs."""

    total_tokens: int


class RerankAnswer(Answer, kw_only=True):
    """Documents, the most relevant first."""

    id: str
    model: str
    results: list[RerankResult]
    meta: RerankMeta
    usage: TotalUsage
    truncated: int


class PairDocument(Strict, kw_only=True):
    """A document with parts."""

    text: str = ""
    title: str = ""


class PairBody(Strict, kw_only=True):
    """A query and a document."""

    query: str
    document: str | PairDocument


class GradeRequest(Strict, kw_only=True):
    """Pairs to grade; `model` is a scorer or an encoder with a calibration."""

    pairs: list[PairBody]
    model: str | None = None
    truncate: Truncate = True


class GradeAnswer(Answer, kw_only=True):
    """Grades in the order of the pairs."""

    model: str
    grades: list[Grade]
    usage: TotalUsage
    truncated: int


# text-embeddings-inference.


class TeiRequest(Foreign, kw_only=True):
    """What may be done with texts that are too long."""

    truncate: bool | None = None
    truncation_direction: Literal["right", "left", "Right", "Left"] | None = None


class EmbedRequest(TeiRequest, kw_only=True):
    """Texts to encode."""

    inputs: str | list[str | int | list[int]]
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SimilarityInputs(Foreign, kw_only=True):
    """A text, and those it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(TeiRequest, kw_only=True):
    """How texts are encoded."""

    prompt_name: str | None = None


class SimilarityRequest(Foreign, kw_only=True):
    """Texts to compare."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TeiRerankRequest(TeiRequest, kw_only=True):
    """A query and its texts."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class TeiRank(Answer, kw_only=True, omit_defaults=True):
    """One text, by its place in the request; `score` is 0 to 1 unless raw scores are asked for."""

    index: int
    score: float
    text: str | None = None
    level: Level | None = None
    level_name: str | None = None
    probabilities: list[float] | None = None


class PredictRequest(TeiRequest, kw_only=True):
    """Pairs of texts, (query, document), to classify."""

    inputs: list[str | list[str]] | str
    raw_scores: bool = False


class Prediction(Answer, kw_only=True):
    """A level and its probability."""

    score: float
    label: str


class TokenizeRequest(Foreign, kw_only=True):
    """Texts to cut into tokens."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class Token(Answer, kw_only=True):
    """A piece of a text; `start` and `stop` count characters, None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


class RootRequest(TeiRequest, kw_only=True):
    """What text-embeddings-inference takes at its root."""

    inputs: str | list[str | int | list[Any]] | SimilarityInputs | None = None
    query: str | None = None
    texts: list[str] | None = None
    normalize: bool = True
    raw_scores: bool = False
    return_text: bool = False
    prompt_name: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


# Search.


class SearchRequest(Strict, kw_only=True):
    """A search; give one of query, queries and like (the id of a document)."""

    index: str | None = None
    model: str | None = None
    query: str | None = None
    queries: list[str] | None = None
    like: str | None = None
    k: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    offset: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    where: str | dict[str, Any] | None = None
    sort: str | None = None
    group_by: str | None = None
    facets: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    min_level: Level | None = None
    min_score: float | None = None
    min_confidence: Probability | None = None
    min_precision: Precision | None = None
    mode: Mode | None = None
    scorer: bool | str | None = None
    budget_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None


class PassageBody(Answer, kw_only=True):
    """The part of a document that was found."""

    text: str
    start: int
    end: int


class SignalsBody(Answer, kw_only=True):
    """Why a hit is there."""

    cosine: float
    bm25: float
    best_possible: float
    dense_rank: int | None
    lexical_rank: int | None


class HitBody(Answer, kw_only=True):
    """A hit, as `relsdk query --json` prints it."""

    id: str
    score: float
    level: Level | None
    level_name: str | None
    probabilities: list[float] | None
    expected_level: float | None
    title: str
    text: str
    passage: PassageBody | None
    signals: SignalsBody | None
    metadata: dict[str, Any]


class FacetValue(Answer, kw_only=True):
    """A value of a field and how many documents have it."""

    value: str | float | bool
    count: int


class ResultBody(Answer, kw_only=True):
    """The hits of one query, and how much of the work was done; see `SearchResult`."""

    query: str | None
    hits: list[HitBody]
    order: str
    matching: int | None
    candidates: int
    scored: int
    skipped: int
    scored_hits: int
    scanned: bool
    elapsed_ms: float
    steps: dict[str, float]
    facets: dict[str, list[FacetValue]]
    nothing_relevant: Probability | None
    outside: list[str]
    warnings: list[str]


class SearchAnswer(Answer, kw_only=True):
    """Results in the order of the queries, all of one generation.

    `promise` is the one that `min_precision` asked for; it does not hold where a result is `outside`, and
    `warnings` of the result say so.
    """

    index: str
    model: str
    scorer: str | None
    generation: str
    promise: PromiseBody | None
    results: list[ResultBody]


# Documents.


class DocumentsRequest(Strict, kw_only=True):
    """Documents to add, in place of those that have their ids; what is no id, title or text is metadata."""

    documents: list[dict[str, Any]]
    index: str | None = None
    wait: bool = True


class WrittenAnswer(Answer, kw_only=True):
    """The documents are durable, and found from this generation on."""

    written: int
    generation: str


class AcceptedAnswer(Answer, kw_only=True):
    """The request waits to be written; it is lost if the server is killed before."""

    accepted: int


class DeleteRequest(Strict, kw_only=True):
    """Documents to delete: by ids, or by a filter."""

    index: str | None = None
    ids: list[str] | None = None
    where: str | dict[str, Any] | None = None
    wait: bool = True


class DeletedAnswer(Answer, kw_only=True):
    """How many documents are no longer found from this generation on."""

    deleted: int
    generation: str


class DocumentBody(Answer, kw_only=True):
    """A document of an index."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


# The server.


class FieldCard(Answer, kw_only=True):
    """A field of an index's metadata and the kinds of its values."""

    name: str
    kinds: list[str]


class IndexCard(Answer, kw_only=True):
    """An index that is served; `promises` are those of its own model, of hybrid and lexical searches."""

    name: str
    model: str
    scorer: str | None
    documents: int
    generation: str
    lexical: bool
    levels: bool
    promises: list[PromiseBody]
    modes: list[str]
    scorers: list[str]
    fields: list[FieldCard]
    writable: bool


class LimitsCard(Answer, kw_only=True):
    """What a request may hold and how long it may wait; `max_wait_ms` is null where the server chooses."""

    max_body_bytes: int
    max_inputs: int
    max_documents: int
    max_wait_ms: float | None
    max_query_characters: int


class ServerCard(Answer, kw_only=True):
    """What the server serves."""

    version: str
    models: list[ModelCard]
    indexes: list[IndexCard]
    limits: LimitsCard
    batch_invariant: bool
    workers: int


class InfoAnswer(Answer, kw_only=True):
    """What text-embeddings-inference tells of its model, and all of it in `relsdk`."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Any]
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    max_concurrent_requests: int
    tokenization_workers: int
    version: str
    relsdk: ServerCard


class HealthAnswer(Answer, kw_only=True):
    """Whether the server can answer, and what was looked at."""

    status: Literal["ok", "starting", "draining", "broken"]
    checks: dict[str, str]
