"""What a server is made of: models and indexes, workers, writers, keys, metrics and logs, and its phase."""

from __future__ import annotations

import asyncio
import ctypes
import enum
import gc
import logging
import os
import threading
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any

from relsdk.errors import BundleError
from relsdk.index import IndexStats
from relsdk.models.open import open_pair_model
from relsdk.search.store_reader import StoreReader
from relsdk.tools.drift import DriftState
from relsdk_serve._catalogue import Catalogue, ServedIndex, open_catalogue
from relsdk_serve._drift import DriftWatch, WatchedIndex
from relsdk_serve._engine import Engine
from relsdk_serve._faults import RequestError
from relsdk_serve._jobs import Lane
from relsdk_serve._keys import Keys, Role
from relsdk_serve._logs import QueryLog, RequestEntry, RequestLog
from relsdk_serve._metrics import REJECTIONS, Metrics
from relsdk_serve._runner import Cost, Runner
from relsdk_serve._settings import Settings
from relsdk_serve._writer import IndexWriter

__all__ = ["Access", "Phase", "Service"]

_LOG = logging.getLogger(__name__)
_RELOAD_SECONDS = 1.0
_COUNT_EVERY = 60  # looks: what a vector store holds is counted, for its metric
_GIVE_UP_SECONDS = 5.0
# Asked every few seconds; what is well needs no line.
_PROBES = {"/livez", "/readyz", "/health", "/metrics"}
_UNAUTHORIZED = {"www-authenticate": "Bearer"}
_WARMUP = ["预热", "红烧肉怎么做才不腻", "三天两夜大理旅游攻略 " * 4]


class Access(enum.Enum):
    """Who may call a route, where there are keys."""

    OPEN = "open"
    INFO = "info"
    READ = "read"
    WRITE = "write"


class Phase(enum.Enum):
    """What a server does now."""

    STARTING = "starting"
    READY = "ok"
    DRAINING = "draining"


