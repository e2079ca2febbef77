"""The calls of a client as flows of requests: what `Client` and `AsyncClient` share.

Shape letters: N inputs, D dimension.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from relsdk.client._answers import (
    DeleteAnswer,
    Embeddings,
    Grades,
    InfoAnswer,
    Limits,
    SearchAnswer,
    ServerInfo,
    WriteAnswer,
    document_with,
    predictions_of,
    read,
    results_of,
    vectors_of,
    written_count,
)
from relsdk.client._exchange import Exchange, Flow, Request
from relsdk.client._requests import (
    body_of,
    check_key,
    check_url,
    document_fields,
    document_path,
    item_list,
    pair_fields,
    parts_of,
    text_list,
    to_json,
)
from relsdk.errors import InputError, RelsdkError, ServerError, TruncationWarning
from relsdk.records import Document, Predictions, RankedDocument, SearchResult

__all__ = ["Calls", "Truncation"]

Kind = TypeVar("Kind")
Result = TypeVar("Result")
Truncation = Literal["warn", "error", "silent"]

_TRUNCATE: dict[str, bool | str] = {"warn": True, "silent": True, "error": "error"}
# Room for the braces and names around a list in a body.
_AROUND = 64
# Of `info`: nobody there, rather than nobody who says what the limits are.
_ABSENT = ("unreachable", "overloaded", "unavailable")


class Calls:
    """Each call is a generator of attempts, which returns what the client's method returns.

    Args:
        url: See `Client`.
        key: See `Client`.
        model: See `Client`.
        index: See `Client`.
        timeout: See `Client`.
        max_retries: See `Client`.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        model: str | None,
        index: str | None,
        timeout: float,
        max_retries: int,
    ) -> None:
        self.url = check_url(url)
        key = check_key(os.environ.get("RELSDK_KEY") if key is None else key)
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not number or not 0 < timeout < float("inf"):
            raise InputError(f"timeout={timeout!r}; seconds above 0 are needed")
        if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
            raise InputError(f"max_retries={max_retries!r}; a whole number from 0 on is needed")
        self.exchange = Exchange(self.url, key, timeout, max_retries)
        self._model = model
        self._index = index
        self._limits: Limits | None = None  # asked for when a list is sent

    def encode(
        self,
        inputs: str | Sequence[str],
        input_type: str | None,
        prompt_name: str | None,
        dimensions: int | None,
        truncation: Truncation,
        model: str | None,
    ) -> Flow[NDArray[np.float32]]:
        """See `Client.encode`, and `encode_query` and `encode_document` for the input type."""
        if truncation not in _TRUNCATE:
            raise InputError(f"truncation={truncation!r}; allowed are {list(_TRUNCATE)}")
        texts = text_list(inputs, "input")
        if not texts:
            width = dimensions or (yield from self._dimension(model or self._model))
            return np.empty((0, width), dtype=np.float32)
        fields = {
            "model": model or self._model,
            "encoding_format": "base64",
            "input_type": input_type,
            "prompt_name": prompt_name,
            "dimensions": dimensions,
            "truncate": _TRUNCATE[truncation],
        }
        limits = yield from self._limits_for(texts)
        cut = 0

        def convert(answer: Embeddings, count: int) -> NDArray[np.float32]:
            nonlocal cut
            cut += answer.truncated
            return vectors_of(answer, count, dimensions)

        parts = yield from self._in_parts(
            ("/v1/embeddings", "input"),
            fields,
            map(to_json, texts),
            limits,
            limits.max_inputs,
            Embeddings,
            convert,
        )
        if cut and truncation == "warn":
            message = f"{cut} of {len(texts)} inputs exceed the model's limit and were cut"
            warnings.warn(message, TruncationWarning, stacklevel=4)
        if len({part.shape[1] for part in parts}) > 1:
            raise ServerError(
                f"{self.url} changed its model in the middle of a list: vectors of "
                f"{sorted({part.shape[1] for part in parts})} numbers; encode it again",
                code="wrong_answer",
            )
        return parts[0][0] if isinstance(inputs, str) else np.concatenate(parts)

    def predict(self, pairs: Sequence[Any], model: str | None) -> Flow[Predictions]:
        """See `Client.predict`."""
        listed = [pair_fields(pair, position) for position, pair in enumerate(item_list(pairs, "pairs"))]
        if not listed:
            return predictions_of(Grades("", [], 0), 0)
        limits = yield from self._limits_for(listed)
        parts = yield from self._in_parts(
            ("/v1/grade", "pairs"),
            {"model": model or self._model},
            map(to_json, listed),
            limits,
            min(limits.max_inputs, limits.max_documents),
            Grades,
            predictions_of,
        )
        return Predictions.concatenate(parts)

    def rank(
        self, query: str, documents: Sequence[str | Document], top_k: int | None, model: str | None
    ) -> Flow[list[RankedDocument]]:
        """See `Client.rank`."""
        whole = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
        if top_k is not None and not (whole and top_k >= 1):
            raise InputError(f"top_k={top_k!r}; a whole number from 1 on is needed")
        listed = item_list(documents, "documents")
        predictions = yield from self.predict([(query, document) for document in listed], model)
        order = np.argsort(-predictions.scores, kind="stable")[:top_k]
        return [RankedDocument(int(row), predictions[int(row)]) for row in order]

    def search(
        self, query: str | None, k: int, like: str | None, options: Mapping[str, Any]
    ) -> Flow[SearchResult]:
        """See `Client.search`."""
        if (query is None) == (like is None):
            raise InputError("give either a query, or like: the id of a document to find similar ones of")
        fields = self._search_fields(k, {"query": query, "like": like, **options})
        answer = yield from self.exchange.send(Request("POST", "/v1/search", body_of(fields)))
        (result,) = read(self.exchange, answer, SearchAnswer, partial(results_of, count=1, k=k))
        return result

    def search_batch(
        self, queries: Sequence[str], k: int, options: Mapping[str, Any]
    ) -> Flow[list[SearchResult]]:
        """See `Client.search_batch`."""
        texts = text_list(item_list(queries, "queries"), "query")
        limits = yield from self._limits_for(texts)
        parts = yield from self._in_parts(
            ("/v1/search", "queries"),
            self._search_fields(k, options),
            map(to_json, texts),
            limits,
            limits.max_inputs,
            SearchAnswer,
            partial(results_of, k=k),
        )
        return [result for part in parts for result in part]

    def upsert(
        self, documents: Iterable[Document | Mapping[str, Any]], index: str | None, wait: bool
    ) -> Flow[int]:
        """See `Client.upsert`."""
        if isinstance(documents, Document | str | bytes | Mapping) or not isinstance(documents, Iterable):
            raise InputError(f"documents is a {type(documents).__name__}; an iterable of documents is needed")
        limits = yield from self._limits_for(None)
        parts = yield from self._in_parts(
            ("/v1/documents", "documents"),
            {"index": index or self._index, "wait": wait},
            _documents(documents),
            limits,
            limits.max_inputs,
            WriteAnswer,
            written_count,
        )
        return sum(parts)

    def get(self, ids: Sequence[str], index: str | None) -> Flow[list[Document]]:
        """See `Client.get`."""
        documents = []
        index = index or self._index
        for identifier in text_list(item_list(ids, "ids"), "id"):
            path = document_path(identifier, index)
            answer = yield from self.exchange.send(Request("GET", path))
            check = partial(document_with, identifier=identifier)
            documents.append(read(self.exchange, answer, Document, check))
        return documents

    def delete(
        self, ids: Sequence[str] | None, where: str | Mapping[str, Any] | None, index: str | None
    ) -> Flow[int]:
        """See `Client.delete`."""
        if (ids is None) == (where is None):
            raise InputError("give either ids or where: which documents to delete")
        target = ("/v1/documents/delete", "ids")
        fields = {"index": index or self._index}
        if ids is None:
            # Not twice: in between, another one may have written documents that the filter allows.
            request = Request("POST", target[0], body_of({**fields, "where": where}), repeatable=False)
            answer = yield from self.exchange.send(request)
            return read(self.exchange, answer, DeleteAnswer, lambda deleted: deleted.deleted)
        texts = text_list(item_list(ids, "ids"), "id")
        limits = yield from self._limits_for(texts)
        parts = yield from self._in_parts(
            target,
            fields,
            map(to_json, texts),
            limits,
            limits.max_inputs,
            DeleteAnswer,
            lambda deleted, count: deleted.deleted,
        )
        return sum(parts)

    def info(self) -> Flow[ServerInfo]:
        """See `Client.info`."""
        answer = yield from self.exchange.send(Request("GET", "/info"))
        return read(self.exchange, answer, InfoAnswer, lambda info: info.relsdk)

    def ready(self) -> Flow[bool]:
        """See `Client.ready`."""
        try:
            yield from self.exchange.send(Request("GET", "/readyz"), max_retries=0)
        except ServerError as error:
            if error.code in _ABSENT:
                return False
            raise
        return True

    def _search_fields(self, k: int, options: Mapping[str, Any]) -> dict[str, Any]:
        facets = item_list(options["facets"], "facets")
        index = options["index"] or self._index
        return {**options, "k": k, "index": index, "facets": facets or None}

    def _dimension(self, model: str | None) -> Flow[int]:
        """Return the dimension of an encoder, of the first one without a name."""
        info = yield from self.info()
        for one in info.models:
            if one.dimension is not None and model in (None, one.id):
                return one.dimension
        raise InputError(f"{self.url} has no encoder {model or ''}; it has {[one.id for one in info.models]}")

    def _limits_for(self, items: Sequence[object] | None) -> Flow[Limits]:
        """Return what fits into a request: once asked of the server, when more than one item is sent."""
        if self._limits is None and (items is None or len(items) > 1):
            try:
                self._limits = (yield from self.info()).limits
            except (InputError, ServerError) as error:  # a gateway may hide /info
                if getattr(error, "code", "") in _ABSENT:
                    raise
                self._limits = Limits()
        return self._limits or Limits()

    def _in_parts(
        self,
        target: tuple[str, str],
        fields: Mapping[str, Any],
        items: Iterable[bytes],
        limits: Limits,
        most: int,
        kind: type[Kind],
        convert: Callable[[Kind, int], Result],
    ) -> Flow[list[Result]]:
        """Send a list in as many requests as it needs, one after the other.

        Args:
            target: Path, and the name of the list in the body.
            fields: The rest of the body.
            items: JSON of each.
            limits: Of the server.
            most: How many a request may hold.
            kind: The type of the answers.
            convert: An answer and the number of its items to a result.
        """
        path, name = target
        results: list[Result] = []
        done = 0
        try:
            for part in parts_of(items, most, limits, len(body_of(fields)) + _AROUND):
                answer = yield from self.exchange.send(Request("POST", path, body_of(fields, name, part)))
                results.append(read(self.exchange, answer, kind, _with_count(convert, len(part))))
                done += len(part)
        except RelsdkError as error:
            if done:
                # A server counts from the start of its part, and parts of a list may be written already.
                first = str(error.args[0]) if error.args else ""
                error.args = (f"{first} (after the first {done:,} of {name}, which are done)",)
            raise
        return results


def _with_count(convert: Callable[[Kind, int], Result], count: int) -> Callable[[Kind], Result]:
    return lambda answer: convert(answer, count)


def _documents(documents: Iterable[Any]) -> Iterator[bytes]:
    for position, document in enumerate(documents, start=1):
        yield to_json(document_fields(document, position))
