"""Test an installation on this machine: a few small runs with known answers, in about 2 seconds.

Shape letters: N vectors, D dimension, K results.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relsdk.errors import BundleError, RelsdkError
from relsdk.index.base import IndexConfig
from relsdk.index.flat import exact_search
from relsdk.index.hnsw import HnswIndex
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.open import open_pair_model
from relsdk.models.pair_model import PairModel

__all__ = ["self_test"]

_SIDE = 256
_VECTORS, _DIMENSION, _K = 2000, 32, 10
_MIN_RECALL = 0.95
_SECONDS = 0.3  # for each repeated measurement
_QUERIES = ("大宅门演员表", "红烧肉怎么做才不腻", "手机黑屏打不开怎么办", "how to make bread at home")


@dataclass(frozen=True, slots=True)
class _SelfCheck:
    """One small run.

    Attributes:
        name: What was run.
        ok: Whether its answer is right; None when it could not be judged.
        detail: What was found, for people.
        milliseconds: How long it took.
    """

    name: str
    ok: bool | None
    detail: str
    milliseconds: float


def self_test(model: Path | None = None, *, threads: int | None = None) -> list[_SelfCheck]:
    """Run matrices, a graph, SQLite and, of a bundle, its golden outputs and a few inputs.

    Args:
        model: A bundle's folder; None tests no model.
        threads: See `Embedder`.

    Returns:
        One row for each run; what fails is a row that says why, never an exception.
    """
    checks = [_run("matrix product", _matrix), _run("graph search", _graph), _run("document store", _store)]
    if model is not None:
        opened: list[PairModel] = []  # loaded once
        checks.append(_run("model speed", lambda: _speed(model, threads, opened)))
        if opened:
            checks.append(_run("golden outputs", lambda: _golden(opened[0])))
    return checks


def _run(name: str, work: Callable[[], tuple[bool | None, str]]) -> _SelfCheck:
    started = time.perf_counter()
    try:
        ok, detail = work()
    except (RelsdkError, RuntimeError, OSError, sqlite3.Error) as error:
        ok, detail = False, " ".join(str(error).split())
    return _SelfCheck(name, ok, detail, round((time.perf_counter() - started) * 1e3, 1))


def _matrix() -> tuple[bool, str]:
    """Multiply float32 matrices; compare with float64."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((_SIDE, _SIDE)).astype(np.float32) for _ in range(2))
    gap = float(np.abs(left @ right - left.astype(np.float64) @ right.astype(np.float64)).max())
    seconds = _median_seconds(lambda: left @ right)
    rate = 2 * _SIDE**3 / seconds / 1e9
    return gap < 1e-3, f"{rate:,.0f} GFLOP/s in float32, largest error {gap:.1g}"


def _graph() -> tuple[bool, str]:
    """Build a small graph and compare it with exact search."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((_VECTORS, _DIMENSION)).astype(np.float32)  # (N, D)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    graph = HnswIndex.build(vectors, IndexConfig(ef_construction=64), num_threads=1)
    queries = vectors[:50]
    rows, exact = graph.search(queries, _K).rows, exact_search(vectors, queries, _K).rows
    recall = float(np.mean([len(set(a) & set(b)) / _K for a, b in zip(rows, exact, strict=True)]))
    seconds = _median_seconds(lambda: graph.search(queries[:1], _K))
    return (
        recall >= _MIN_RECALL,
        f"recall@{_K} {recall:.3f} among {_VECTORS:,} x {_DIMENSION}, {seconds * 1e3:.2f} ms a query",
    )


def _store() -> tuple[bool, str]:
    """Ask SQLite for what filters on metadata need."""
    connection = sqlite3.connect(":memory:")
    try:
        (value,) = connection.execute("SELECT json_extract(?, '$.a')", ('{"a": 7}',)).fetchone()
    finally:
        connection.close()
    return value == 7, f"SQLite {sqlite3.sqlite_version} reads JSON"


def _golden(opened: PairModel) -> tuple[bool | None, str]:
    """Compare with what the bundle gave when it was made."""
    try:
        verification = opened.verify()
    except BundleError as error:
        return None, f"not judged: {error}"
    if verification.passed:
        largest = f"largest difference {verification.max_difference:.1g}"
        return True, f"{verification.variant}: {verification.texts} inputs, {largest}"
    return False, f"{verification.variant}: {'; '.join(verification.problems)}"


def _speed(model: Path, threads: int | None, loaded: list[PairModel]) -> tuple[bool, str]:
    """Load the bundle as a server would, put it into a list, and run a few inputs, one at a time."""
    started = time.perf_counter()
    opened = open_pair_model(model, threads=threads)
    if isinstance(opened, BiEncoder):
        embedder: Embedder = opened.embedder
        embedder.warmup()
        first = time.perf_counter() - started
        finite = bool(np.isfinite(embedder.encode_query(list(_QUERIES))).all())
        seconds = _median_seconds(lambda: embedder.encode_query(_QUERIES[0]))
        what = "query"
    else:
        pair = [(_QUERIES[1], _QUERIES[1])]
        opened.outputs(pair)
        first = time.perf_counter() - started
        finite = bool(np.isfinite(opened.outputs(pair).scores).all())
        seconds = _median_seconds(lambda: opened.outputs(pair))
        what = "pair"
    loaded.append(opened)
    name = opened.variant.name
    return finite, f"{name}: first result after {first * 1e3:,.0f} ms, then {seconds * 1e3:.2f} ms a {what}"


def _median_seconds(work: Callable[[], object]) -> float:
    """Return the median time of a run within a bounded total."""
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not times or (time.perf_counter() < end and len(times) < 1000):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return max(float(np.median(times)), 1e-9)
