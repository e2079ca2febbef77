"""Haystack: embedders, a retriever and a ranker whose documents carry levels.

`pip install 'relsdk[haystack]'`. In the meta of a document, `level` (0 to 3) and `probabilities` say how
relevant it is; `title` is its title. The score is where Haystack has it. A component is saved by its
settings, and opens its models when it is warmed up or first runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relsdk import records
from relsdk.errors import InputError, MissingExtraError
from relsdk.integrations import _documents, _models
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.search.searcher import Searcher

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise MissingExtraError("relsdk.integrations.haystack", "haystack") from error

__all__ = ["RelsdkDocumentEmbedder", "RelsdkRanker", "RelsdkRetriever", "RelsdkTextEmbedder"]
__all__ += ["to_haystack", "to_relsdk"]


class _Saved:
    """A component that keeps each argument of its constructor in an attribute of the same name."""

    def warm_up(self) -> None:
        """Open the models, once."""
        self._opened()

    def _opened(self) -> Any:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, for `Pipeline.dumps`."""
        names = inspect.signature(type(self).__init__).parameters
        saved: dict[str, Any] = default_to_dict(
            self, **{name: getattr(self, name) for name in names if name != "self"}
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Make a component of its settings, for `Pipeline.loads`."""
        # Haystack would take a filter on a field "type" for a saved object.
        settings = dict(data.get("init_parameters", {}))
        where = settings.pop("where", None)
        made = default_from_dict(cls, {**data, "init_parameters": settings})
        if where is not None:
            made.where = where
        return made


class _Embedding(_Saved):
    """What has an encoder."""

    def __init__(
        self,
        model: str,
        *,
        variant: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = _models.plain_path("model", model)
        self.variant = variant
        self.threads = threads
        self.truncate_dim = truncate_dim
        self._embedder: Embedder | None = None

    def _opened(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(
                self.model, variant=self.variant, threads=self.threads, truncate_dim=self.truncate_dim
            )
        return self._embedder


@component
class RelsdkTextEmbedder(_Embedding):
    """The vector of a query, by the model's own prompt.

    Args:
        model: A bundle.
        variant: See `Embedder`.
        threads: See `Embedder`.
        truncate_dim: See `Embedder`.
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return {"embedding": a vector of unit length}."""
        return {"embedding": self._opened().encode_query(_models.single_text("text", text)).tolist()}


@component
class RelsdkDocumentEmbedder(_Embedding):
    """The vectors of documents: of title and text, by the model's own template.

    Args:
        model: A bundle.
        variant: See `Embedder`.
        threads: See `Embedder`.
        truncate_dim: See `Embedder`.
        batch_size: See `Embedder.encode`.
        progress_bar: Show how far it has come on stderr.
    """

    def __init__(
        self,
        model: str,
        *,
        variant: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = False,
    ) -> None:
        # Not super(): the decorator makes the class anew.
        _Embedding.__init__(self, model, variant=variant, threads=threads, truncate_dim=truncate_dim)
        self.batch_size = batch_size
        self.progress_bar = progress_bar

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return {"documents": copies with their vectors}."""
        vectors = self._opened().encode_document(
            _read(documents), batch_size=self.batch_size, show_progress_bar=self.progress_bar
        )  # (N, D)
        pairs = zip(documents, vectors.tolist(), strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}


@component
class RelsdkRetriever(_Saved):
    """Retrieves from an index.

    Args:
        index: The index, or a store's URI.
        model: The encoder's bundle; None finds the one that built the index.
        scorer: A bundle that re-scores the top candidates.
        variant: See `Embedder`.
        threads: See `Embedder`.
        top_k: How many documents at most.
        min_level: Leave out documents whose most probable level is lower.
        where: Filter on metadata; see `Index.search`.
        search_kwargs: What else `Searcher.search` takes, such as `mode` or `min_confidence`.
    """

    def __init__(
        self,
        index: str,
        *,
        model: str | None = None,
        scorer: str | None = None,
        variant: str = "auto",
        threads: int | None = None,
        top_k: int = 10,
        min_level: int | None = None,
        where: Mapping[str, Any] | None = None,
        search_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        _models.check_limits(min_level, top_k=top_k)
        _models.check_search_kwargs(search_kwargs)
        self.index = _models.plain_path("index", index)
        self.model = None if model is None else _models.plain_path("model", model)
        self.scorer = None if scorer is None else _models.plain_path("scorer", scorer)
        self.variant = variant
        self.threads = threads
        self.top_k = top_k
        self.min_level = min_level
        self.where = dict(where) if isinstance(where, Mapping) else where
        self.search_kwargs = dict(search_kwargs or {})
        self._searcher: Searcher | None = None

    def close(self) -> None:
        """Let go of the index; it is opened again when it is needed."""
        if self._searcher is not None:
            _models.close_index(self._searcher.index)
            self._searcher = None

    def _opened(self) -> Searcher:
        if self._searcher is None:
            names = ("model", "scorer", "variant", "threads")
            self._searcher = _models.open_index(self.index, **{name: getattr(self, name) for name in names})
        return self._searcher

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        top_k: int | None = None,
        min_level: int | None = None,
        where: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return {"documents": hits}; what is given here goes first."""
        options = {
            "k": self.top_k if top_k is None else top_k,
            "min_level": self.min_level if min_level is None else min_level,
            "where": self.where if where is None else where,
        }
        hits = self._opened().search(query, **{**options, **self.search_kwargs})
        return {"documents": [to_haystack(hit) for hit in hits]}


@component
class RelsdkRanker(_Saved):
    """Grades documents, the most relevant first, and leaves out what is not relevant enough.

    Args:
        model: A scorer bundle, or a calibrated encoder bundle.
        min_level: Leave out documents whose most probable level is lower; None keeps all.
        top_k: How many documents at most; None keeps all.
        variant: See `RelevanceScorer`.
        threads: See `RelevanceScorer`.
    """

    def __init__(
        self,
        model: str,
        *,
        min_level: int | None = None,
        top_k: int | None = None,
        variant: str = "auto",
        threads: int | None = None,
    ) -> None:
        _models.check_limits(min_level, top_k=top_k)
        self.model = _models.plain_path("model", model)
        self.min_level = min_level
        self.top_k = top_k
        self.variant = variant
        self.threads = threads
        self._scorer: RelevanceScorer | None = None

    def _opened(self) -> RelevanceScorer:
        if self._scorer is None:
            self._scorer = RelevanceScorer(self.model, variant=self.variant, threads=self.threads)
        return self._scorer

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        min_level: int | None = None,
    ) -> dict[str, Any]:
        """Return {"documents": copies of those that are kept}; what is given here goes first."""
        _models.check_limits(min_level, top_k=top_k)
        ranked = _models.rank(
            self._opened(),
            query,
            _read(documents),
            top_n=self.top_k if top_k is None else top_k,
            min_level=self.min_level if min_level is None else min_level,
        )
        return {"documents": [_graded(documents[one.index], one.relevance) for one in ranked]}


def to_haystack(document: records.Document | records.Hit) -> Document:
    """Return a document or a hit as Haystack's; `to_relsdk` makes the document of it again."""
    if not isinstance(document, records.Hit):
        text, meta = _documents.show_document(document)
        return Document(id=document.id, content=text, meta=meta)
    text, meta = _documents.show_hit(document)
    score = meta.pop("score")
    return Document(id=document.document.id, content=text, meta=meta, score=score)


def to_relsdk(document: Document) -> records.Document:
    """Return Haystack's document as one that `Index.build` takes.

    Raises:
        InputError: It is something else, or has no text.
    """
    if not isinstance(document, Document):
        raise InputError(f"{type(document).__name__} is no document; one of haystack is needed")
    if document.content is None:
        raise InputError(f"document {document.id!r} has no content; a text is needed")
    return _documents.read_document(document.id, document.content, document.meta)


def _read(documents: list[Document]) -> list[records.Document]:
    if not isinstance(documents, list | tuple):
        raise InputError(f"documents is {type(documents).__name__}; a list of documents is needed")
    return [to_relsdk(document) for document in documents]


def _graded(document: Document, relevance: records.Relevance) -> Document:
    grade = _documents.grade_fields(relevance, relevance.score)
    score = grade.pop("score")
    return replace(document, score=score, meta=_documents.add_grade(document.meta, grade))
