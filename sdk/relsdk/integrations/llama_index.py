"""LlamaIndex: an embedding, a retriever and a re-ranker whose nodes carry levels.

`pip install 'relsdk[llama-index]'`. In the metadata of a node, `level` (0 to 3) and `probabilities` say how
relevant it is; `title` is its title. The score is where LlamaIndex has it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from relsdk.errors import InputError, MissingExtraError
from relsdk.integrations import _documents, _models
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document, Relevance
from relsdk.search.searcher import Searcher

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise MissingExtraError("relsdk.integrations.llama_index", "llama-index") from error

__all__ = ["RelsdkEmbedding", "RelsdkRerank", "RelsdkRetriever", "to_node", "to_relsdk"]

# LlamaIndex hands over so many texts at a time; relsdk makes batches of similar length of them.
_TEXTS = 256
# What neither an encoder nor a language model should read as a part of the text.
_NOT_TEXT = (*_documents.GRADE, "passage")


class RelsdkEmbedding(BaseEmbedding):
    """Embeddings of an encoder bundle: queries and texts get the model's own prompts.

    Args:
        model: A bundle, or an open `Embedder`.
        variant: See `Embedder`.
        threads: See `Embedder`.
        truncate_dim: See `Embedder`.
        fields: Of `BaseEmbedding`, such as `embed_batch_size`.

    Raises:
        InputError: `model` is something else, or an argument is out of range.
        BundleError: The folder is missing or damaged.
    """

    model: Any = Field(description="A relsdk bundle, or an open Embedder.")
    variant: str = Field(default="auto", description="Which file of the bundle.")
    threads: int | None = Field(default=None, description="Threads per operator.")
    truncate_dim: int | None = Field(default=None, description="Keep the first so many coordinates.")
    _embedder: Embedder = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder,
        *,
        variant: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        **fields: Any,
    ) -> None:
        options: dict[str, Any] = {"variant": variant, "threads": threads, "truncate_dim": truncate_dim}
        embedder = _models.open_embedder(model, **options)
        named = {"model_name": embedder.name, "embed_batch_size": _TEXTS, **fields}
        super().__init__(model=_saved(model), **options, **named)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex saves it."""
        return "RelsdkEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.encode_query(_models.single_text("query", query)).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([_models.single_text("text", text)])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.encode_document(texts).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class RelsdkRetriever(BaseRetriever):
    """Retrieves from an index.

    Args:
        searcher: An open `Searcher`; `from_index` opens one.
        similarity_top_k: How many nodes at most.
        min_level: Leave out documents whose most probable level is lower.
        where: Filter on metadata; see `Index.search`.
        search_kwargs: What else `Searcher.search` takes, such as `mode` or `min_confidence`.
        options: Of `BaseRetriever`.

    Raises:
        InputError: `searcher` is something else, or an argument is out of range.
    """

    def __init__(
        self,
        searcher: Searcher,
        *,
        similarity_top_k: int = 10,
        min_level: int | None = None,
        where: Mapping[str, Any] | None = None,
        search_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(searcher, Searcher):
            raise InputError(
                f"searcher is {type(searcher).__name__}; a Searcher is needed, or use from_index"
            )
        _models.check_limits(min_level, similarity_top_k=similarity_top_k)
        _models.check_search_kwargs(search_kwargs)
        super().__init__(**options)
        self.searcher = searcher
        self.similarity_top_k = similarity_top_k
        self.min_level = min_level
        self.where = where
        self.search_kwargs = dict(search_kwargs or {})

    @classmethod
    def from_index(
        cls,
        index: str | os.PathLike[str],
        *,
        model: str | None = None,
        scorer: str | None = None,
        variant: str = "auto",
        threads: int | None = None,
        **options: Any,
    ) -> RelsdkRetriever:
        """Open an index with the encoder that built it, or another copy of that, and perhaps a scorer.

        Args:
            index: The index, or a store's URI.
            model: The encoder's bundle; None finds it.
            scorer: A bundle that re-scores the top candidates.
            variant: See `Embedder`.
            threads: See `Embedder`.
            options: Of the retriever.

        Raises:
            IndexFolderError: The index is missing or damaged.
            BundleError: A model is missing or damaged.
        """
        models = {"model": model, "scorer": scorer, "variant": variant, "threads": threads}
        return cls(_models.open_index(index, **models), **options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        own = {"k": self.similarity_top_k, "min_level": self.min_level, "where": self.where}
        hits = self.searcher.search(query_bundle.query_str, **{**own, **self.search_kwargs})
        return [
            NodeWithScore(node=_node(hit.document.id, *_documents.show_hit(hit)), score=hit.score)
            for hit in hits
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class RelsdkRerank(BaseNodePostprocessor):
    """Grades retrieved nodes, the most relevant first, and leaves out what is not relevant enough.

    Args:
        model: A scorer bundle, a calibrated encoder bundle, or an open `RelevanceScorer`.
        min_level: Leave out nodes whose most probable level is lower; None keeps all.
        top_n: How many nodes at most; None keeps all.
        variant: See `RelevanceScorer`.
        threads: See `RelevanceScorer`.
        fields: Of `BaseNodePostprocessor`.

    Raises:
        InputError: `model` is something else, or an argument is out of range.
        CalibrationError: The model gives no levels.
        BundleError: The folder is missing or damaged.
    """

    model: Any = Field(description="A relsdk bundle, or an open RelevanceScorer.")
    min_level: int | None = Field(default=None, description="The lowest level that is kept.")
    top_n: int | None = Field(default=None, description="How many nodes at most.")
    variant: str = Field(default="auto", description="Which file of the bundle.")
    threads: int | None = Field(default=None, description="Threads per operator.")
    _scorer: RelevanceScorer = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | RelevanceScorer | Embedder,
        *,
        min_level: int | None = None,
        top_n: int | None = None,
        variant: str = "auto",
        threads: int | None = None,
        **fields: Any,
    ) -> None:
        _models.check_limits(min_level, top_n=top_n)
        scorer = _models.open_scorer(model, variant=variant, threads=threads)
        own = {"min_level": min_level, "top_n": top_n, "variant": variant, "threads": threads}
        super().__init__(model=_saved(model), **own, **fields)
        self._scorer = scorer

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex saves it."""
        return "RelsdkRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("no query; give query_str or query_bundle")
        payload = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._scorer.model.bundle.name,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            ranked = _models.rank(
                self._scorer,
                query_bundle.query_str,
                [to_relsdk(node.node) for node in nodes],
                top_n=self.top_n,
                min_level=self.min_level,
            )
            kept = [_graded(nodes[one.index].node, one.relevance) for one in ranked]
            event.on_end(payload={EventPayload.NODES: kept})
        return kept


def to_node(document: Document) -> TextNode:
    """Return a document as a node, for an index of LlamaIndex; `to_relsdk` makes the document of it again."""
    text, metadata = _documents.show_document(document)
    return _node(document.id, text, metadata)


def to_relsdk(node: BaseNode) -> Document:
    """Return a node, or one with a score, as a document that `Index.build` takes.

    Raises:
        InputError: It is something else.
    """
    node = node.node if isinstance(node, NodeWithScore) else node
    if not isinstance(node, BaseNode):
        raise InputError(f"{type(node).__name__} is no node; one of llama_index.core is needed")
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return _documents.read_document(node.node_id, text, node.metadata)


def _node(identifier: str, text: str, metadata: dict[str, Any]) -> TextNode:
    """Return a node whose text is read with its title once, and without its grade."""
    hidden = [*_NOT_TEXT, "title", "text"] if metadata.get("title") == text else [*_NOT_TEXT]
    hidden = [name for name in hidden if name in metadata]
    return TextNode(
        id_=identifier,
        text=text,
        metadata=metadata,
        excluded_embed_metadata_keys=hidden,
        excluded_llm_metadata_keys=[*hidden],
    )


def _graded(node: BaseNode, relevance: Relevance) -> NodeWithScore:
    """Return a copy with a grade: the node may be one that a store holds."""
    grade = _documents.grade_fields(relevance, relevance.score)
    score = grade.pop("score")
    excluded = {
        name: [*dict.fromkeys([*getattr(node, name), *grade])]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    copy = node.model_copy(update={"metadata": _documents.add_grade(node.metadata, grade), **excluded})
    return NodeWithScore(node=copy, score=score)


def _saved(model: Any) -> Any:
    """Return a path as a string, which can be saved; what is open as it is."""
    return os.fspath(model) if isinstance(model, os.PathLike) else model