class Service:
    """A server without its sockets.

    Args:
        settings: What it serves, and how.
        environment: For keys.
        routes: The templates of the routes, for metrics.

    Raises:
        InputError: A key or a log file is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environment: Mapping[str, str] = os.environ,
        routes: Collection[str] = (),
    ) -> None:
        self.settings = settings
        self.phase = Phase.STARTING
        self.keys = Keys.read(settings.key_file, environment)
        self.catalogue = Catalogue()
        self.writers: dict[str, IndexWriter] = {}
        self._routes = routes
        self.metrics = self._make_metrics()
        self.engine = Engine(settings.workers, max_wait=settings.limits.wait, observer=_BatchMetrics(self))
        self.runner = Runner(self.engine)
        self._request_log: RequestLog | None = None
        if settings.log is not None:
            self._request_log = RequestLog(settings.log, partial(self._lost, "requests"))
        self.query_log: QueryLog | None = None
        if settings.log_queries is not None:
            self.query_log = QueryLog(settings.log_queries, partial(self._lost, "queries"))
        self.drift = DriftWatch({})
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: threading.Thread | None = None

    @property
    def draining(self) -> bool:
        """Whether it is about to end."""
        return self.phase is Phase.DRAINING

    @property
    def version(self) -> str:
        """Of relsdk."""
        try:
            return version("relsdk")
        except PackageNotFoundError:
            return "0"

    async def start(self) -> None:
        """Open and try everything; ready when it returns.

        Raises:
            RelsdkError: A model or an index cannot be served; the message says why.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Catalogue] = loop.create_future()

        def work() -> None:
            done: tuple[Catalogue | None, BaseException | None]
            try:
                outcome = open_catalogue(self.settings)
                check_models(outcome)
                done = (outcome, None)
            except BaseException as error:
                done = (None, error)
            with suppress(RuntimeError):  # the server ended meanwhile, and its loop
                loop.call_soon_threadsafe(_set, opened, *done)

        self._opening = threading.Thread(target=work, name="relsdk-open", daemon=True)
        self._opening.start()
        self.catalogue = await opened
        self.metrics = self._make_metrics()
        for name, served in self.catalogue.indexes.items():
            self.writers[name] = IndexWriter(served, self.runner, partial(self._changed, served))
            self._changed(served, await asyncio.to_thread(served.index.stats))
        await self._warm_up()
        _give_back_memory()
        gc.freeze()  # what was loaded stays; a collection need not look at it
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY
        self.drift = DriftWatch(self._watched())
        if self.settings.state is not None:
            self.drift.read(self.settings.state)
        watching = self.drift.run(self.settings.state, self._watched, self._publish_drift)
        self._tasks = [asyncio.ensure_future(self._watch()), asyncio.ensure_future(watching)]

    async def stop(self, at_once: asyncio.Event | None = None) -> None:
        """Finish what was accepted, and end; what is not finished by the end of the grace is given up.

        Args:
            at_once: Ends the grace where it is set.
        """
        self.phase = Phase.DRAINING
        for task in self._tasks:
            task.cancel()
        closed: asyncio.Future[Any] = asyncio.gather(
            *(writer.close() for writer in self.writers.values()), return_exceptions=True
        )
        hurry: asyncio.Future[Any] = asyncio.ensure_future((at_once or asyncio.Event()).wait())
        grace = self.settings.grace_seconds
        await asyncio.wait([closed, hurry], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        self.engine.stop()
        self.runner.close()
        await asyncio.wait([closed], timeout=_GIVE_UP_SECONDS)
        if self._opening is not None:  # a library that loads while Python ends would abort the process
            await asyncio.to_thread(self._opening.join, _GIVE_UP_SECONDS)
        if self.settings.state is not None and self._tasks:
            self.drift.write(self.settings.state, self.drift.state())
        for log in (self._request_log, self.query_log):
            if log is not None:
                log.close()

    def authorise(self, headers: Sequence[tuple[bytes, bytes]], access: Access) -> Role:
        """Return what the sender of a request may do.

        Raises:
            RequestError: It may not call the route.
        """
        open_route = access is Access.OPEN or (access is Access.INFO and self.settings.open_info)
        if not self.keys or open_route:
            return "write"
        role = self.keys.role(headers)
        if role is None:
            wrong = (
                "the key that was sent is none of this server's" if Keys.sent(headers) else "a key is needed"
            )
            raise RequestError(
                401,
                f"{wrong}; send one as Authorization: Bearer KEY, api-key: KEY or x-api-key: KEY",
                headers=_UNAUTHORIZED,
            )
        if access is Access.WRITE and role != "write":
            raise RequestError(403, "this key may read; a key that may write is needed")
        return role

    def check_phase(self) -> None:
        """Refuse a request while the models are loaded."""
        if self.phase is Phase.STARTING:
            raise RequestError(503, "the server is starting; try again soon", headers={"retry-after": "1"})

    def conceal(self, message: str) -> str:
        """Return a message without folders of this machine."""
        return self.catalogue.conceal(message)

    def note(self, entry: RequestEntry, cost: Cost) -> None:
        """Count and log a request that was answered."""
        self.metrics.request(entry.route, entry.status, entry.ms / 1e3)
        if cost.inputs:
            self.metrics.waited("bulk" if cost.lane is Lane.BULK else "interactive", cost.queued)
            if cost.truncated and entry.model is not None:
                self.metrics.truncated(entry.model, cost.truncated)
        if entry.code in REJECTIONS:
            self.metrics.rejected(str(entry.code))
        probe = entry.route in _PROBES and entry.status == 200
        if self._request_log is not None and not probe:
            self._request_log.write(entry)

    def health(self) -> dict[str, str]:
        """Return what is wrong with the workers, by check; "ok" where nothing is."""
        oldest, limit = self.engine.oldest_batch(), self.settings.limits.worker_seconds
        alive, wanted = self.engine.alive, len(self.engine.workers)
        return {
            "workers": "ok" if alive == wanted else f"{alive} of {wanted} are alive",
            "batches": "ok" if oldest <= limit else f"one has been running for {oldest:.0f} s",
        }

    def render_metrics(self) -> tuple[bytes, str]:
        """Return all metrics for Prometheus."""
        for lane, units in self.engine.waiting.items():
            self.metrics.queue("bulk" if lane is Lane.BULK else "interactive", units)
        self.metrics.workers(self.engine.alive)
        for model in self.catalogue.models.values():
            if model.embedder is not None:
                cache = model.embedder.query_cache_info
                self.metrics.query_cache(model.name, hits=cache.hits, misses=cache.misses)
        return self.metrics.render()

    def _make_metrics(self) -> Metrics:
        return Metrics(
            self.version,
            routes=self._routes,
            models=list(self.catalogue.models),
            indexes=list(self.catalogue.indexes),
        )

    def _lost(self, log: str, lines: int) -> None:
        self.metrics.log_lost("queries" if log == "queries" else "requests", lines)

    async def _warm_up(self) -> None:
        """Run every model and index once, and let the engine measure what a token costs."""
        cost = Cost()
        for model in self.catalogue.models.values():
            if model.embedder is None:
                pairs = [(text, text) for text in _WARMUP]
                await self.runner.flow(model.pair_model.flow(pairs), cost)
                continue
            for side in ("query", "document"):
                for texts in ([_WARMUP[0]], _WARMUP):
                    await self.runner.encode(
                        model.embedder, list(texts), model.embedder.known_prompt(side), cost
                    )
        for served in self.catalogue.indexes.values():
            await self.runner.call("warmup", served.index.warmup, cost)
            for searcher in served.searchers.values():
                for _ in range(2):
                    await self.runner.flow(searcher.flow([_WARMUP[0]], 2, budget_ms=1e9), cost)

    def _watched(self) -> dict[str, WatchedIndex]:
        indexes = self.catalogue.indexes.items()
        return {name: WatchedIndex.of(served.index, served.model.encoder) for name, served in indexes}

    def _publish_drift(self, state: DriftState) -> None:
        for name, orders in state.searches.items():
            for order, drift in orders.items():
                self.metrics.drift(name, order, drift.shifts)

    def _changed(self, served: ServedIndex, stats: IndexStats) -> None:
        """Note a new generation."""
        self.metrics.index(
            served.name,
            documents=stats.count,
            segments=len(stats.segments),
            dead_rows=stats.dead,
            generation=int("".join(filter(str.isdigit, stats.generation)) or 0),
        )

    async def _watch(self) -> None:
        """Go on with generations that other processes make; keep the one that answers where that fails."""
        failed: dict[str, str] = {}
        for look in count(1):
            await asyncio.sleep(_RELOAD_SECONDS)
            counts = look % _COUNT_EVERY == 0
            for name, served in self.catalogue.indexes.items():
                try:
                    if await asyncio.to_thread(served.index.refresh, served.model.encoder):
                        await asyncio.to_thread(served.index.warmup)
                        self._changed(served, await asyncio.to_thread(served.index.stats))
                        _LOG.info("%s: now %s", name, served.index.generation)
                    elif counts and isinstance(served.index, StoreReader):
                        self._changed(served, await asyncio.to_thread(served.index.stats))
                    failed.pop(name, None)
                except Exception as error:
                    if failed.get(name) != str(error):
                        failed[name] = str(error)
                        self.metrics.reload_failed(name)
                        _LOG.error("%s: a new generation is not used: %s", name, error)


def check_models(catalogue: Catalogue) -> None:
    """Check that every model still gives the outputs that its bundle was made with.

    They are opened once more for that: onnxruntime keeps what a session's largest batch needed.

    Raises:
        BundleError: One does not; or its files are damaged.
    """
    for model in catalogue.models.values():
        bundle, variant = model.pair_model.bundle, model.pair_model.variant
        if not bundle.files:  # somebody else's folder, which has no golden outputs
            continue
        verification = open_pair_model(bundle.path, variant=variant.name, threads=1).verify()
        if not verification.passed:
            raise BundleError(f"{bundle.path}: {'; '.join(verification.problems)}")


def _give_back_memory() -> None:
    """Give memory that is free, but kept by the C library, back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class _BatchMetrics:
    """Counts batches."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names: dict[int, str] = {}

    def batch(self, key: Hashable, rows: int, tokens: int, seconds: float) -> None:
        """Count a batch of a model; calls have no tokens."""
        if not tokens or not isinstance(key, tuple):
            return
        name = self._names.get(key[1])
        if name is None:
            for model in self._service.catalogue.models.values():
                for one in (model.embedder, model.cross_encoder):
                    self._names[id(one)] = model.name
            name = self._names.get(key[1], "")
        self._service.metrics.batch(name, texts=rows, tokens=tokens, seconds=seconds)

    def worker_restarted(self) -> None:
        """Count a worker that was started again."""
        self._service.metrics.worker_restarted()


def _set(future: asyncio.Future[Catalogue], outcome: Catalogue | None, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if outcome is not None:
        future.set_result(outcome)
    else:
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
