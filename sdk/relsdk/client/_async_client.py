"""The client for asyncio."""

from __future__ import annotations

import asyncio
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

__all__ = ["AsyncClient"]

Result = TypeVar("Result")


class AsyncClient:
    """A relsdk server, for asyncio: the methods and arguments of `Client`, to be awaited.

    One belongs to one event loop; its tasks may share it. An asynchronous context manager.

    Args:
        url: See `Client`.
        key: See `Client`.
        model: See `Client`.
        index: See `Client`.
        timeout: Seconds for each request, its retries and the waits between them.
        max_retries: See `Client`.
        transport: See `Client`.

    Raises:
        MissingExtraError: See `Client`.
        InputError: See `Client`.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._calls = Calls(url, key, model, index, timeout, max_retries)
        self._http = HttpxClient("AsyncClient", self._calls.url, self._calls.headers, transport)

    @overload
    async def encode(self, inputs: str, **options: Unpack[PromptOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    async def encode(self, inputs: Sequence[str], **options: Unpack[PromptOptions]) -> Matrix: ...
    async def encode(
        self,
        inputs: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """See `Client.encode`."""
        return await self._run(self._calls.encode(inputs, None, prompt_name, dimensions, truncation, model))

    @overload
    async def encode_query(self, inputs: str, **options: Unpack[EncodeOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    async def encode_query(self, inputs: Sequence[str], **options: Unpack[EncodeOptions]) -> Matrix: ...
    async def encode_query(
        self,
        inputs: str | Sequence[str],
        *,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """See `Client.encode_query`."""
        return await self._run(self._calls.encode(inputs, "query", None, dimensions, truncation, model))

    @overload
    async def encode_document(self, inputs: str, **options: Unpack[EncodeOptions]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    async def encode_document(self, inputs: Sequence[str], **options: Unpack[EncodeOptions]) -> Matrix: ...
    async def encode_document(
        self,
        inputs: str | Sequence[str],
        *,
        dimensions: int | None = None,
        truncation: Truncation = "warn",
        model: str | None = None,
    ) -> NDArray[Any]:
        """See `Client.encode_document`."""
        return await self._run(self._calls.encode(inputs, "document", None, dimensions, truncation, model))

    async def predict(self, pairs: Sequence[Pair], *, model: str | None = None) -> Predictions:
        """See `Client.predict`."""
        return await self._run(self._calls.predict(pairs, model))

    async def rank(
        self,
        query: str,
        documents: Sequence[str | Document],
        *,
        top_k: int | None = None,
        model: str | None = None,
    ) -> list[RankedDocument]:
        """See `Client.rank`."""
        return await self._run(self._calls.rank(query, documents, top_k, model))

    async def search(
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
        """See `Client.search`."""
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
        return await self._run(self._calls.search(query, k, like, options))

    async def search_batch(
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
        """See `Client.search_batch`."""
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
        return await self._run(self._calls.search_batch(queries, k, options))

    async def upsert(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        *,
        index: str | None = None,
        wait: bool = True,
    ) -> int:
        """See `Client.upsert`."""
        return await self._run(self._calls.upsert(documents, index, wait))

    async def get(self, ids: Sequence[str], *, index: str | None = None) -> list[Document]:
        """See `Client.get`."""
        return await self._run(self._calls.get(ids, index))

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: str | Mapping[str, Any] | None = None,
        index: str | None = None,
    ) -> int:
        """See `Client.delete`."""
        return await self._run(self._calls.delete(ids, where, index))

    async def info(self) -> ServerInfo:
        """See `Client.info`."""
        return await self._run(self._calls.info())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        return await self._run(self._calls.ready())

    async def close(self) -> None:
        """See `Client.close`."""
        for client in self._http.closing():
            await client.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._calls.url!r})"

    async def _run(self, flow: Flow[Result]) -> Result:
        try:
            attempt = next(flow)
            while True:
                await asyncio.sleep(attempt.wait)
                attempt = flow.send(await self._send(attempt))
        except StopIteration as done:
            result: Result = done.value
            return result

    async def _send(self, attempt: Attempt) -> Outcome:
        try:
            return await asyncio.wait_for(self._receive(attempt), attempt.timeout)
        except asyncio.TimeoutError:
            return too_slow(attempt)
        except self._http.request_error as error:
            return self._http.lost(error)

    async def _receive(self, attempt: Attempt) -> Answer:
        with self._http.taken() as client:
            async with self._http.stream(client, attempt) as response:
                return Answer(response.status_code, dict(response.headers), await response.aread())
