"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from numpy.typing import NDArray

from relsdk.client._answers import ServerInfo
from relsdk.client._calls import Calls, Truncation
from relsdk.client._exchange import Answer, Attempt, Flow, Outcome
from relsdk.client._http import HttpxClient, too_slow
from relsdk.records import Document, Matrix, Predictions, RankedDocument, SearchResult, Vector

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Unpack

    from relsdk.client._options import EncodeOptions, PromptOptions
    from relsdk.index import Mode
    from relsdk.models.pair_model import Pair

__all__ = ["Client"]

Result = TypeVar("Result")


class Client:
    """A relsdk server, with the calls of `Embedder`, `RelevanceScorer`, `Searcher` and `Index`.

    Threads may share one; after a fork each process has connections of its own. A context manager.

    A request that the server is too busy for (429, 503) is sent again when the server says. One whose
    connection broke is sent again if doing it twice does no harm: everything but `delete(where=...)`. Writing
    and deleting by id are such: the last state is the same, though a document that somebody else wrote in
    between is overwritten, and the number of deleted ones is what the last try found.

    Args:
        url: The server's address, with the path at which a gateway has it, if any.
        key: What the server wants to see; None takes it from the variable RELSDK_KEY, if it is set.
        model: The model of `encode`, `predict` and `rank`, by its name; None leaves it to the server.
        index: The index of a search or change, by its name; None leaves it to the server.
        timeout: Seconds for each request, its retries and the waits between them. It is looked at when bytes
            arrive: a server that sends a byte now and then can take twice as long.
        max_retries: How often a request is sent again.
        transport: Of httpx, for certificates, proxies or sockets of your own. Threads share its connections:
            let it keep as many as there are threads.

    Raises:
        MissingExtraError: httpx is not installed.
        InputError: An argument is wrong.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        model: str | None = None,
        index: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._calls = Calls(url, key, model, index, timeout, max_retries)
        self._http = HttpxClient("Client", self._calls.url, self._calls.headers, transport)

    @overload
    def encode(self, inputs: str, **options: Unpack[PromptOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode(self, inputs: Sequence[str], **options: Unpack[PromptOptions]) -> Matrix: ...
    def encode(
        self,
        inputs: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """Turn texts into vectors; see `Embedder.encode`.

        A long list goes in as many requests as the server's limits need.

        Args:
            inputs: One text, or N of them.
            prompt_name: Which of the model's prompts to put before each text: "query" or "document"; "" puts
                none. By default the one that the model calls its default, mostly none.
            dimensions: Keep the first so many coordinates, then normalise again.
            truncation: What to do when texts exceed the model's limit: "warn", "error" or "silent".
            model: Another model than the client's.

        Returns:
            (D,) for one text, (N, D) for a list; float32.

        Raises:
            InputError: An argument or an input is wrong.
            TruncationError: A text is too long and `truncation` is "error".
            ServerError: The server does not answer, is too busy, or answers something else.
        """
        return self._run(self._calls.encode(inputs, None, prompt_name, dimensions, truncation, model))

    @overload
    def encode_query(self, inputs: str, **options: Unpack[EncodeOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_query(self, inputs: Sequence[str], **options: Unpack[EncodeOptions]) -> Matrix: ...
    def encode_query(
        self,
        inputs: str | Sequence[str],
        *,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """Encode with the model's query prompt, to unit length; see `encode`."""
        return self._run(self._calls.encode(inputs, "query", None, dimensions, truncation, model))

    @overload
    def encode_document(self, inputs: str, **options: Unpack[EncodeOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_document(self, inputs: Sequence[str], **options: Unpack[EncodeOptions]) -> Matrix: ...
    def encode_document(
        self,
        inputs: str | Sequence[str],
        *,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """Encode with the model's document prompt, to unit length; see `encode`."""
        return self._run(self._calls.encode(inputs, "document", None, dimensions, truncation, model))

    def predict(self, pairs: Sequence[Pair], *, model: str | None = None) -> Predictions:
        """Grade pairs of query and document; see `RelevanceScorer.predict`.

        Args:
            pairs: (query, document) tuples; a document is text or a `Document`.
            model: Another model than the client's.

        Raises:
            CalibrationError: The model gives no levels.
            InputError: See `encode`.
            ServerError: See `encode`.
        """
        return self._run(self._calls.predict(pairs, model))

    def rank(
        self,
        query: str,
        documents: Sequence[str | Document],
        *,
        top_k: int | None = None,
        model: str | None = None,
    ) -> list[RankedDocument]:
        """Grade documents for one query, the most relevant first; see `RelevanceScorer.rank`."""
        return self._run(self._calls.rank(query, documents, top_k, model))

    def search(
        self,
        query: str | None = None,
        k: int = 10,
        *,
        like: str | None = None,
        offset: int = 0,
        min_level: int | None = None,
        min_score: float | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        where: str | Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        facets: Sequence[str] = (),
        mode: Mode | None = None,
        scorer: bool | str | None = None,
        budget_ms: float | None = None,
        index: str | None = None,
    ) -> SearchResult:
        """Find the most relevant documents; see `Searcher.search`.

        Args:
            query: What the user typed.
            k: How many hits at most.
            like: The id of a document to find similar ones of, instead of a query; see `Index.similar`.
            offset: Leave out so many hits first: the next page.
            min_level: Leave out hits whose most probable level is lower.
            min_score: Leave out hits whose score is lower.
            min_confidence: Leave out hits that are less probably of `min_level` (2 without one) or above.
            min_precision: Keep the hits above the threshold that is promised to give this precision for
                `min_level` (2 without one) or above.
            where: A filter, as a mapping or as `relsdk query --where` takes it.
            sort: A field, or -field for falling values.
            group_by: A field: of hits with the same value there, only the first is kept.
            facets: Fields whose values are counted: `SearchResult.facets`.
            mode: "dense", "lexical" or "hybrid"; None leaves it to the server.
            scorer: Whether a scorer re-scores the hits, or its name; None leaves it to the server.
            budget_ms: Milliseconds for the server's work; re-scoring is cut short.
            index: Another index than the client's.

        Raises:
            CalibrationError: `min_level` or the like is given, and there are no levels.
            InputError: See `encode`.
            ServerError: See `encode`.
        """
        options = {
            "offset": offset,
            "min_level": min_level,
            "min_score": min_score,
            "min_confidence": min_confidence,
            "min_precision": min_precision,
            "where": where,
            "sort": sort,
            "group_by": group_by,
            "facets": facets,
            "mode": mode,
            "scorer": scorer,
            "budget_ms": budget_ms,
            "index": index,
        }
        return self._run(self._calls.search(query, k, like, options))

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        offset: int = 0,
        min_level: int | None = None,
        min_score: float | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        where: str | Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        facets: Sequence[str] = (),
        mode: Mode | None = None,
        scorer: bool | str | None = None,
        index: str | None = None,
    ) -> list[SearchResult]:
        """Answer several queries; see `search`. One list of hits for each query, in their order."""
        options = {
            "offset": offset,
            "min_level": min_level,
            "min_score": min_score,
            "min_confidence": min_confidence,
            "min_precision": min_precision,
            "where": where,
            "sort": sort,
            "group_by": group_by,
            "facets": facets,
            "mode": mode,
            "scorer": scorer,
            "index": index,
        }
        return self._run(self._calls.search_batch(queries, k, options))

    def upsert(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        *,
        index: str | None = None,
        wait: bool = True,
    ) -> int:
        """Add documents, in place of those that have their ids; see `Index.upsert`.

        They are read and sent a part at a time; each part that was sent stays written when a later one fails.

        Args:
            documents: See `Index.build`.
            index: Another index than the client's.
            wait: Return when they are on the disk. False returns when the server has them in memory.

        Returns:
            How many were written (or will be).

        Raises:
            LockedError: Another process builds the index again.
            InputError: See `encode`.
            ServerError: See `encode`.
        """
        return self._run(self._calls.upsert(documents, index, wait))

    def get(self, ids: Sequence[str], *, index: str | None = None) -> list[Document]:
        """Return documents by id, in the order of `ids`; one that is not there is an `InputError`."""
        return self._run(self._calls.get(ids, index))

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: str | Mapping[str, Any] | None = None,
        index: str | None = None,
    ) -> int:
        """Delete documents, by id or by a filter; see `Index.delete`.

        Returns:
            How many were deleted.

        Raises:
            LockedError: See `upsert`.
            InputError: See `encode`.
            ServerError: See `encode`.
        """
        return self._run(self._calls.delete(ids, where, index))

    def info(self) -> ServerInfo:
        """Return what the server serves: `models`, `indexes`, `limits` and `version`."""
        return self._run(self._calls.info())

    def ready(self) -> bool:
        """Return whether the server takes requests now: not while it starts, ends, or is not there."""
        return self._run(self._calls.ready())

    def close(self) -> None:
        """Close the connections; more than once is fine."""
        for client in self._http.closing():
            client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._calls.url!r})"

    def _run(self, flow: Flow[Result]) -> Result:
        try:
            attempt = next(flow)
            while True:
                time.sleep(attempt.wait)
                attempt = flow.send(self._send(attempt))
        except StopIteration as done:
            result: Result = done.value
            return result

    def _send(self, attempt: Attempt) -> Outcome:
        end = time.monotonic() + attempt.timeout
        try:
            with self._http.taken() as client, self._http.stream(client, attempt) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > end:
                        return too_slow(attempt)
        except self._http.request_error as error:
            return self._http.lost(error)
        return Answer(response.status_code, dict(response.headers), bytes(content))
