"""LangChain: embeddings, a retriever and a document compressor whose documents carry levels.

`pip install 'relsdk[langchain]'`. In the metadata of a document, `score`, `level` (0 to 3) and
`probabilities` say how relevant it is; `title` is its title.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from relsdk.errors import InputError, MissingExtraError
from relsdk.integrations import _documents, _models
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document, Hit
from relsdk.search.searcher import Searcher

try:
    from langchain_core import documents as langchain_documents
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
except ImportError as error:
    raise MissingExtraError("relsdk.integrations.langchain", "langchain") from error

__all__ = ["RelsdkCompressor", "RelsdkEmbeddings", "RelsdkRetriever", "to_langchain", "to_relsdk"]


class RelsdkEmbeddings(BaseModel, Embeddings):
    """Embeddings of an encoder bundle: `embed_query` and `embed_documents` put the model's own prompts.

    Args:
        model: A bundle, or an open `Embedder`.
        variant: See `Embedder`.
        threads: See `Embedder`.
        truncate_dim: See `Embedder`.
        batch_size: See `Embedder.encode`.
        show_progress: Show how far `embed_documents` has come on stderr.

    Raises:
        InputError: `model` is something else, or an argument is out of range.
        BundleError: The folder is missing or damaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Any
    variant: str = "auto"
    threads: int | None = None
    truncate_dim: int | None = None
    batch_size: int | None = None
    show_progress: bool = False
    _embedder: Embedder = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._embedder = _models.open_embedder(
            self.model, variant=self.variant, threads=self.threads, truncate_dim=self.truncate_dim
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of unit length for each text."""
        if isinstance(texts, str):
            raise InputError("texts is one string; a list of strings is needed")
        vectors: list[list[float]] = self._embedder.encode_document(
            texts, batch_size=self.batch_size, show_progress_bar=self.show_progress
        ).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        vector: list[float] = self._embedder.encode_query(_models.single_text("text", text)).tolist()
        return vector


class RelsdkRetriever(BaseRetriever):
    """Retrieves from an index; `invoke` takes other values for one call, such as `invoke(query, k=3)`.

    Args:
        searcher: An open `Searcher`; `from_index` opens one.
        k: How many documents at most.
        min_level: Leave out documents whose most probable level is lower.
        where: Filter on metadata; see `Index.search`.
        search_kwargs: What else `Searcher.search` takes, such as `mode` or `min_confidence`.

    Raises:
        InputError: An argument is out of range.
    """

    searcher: Searcher
    k: int = 10
    min_level: int | None = None
    where: Mapping[str, Any] | None = None
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        _models.check_limits(self.min_level, k=self.k)
        _models.check_search_kwargs(self.search_kwargs)

    @classmethod
    def from_index(
        cls,
        index: str | os.PathLike[str],
        *,
        model: str | None = None,
        scorer: str | None = None,
        variant: str = "auto",
        threads: int | None = None,
        **fields: Any,
    ) -> RelsdkRetriever:
        """Open an index with the encoder that built it, or another copy of that, and perhaps a scorer.

        Args:
            index: The index, or a store's URI.
            model: The encoder's bundle; None finds it.
            scorer: A bundle that re-scores the top candidates.
            variant: See `Embedder`.
            threads: See `Embedder`.
            fields: Of the retriever.

        Raises:
            IndexFolderError: The index is missing or damaged.
            BundleError: A model is missing or damaged.
        """
        options = {"model": model, "scorer": scorer, "variant": variant, "threads": threads}
        return cls(searcher=_models.open_index(index, **options), **fields)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[langchain_documents.Document]:
        own = {"k": self.k, "min_level": self.min_level, "where": self.where}
        hits = self.searcher.search(query, **{**own, **self.search_kwargs, **kwargs})
        return [to_langchain(hit) for hit in hits]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[langchain_documents.Document]:
        # The base class takes no further arguments here.
        call = partial(self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs)
        documents: list[langchain_documents.Document] = await run_in_executor(None, call)
        return documents


class RelsdkCompressor(langchain_documents.BaseDocumentCompressor):
    """Grades retrieved documents, the most relevant first, and leaves out what is not relevant enough.

    Args:
        model: A scorer bundle, a calibrated encoder bundle, or an open `RelevanceScorer`.
        min_level: Leave out documents whose most probable level is lower; None keeps all.
        top_n: How many documents at most; None keeps all.
        variant: See `RelevanceScorer`.
        threads: See `RelevanceScorer`.

    Raises:
        InputError: `model` is something else, or an argument is out of range.
        CalibrationError: The model gives no levels.
        BundleError: The folder is missing or damaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Any
    min_level: int | None = None
    top_n: int | None = None
    variant: str = "auto"
    threads: int | None = None
    _scorer: RelevanceScorer = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        _models.check_limits(self.min_level, top_n=self.top_n)
        self._scorer = _models.open_scorer(self.model, variant=self.variant, threads=self.threads)

    def compress_documents(
        self,
        documents: Sequence[langchain_documents.Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> Sequence[langchain_documents.Document]:
        """Return copies of the documents that are kept; the scorer reads title and text."""
        ranked = _models.rank(
            self._scorer,
            query,
            [to_relsdk(document) for document in documents],
            top_n=self.top_n,
            min_level=self.min_level,
        )
        return [
            documents[one.index].model_copy(
                update={
                    "metadata": _documents.add_grade(
                        documents[one.index].metadata,
                        _documents.grade_fields(one.relevance, one.relevance.score),
                    )
                }
            )
            for one in ranked
        ]


def to_langchain(document: Document | Hit) -> langchain_documents.Document:
    """Return a document or a hit as LangChain's; `to_relsdk` makes the document of it again."""
    if isinstance(document, Hit):
        text, metadata = _documents.show_hit(document)
        return langchain_documents.Document(text, id=document.document.id, metadata=metadata)
    text, metadata = _documents.show_document(document)
    return langchain_documents.Document(text, id=document.id, metadata=metadata)


def to_relsdk(document: langchain_documents.Document) -> Document:
    """Return LangChain's document as one that `Index.build` takes.

    One without an id gets one of its content, the same each time.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(document, langchain_documents.Document):
        raise InputError(f"{type(document).__name__} is no document; one of langchain_core is needed")
    identifier = document.id
    if not identifier:
        content = json.dumps([document.page_content, document.metadata], sort_keys=True, default=str)
        identifier = hashlib.sha256(content.encode()).hexdigest()[:32]
    return _documents.read_document(identifier, document.page_content, document.metadata)
