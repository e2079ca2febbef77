"""Changes of an index: requests that arrive while one is written are written together.

There is no timer: the first change is committed at once, and what comes meanwhile is the next commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relsdk.errors import LockedError, RelsdkError
from relsdk.index import IndexStats
from relsdk.models.embedder import Embedder
from relsdk.records import Document
from relsdk.search.store_reader import StoreReader
from relsdk_serve._catalogue import ServedIndex
from relsdk_serve._engine import OverloadedError, settleable
from relsdk_serve._jobs import Lane
from relsdk_serve._runner import Cost, Runner

__all__ = ["IndexWriter"]

_LOG = logging.getLogger(__name__)
# Documents of one commit, unless one request has more.
_MOST_DOCUMENTS = 256
# What may wait to be written: documents, a deletion counting as one, and bytes of requests.
_MOST_WAITING, _MOST_WAITING_BYTES = 10_000, 64 << 20
_GAIN = 1 / 8  # of the running estimate
_ASSUMED_SECONDS = 1e-3  # a document, before anything was measured
_NICE = 10


@dataclass(eq=False)
class _Change:
    """What one request changes.

    Attributes:
        documents: To add, or to put in place of others.
        ids: Of documents to delete.
        where: Or a filter that finds them.
        size: Bytes of the request.
        future: Gets how many were changed, and the generation that has the change.
    """

    documents: list[Document] = field(default_factory=list)
    ids: Sequence[str] | None = None
    where: Mapping[str, Any] | None = None
    size: int = 0
    future: asyncio.Future[tuple[int, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def adds(self) -> bool:
        return self.ids is None and self.where is None

    @property
    def weight(self) -> int:
        return max(len(self.documents), 1)


class IndexWriter:
    """Writes one index, one commit after the other, and compacts it beside that.

    Args:
        served: The index.
        runner: Encodes the documents, in the bulk lane.
        on_commit: Called after each commit, on the event loop, with the state of the index.
    """

    def __init__(self, served: ServedIndex, runner: Runner, on_commit: Callable[[IndexStats], None]) -> None:
        self._served = served
        self._encoder = _ThroughRunner(served.model.encoder, runner, asyncio.get_running_loop())
        self._on_commit = on_commit
        self._waiting: deque[_Change] = deque()
        self._waiting_weight = self._waiting_bytes = 0
        self._seconds = _ASSUMED_SECONDS  # a document
        self._changed = asyncio.Event()
        self._closing = False
        self._stats: IndexStats | None = None  # after the last commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relsdk-write")
        self._compacting: threading.Thread | None = None
        self._task = asyncio.ensure_future(self._run())

    async def upsert(self, documents: list[Document], *, wait: bool, size: int = 0) -> tuple[int, str]:
        """Write documents; return how many, and the generation that has them, once they are durable.

        Without `wait` it returns at once.

        Args:
            documents: To write.
            wait: Whether to wait until they are durable.
            size: Bytes of the request.

        Raises:
            OverloadedError: Too much waits already.
            RelsdkError: What `Index.upsert` raises.
        """
        return await self._submit(_Change(documents, size=size), wait, len(documents))

    async def delete(
        self, ids: Sequence[str] | None, where: Mapping[str, Any] | None, *, wait: bool, size: int = 0
    ) -> tuple[int, str]:
        """Delete documents; see `upsert`."""
        return await self._submit(_Change(ids=ids, where=where, size=size), wait, 0)

    async def close(self) -> None:
        """Write what waits, and end; a compaction that runs is waited for."""
        self._closing = True
        self._changed.set()
        await self._task
        self._thread.shutdown(wait=False)
        if self._compacting is not None:
            # It may be at a graph for minutes; what it has not committed is lost without harm.
            await asyncio.to_thread(self._compacting.join, 1.0)

    async def _submit(self, change: _Change, wait: bool, count: int) -> tuple[int, str]:
        if self._waiting_weight > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
            seconds = self._waiting_weight * self._seconds
            raise OverloadedError(seconds, seconds / 2)
        self._waiting.append(change)
        self._waiting_weight += change.weight
        self._waiting_bytes += change.size
        self._changed.set()
        if not wait:
            change.future.add_done_callback(_log_failure)
            return count, ""
        return await asyncio.shield(change.future)  # a client that goes away does not stop its commit

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._write(self._next_group())
            try:
                if self._stats is not None:
                    self._on_commit(self._stats)
                self._compact()
            except Exception:  # what was written is written
                _LOG.exception("%s: what follows a commit failed", self._served.name)

    def _next_group(self) -> list[_Change]:
        """Take changes that are one commit: documents of several requests, or one deletion."""
        group = [self._waiting.popleft()]
        documents = len(group[0].documents)
        while group[0].adds and self._waiting and self._waiting[0].adds:
            documents += len(self._waiting[0].documents)
            if documents > _MOST_DOCUMENTS:
                break
            group.append(self._waiting.popleft())
        self._waiting_weight -= sum(change.weight for change in group)
        self._waiting_bytes -= sum(change.size for change in group)
        return group

    async def _write(self, group: list[_Change]) -> None:
        """Commit a group; where that fails, each of its requests alone."""
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(self._thread, self._commit, group)
        if isinstance(outcome, BaseException) and len(group) > 1:
            for change in group:
                await self._write([change])
            return
        for at, change in enumerate(group):
            if change.future.done():
                continue
            if not isinstance(outcome, BaseException):
                counts, generation = outcome
                change.future.set_result((counts[at], generation))
            elif isinstance(outcome, CancelledError):  # the server ends
                change.future.cancel()
            else:
                change.future.set_exception(settleable(outcome))

    def _commit(self, group: list[_Change]) -> tuple[list[int], str] | BaseException:
        """Commit a group, in the writer's thread; return what each change counts, or what went wrong."""
        index, began = self._served.index, time.monotonic()
        try:
            # An index that somebody built with another encoder is not written into, and not gone on with.
            index.refresh(self._encoder)
            if group[0].adds:
                index.upsert([document for change in group for document in change.documents], self._encoder)
                counts = [len(change.documents) for change in group]
            else:
                counts = [index.delete(group[0].ids, where=group[0].where)]
        except BaseException as error:
            return error
        seconds = (time.monotonic() - began) / sum(change.weight for change in group)
        self._seconds += _GAIN * (seconds - self._seconds)
        try:
            # A store counts documents one by one: the server asks it from time to time.
            self._stats = None if isinstance(index, StoreReader) else index.stats()
        except Exception as error:  # what was written is written
            self._stats = None
            _LOG.error("%s: its state after a commit is not known: %s", self._served.name, error)
        return counts, index.generation

    def _compact(self) -> None:
        """Merge segments in a thread of its own, where there is something to merge and nobody does."""
        if self._compacting is not None and self._compacting.is_alive():
            return
        loop = asyncio.get_running_loop()

        def work() -> None:
            with suppress(OSError, AttributeError):  # of this thread alone, on Linux
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            try:
                other = self._served.index.refresh(self._encoder)
                if self._served.index.compact(num_threads=1) or other:
                    loop.call_soon_threadsafe(self._on_commit, self._served.index.stats())
            except LockedError:
                pass  # somebody else compacts
            except (RelsdkError, OSError, RuntimeError) as error:
                _LOG.error("%s: compaction failed: %s", self._served.name, error)

        self._compacting = threading.Thread(target=work, name="relsdk-compact", daemon=True)
        self._compacting.start()


def _log_failure(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _LOG.error("a change that nobody waits for failed: %s", error)


class _ThroughRunner:
    """An encoder whose work waits in the bulk lane; called in the writer's thread."""

    def __init__(self, embedder: Embedder, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        self._embedder, self._runner, self._loop = embedder, runner, loop

    @property
    def name(self) -> str:
        """See `Embedder.name`."""
        return self._embedder.name

    @property
    def fingerprint(self) -> str:
        """See `Embedder.fingerprint`."""
        return self._embedder.fingerprint

    @property
    def dimension(self) -> int:
        """See `Embedder.dimension`."""
        return self._embedder.dimension

    @property
    def path(self) -> Path:
        """See `Embedder.path`."""
        return self._embedder.path

    def encode_document(self, inputs: Sequence[Document], /) -> Any:
        """Return a vector for each document, (n, D)."""
        texts = [self._embedder.document_text(document) for document in inputs]
        work = self._runner.encode(
            self._embedder, texts, self._embedder.known_prompt("document"), Cost(Lane.BULK)
        )
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
