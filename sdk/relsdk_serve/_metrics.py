"""What Prometheus reads of a server.

Every label has a known set of values: the routes of the table, the names of what was opened, reasons, kinds.
Any other value is counted as "other", so that no client can make a series.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product
from typing import Generic, Literal, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from relsdk.calibration import SearchProfile

__all__ = ["REJECTIONS", "Lane", "Metrics"]

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")
# Why a request is refused before any work: the code of the answer.
REJECTIONS = ("overloaded", "unavailable", "too_large", "unauthorized", "forbidden")
# Of searches; see `relsdk.SearchResult`.
ORDERS = ("cosine", "bm25", "hybrid", "scorer")

_OTHER = "other"
_STATUSES = frozenset(map(str, range(100, 600)))
_LEVELS = ("none", "0", "1", "2", "3")
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TEXTS = tuple(float(1 << power) for power in range(9))
_TOKENS = tuple(float(1 << power) for power in range(3, 15))
_PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

Family = TypeVar("Family", Counter, Gauge, Histogram)


class _Series(Generic[Family]):
    """The series of a metric; looking one up is a dictionary's work.

    Args:
        family: The metric.
        allowed: The values of each of its labels.
        made: Whether all series are there from the start, so that a rate of them is 0 and not absent.
    """

    def __init__(self, family: Family, *allowed: Collection[str], made: bool = True) -> None:
        self._family: Family = family
        self._allowed = allowed
        self._known: dict[tuple[str, ...], Family] = {}
        for labels in product(*allowed) if made else ():
            self[labels]

    def __getitem__(self, labels: tuple[str, ...]) -> Family:
        series = self._known.get(labels)
        if series is None:
            bounded = tuple(
                label if label in allowed else _OTHER
                for label, allowed in zip(labels, self._allowed, strict=True)
            )
            series = self._family.labels(*bounded)
            if bounded == labels:  # nothing that a client made up is kept
                self._known[labels] = series
        return series


class Metrics:
    """Counts what happens.

    Args:
        version: Of relsdk.
        routes: The templates of the routes.
        models: The names of what was opened, encoders and scorers.
        indexes: The names of the indexes.
    """

    def __init__(
        self, version: str, *, routes: Collection[str], models: Collection[str], indexes: Collection[str]
    ) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("relsdk", "The server.", registry=self._registry).info({"version": version})
        self._make_requests(routes)
        self._make_models(models)
        self._make_indexes(indexes)
        self._cached: dict[tuple[str, str], int] = {}

    def _make_requests(self, routes: Collection[str]) -> None:
        self._requests = _Series(
            self._counter("requests", "Requests answered.", "route", "status"), routes, _STATUSES, made=False
        )
        self._seconds = _Series(
            self._histogram("request_seconds", "Seconds from request to answer.", _SECONDS, "route"),
            routes,
            made=False,
        )
        self._rejected = _Series(
            self._counter("rejected", "Requests refused before any work.", "reason"), REJECTIONS
        )
        self._queue_tokens = _Series(
            self._gauge("queue_tokens", "Tokens that wait for a worker.", "lane"), LANES
        )
        self._queue_seconds = _Series(
            self._histogram("queue_seconds", "Seconds that work waited for a worker.", _SECONDS, "lane"),
            LANES,
        )
        self._workers = self._gauge("workers_alive", "Workers that answer.")
        self._restarts = self._counter("worker_restarts", "Workers that died and were replaced.")
        self._lost = _Series(
            self._counter("log_lost_lines", "Lines that a log could not take.", "log"),
            ("requests", "queries"),
        )

    def _make_models(self, models: Collection[str]) -> None:
        self._texts = _Series(
            self._histogram("batch_texts", "Texts or pairs of a batch.", _TEXTS, "model"), models
        )
        self._tokens = _Series(
            self._histogram("batch_tokens", "Tokens of a batch, padding included.", _TOKENS, "model"), models
        )
        self._inference = _Series(
            self._histogram("inference_seconds", "Seconds that a batch took.", _SECONDS, "model"), models
        )
        self._truncated = _Series(
            self._counter("truncated_texts", "Texts cut to what the model reads.", "model"), models
        )
        self._cache = _Series(
            self._counter("query_cache", "Queries looked up in the cache.", "model", "result"),
            *(models, ("hit", "miss")),
        )

    def _make_indexes(self, indexes: Collection[str]) -> None:
        self._best = _Series(
            self._counter("best_hits", "Searches by the level of their best hit.", "index", "level"),
            *(indexes, _LEVELS),
        )
        self._probability = _Series(
            self._histogram(
                *("best_hit_probability", "Probability of level 2 or above of the best hit.", _PROBABILITIES),
                "index",
            ),
            indexes,
        )
        self._sizes = {
            name: _Series(self._gauge(f"index_{name}", help_text, "index"), indexes)
            for name, help_text in (
                ("documents", "Documents that a search can find."),
                ("segments", "Segments that a search reads."),
                ("dead_rows", "Rows of documents deleted or replaced, which compaction removes."),
                ("generation", "The generation that is searched."),
            )
        }
        self._reload_failures = _Series(
            self._counter("reload_failures", "New generations that could not be opened.", "index"), indexes
        )
        self._drift = _Series(
            self._gauge("drift_psi", "Population stability index of the last day.", "index", "order", "kind"),
            *(indexes, ORDERS, SearchProfile.kinds()),
            made=False,  # no value and 0 are two answers
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: The template of its route; anything else, such as a path that no route has, is "other".
            status: Of HTTP.
            seconds: From the request's first byte to the answer's last.
        """
        self._requests[route, str(status)].inc()
        self._seconds[route,].observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a request refused before any work, by one of `REJECTIONS`."""
        self._rejected[reason,].inc()

    def queue(self, lane: Lane, tokens: int) -> None:
        """Set what waits in a lane now."""
        self._queue_tokens[lane,].set(tokens)

    def waited(self, lane: Lane, seconds: float) -> None:
        """Add how long a piece of work waited."""
        self._queue_seconds[lane,].observe(seconds)

    def batch(self, model: str, *, texts: int, tokens: int, seconds: float) -> None:
        """Count a batch that a worker ran."""
        self._texts[model,].observe(texts)
        self._tokens[model,].observe(tokens)
        self._inference[model,].observe(seconds)

    def truncated(self, model: str, texts: int) -> None:
        """Count texts that were cut."""
        self._truncated[model,].inc(texts)

    def query_cache(self, model: str, *, hits: int, misses: int) -> None:
        """Set how many queries were looked up since the start, which never gets less."""
        for result, count in (("hit", hits), ("miss", misses)):
            series = self._cache[model, result]
            series.inc(count - self._cached.get((model, result), 0))
            self._cached[model, result] = count

    def best_hit(self, index: str, level: int | None, probability: float | None) -> None:
        """Count a search by what it found first.

        Args:
            index: Its name.
            level: Of the best hit; None without a hit or without levels.
            probability: That it has level 2 or above.
        """
        self._best[index, "none" if level is None else str(level)].inc()
        if probability is not None:
            self._probability[index,].observe(probability)

    def index(self, name: str, *, documents: int, segments: int, dead_rows: int, generation: int) -> None:
        """Set the size of an index, after it was opened, changed or compacted."""
        sizes = {
            "documents": documents,
            "segments": segments,
            "dead_rows": dead_rows,
            "generation": generation,
        }
        for size, value in sizes.items():
            self._sizes[size][name,].set(value)

    def reload_failed(self, index: str) -> None:
        """Count a generation that could not be opened."""
        self._reload_failures[index,].inc()

    def workers(self, alive: int) -> None:
        """Set how many workers answer."""
        self._workers.set(alive)

    def worker_restarted(self) -> None:
        """Count a worker that died."""
        self._restarts.inc()

    def drift(self, index: str, order: str, shifts: Mapping[str, float]) -> None:
        """Set how far the searches of an index have moved, by kind; see `relsdk.tools.drift`."""
        for kind, value in shifts.items():
            self._drift[index, order, kind].set(value)

    def log_lost(self, log: Literal["requests", "queries"], lines: int) -> None:
        """Count lines that a log could not take."""
        self._lost[log,].inc(lines)

    def render(self) -> tuple[bytes, str]:
        """Return all values in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"relsdk_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"relsdk_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"relsdk_{name}", text, labels, registry=self._registry, buckets=buckets)
