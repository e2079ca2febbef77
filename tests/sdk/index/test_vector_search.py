"""Flat and graph search against plain numpy."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import IndexFolderError, InputError
from relsdk.index import IndexConfig
from relsdk.index._filtered_search import filtered_search
from relsdk.index._row_set import RowSet
from relsdk.index.flat import Codes, FlatIndex, encode_int8, exact_search
from relsdk.index.hnsw import GRAPH_FILE, HnswIndex
from tests.threads import at_once


def brute_force(vectors, queries, k, rows=None):
    rows = np.arange(len(vectors)) if rows is None else rows
    scores = queries.astype(np.float64) @ vectors[rows].astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows[order], np.take_along_axis(scores, order, axis=1)


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])


@pytest.mark.parametrize("count", [1, 7, 8192, 20_000])
def test_flat_equals_brute_force(unit_vectors, count):
    vectors, queries = unit_vectors(count, seed=1), unit_vectors(300, seed=2)
    found = FlatIndex.build(vectors, IndexConfig(kind="flat")).search(queries, 10)
    rows, scores = brute_force(vectors, queries, 10)
    assert found.rows.shape == (300, min(10, count))
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


def test_flat_scores_do_not_depend_on_the_batch(unit_vectors):
    vectors, queries = unit_vectors(9000, 64, seed=1), unit_vectors(33, 64, seed=2)
    together = exact_search(vectors, queries, 5)
    for i, query in enumerate(queries):
        alone = exact_search(vectors, query[None], 5)
        np.testing.assert_array_equal(alone.scores[0], together.scores[i])
        np.testing.assert_array_equal(alone.rows[0], together.rows[i])


def test_flat_orders_equal_scores_by_row(unit_vectors):
    vectors = np.repeat(unit_vectors(1), 50, axis=0)
    assert exact_search(vectors, vectors[:1], 50).rows.tolist() == [list(range(50))]


@given(
    directions=st.integers(1, 6),
    count=st.integers(1, 60),
    block=st.sampled_from([4, 16, 8192]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_fewer_results_are_the_first_of_more(directions, count, block, seed):
    """Where many vectors are equal, too: the last place must not be a matter of chance."""
    generator = np.random.default_rng(seed)
    distinct = generator.standard_normal((directions, 8)).astype(np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    vectors = distinct[generator.integers(directions, size=count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relsdk.index.flat._ROW_BLOCK", block)
        everything = exact_search(vectors, distinct, count)
        for k in range(1, count + 1):
            some = exact_search(vectors, distinct, k)
            np.testing.assert_array_equal(some.rows, everything.rows[:, :k])
            np.testing.assert_array_equal(some.scores, everything.scores[:, :k])


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_exact_search_of_most_rows_of_a_part(unit_vectors, share):
    """Where most rows lie side by side they are not gathered; what is found is the same."""
    vectors, queries = unit_vectors(12_000, 24, seed=3), unit_vectors(20, 24, seed=4)
    chosen = np.random.default_rng(5).random(len(vectors)) < share
    chosen[:2000] = chosen[-1000:] = False
    rows = np.flatnonzero(chosen)
    found = exact_search(vectors, queries, 10, rows=rows)
    truth, scores = brute_force(vectors, queries, 10, rows)
    np.testing.assert_array_equal(found.rows, truth)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    alone = exact_search(vectors, queries[:1], 10, rows=rows)
    np.testing.assert_array_equal(alone.scores, found.scores[:1])


def test_exact_search_of_no_rows_and_no_queries(unit_vectors):
    vectors = unit_vectors(5)
    assert exact_search(vectors, vectors[:2], 3, rows=np.array([], dtype=np.int64)).rows.shape == (2, 0)
    assert exact_search(vectors, vectors[:0], 3).rows.shape == (0, 3)


def test_hnsw_recall(unit_vectors):
    vectors, queries = unit_vectors(5000, 64, seed=1), unit_vectors(200, 64, seed=2)
    graph = HnswIndex.build(vectors, IndexConfig())
    truth = exact_search(vectors, queries, 10)
    found = graph.search(queries, 10)
    assert recall(found.rows, truth.rows) >= 0.98
    own = np.einsum("qd,qkd->qk", queries, vectors[found.rows])
    np.testing.assert_allclose(found.scores, own, atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    low = recall(graph.search(queries, 10, ef_search=10).rows, truth.rows)
    assert low <= recall(graph.search(queries, 10, ef_search=400).rows, truth.rows)


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_more_wanted_than_there_is(unit_vectors, count, kind):
    vectors = unit_vectors(count)
    index = {"flat": FlatIndex, "hnsw": HnswIndex}[kind].build(vectors, IndexConfig(kind=kind))
    found = index.search(vectors[:1], 1000)
    assert sorted(found.rows[0]) == list(range(count))
    assert found.rows[0, 0] == 0
    assert index.search(vectors[:0], 3).rows.shape == (0, min(3, count))


def test_graph_that_reaches_too_few_falls_back_to_exact(unit_vectors):
    vectors = unit_vectors(50)
    half = HnswIndex.build(vectors[:25], IndexConfig())
    half._graph.mark_deleted(3)  # counted, never found
    whole = HnswIndex(half._graph, vectors, half._duplicates, IndexConfig())
    assert sorted(whole.search(vectors[:1], 40).rows[0]) == sorted(
        exact_search(vectors, vectors[:1], 40).rows[0]
    )


@pytest.mark.parametrize("equal", [2, 300, 3000])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_equal_vectors_do_not_hide_the_others(unit_vectors, tmp_path, equal, seed):
    vectors = np.concatenate([np.repeat(unit_vectors(1, seed=8), equal, axis=0), unit_vectors(500, seed=5)])
    vectors = np.concatenate([vectors, vectors[-20:]])
    vectors = vectors[np.random.default_rng(seed).permutation(len(vectors))]
    built = HnswIndex.build(vectors, IndexConfig())
    built.save(tmp_path)
    truth = exact_search(vectors, vectors, 10)
    for graph in (built, HnswIndex.load(tmp_path, vectors, IndexConfig())):
        found = graph.search(vectors, 10)
        assert all(len(set(rows)) == 10 for rows in found.rows.tolist())
        np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
        own = np.einsum("qd,qkd->qk", vectors, vectors[found.rows])
        np.testing.assert_allclose(found.scores, own, atol=1e-5)
        assert sorted(graph.search(vectors[:1], 9999).rows[0]) == list(range(len(vectors)))


def test_all_vectors_equal(unit_vectors):
    graph = HnswIndex.build(np.repeat(unit_vectors(1), 400, axis=0), IndexConfig())
    assert graph.search(unit_vectors(1), 30).rows[0].tolist() == list(range(30))


def test_threads_with_different_effort_do_not_disturb_each_other(unit_vectors):
    vectors, queries = unit_vectors(3000, 32, seed=1), unit_vectors(40, 32, seed=2)
    graph = HnswIndex.build(vectors, IndexConfig(M=4, ef_construction=20))
    wanted = {ef: graph.search(queries, 5, ef_search=ef).rows for ef in (5, 50, 500)}
    wrong = []

    def work(ef):
        for _ in range(15):
            if not np.array_equal(graph.search(queries, 5, ef_search=ef).rows, wanted[ef]):
                wrong.append(ef)

    with at_once(*(partial(work, ef) for ef in [*wanted, *wanted])):
        pass
    assert not wrong


def test_build_reports_progress_and_repeats_with_one_thread(unit_vectors, tmp_path):
    vectors = unit_vectors(5000)
    seen = []
    for name in "ab":
        (tmp_path / name).mkdir()
        graph = HnswIndex.build(
            vectors, IndexConfig(), num_threads=1, on_progress=lambda stage, done: seen.append((stage, done))
        )
        graph.save(tmp_path / name)
    assert seen[:3] == [("graph", 2048), ("graph", 4096), ("graph", 5000)]
    assert (tmp_path / "a" / GRAPH_FILE).read_bytes() == (tmp_path / "b" / GRAPH_FILE).read_bytes()


def test_load_refuses_a_graph_of_other_vectors(unit_vectors, tmp_path):
    vectors = unit_vectors(100)
    HnswIndex.build(vectors, IndexConfig()).save(tmp_path)
    with pytest.raises(IndexFolderError, match="holds 100 vectors, 99 are expected"):
        HnswIndex.load(tmp_path, vectors[:99], IndexConfig())
    (tmp_path / GRAPH_FILE).write_bytes(b"short")
    with pytest.raises(IndexFolderError, match="no graph"):
        HnswIndex.load(tmp_path, vectors, IndexConfig())


@pytest.mark.parametrize("selectivity", [0.002, 0.02, 0.1, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("correlated", [False, True])
def test_filtered_recall(unit_vectors, selectivity, correlated):
    vectors, queries = unit_vectors(12_000, 32, seed=1), unit_vectors(50, 32, seed=2)
    config = IndexConfig(exact_rows=500, M=8, ef_construction=60, ef_search=100)
    graph = _shared_graph(vectors, config)
    if correlated:  # the filter allows what is far from most queries
        order = np.argsort(vectors @ queries.mean(axis=0))
        allowed = np.zeros(len(vectors), dtype=bool)
        allowed[order[: int(selectivity * len(vectors))]] = True
    else:
        allowed = np.random.default_rng(3).random(len(vectors)) < selectivity
    found = filtered_search(graph, vectors, queries, 10, RowSet(allowed), config)
    assert allowed[found.rows].all()
    truth, _ = brute_force(vectors, queries, 10, np.flatnonzero(allowed))
    assert found.rows.shape == truth.shape
    assert recall(found.rows, truth) >= (1.0 if allowed.sum() <= 500 else 0.97)
    assert (np.diff(found.scores, axis=1) <= 0).all()


class _Counted:
    """A graph that notes how many candidates it is asked for."""

    def __init__(self, graph):
        self.graph, self.asked = graph, []

    def search(self, queries, k, *, ef_search=None):
        self.asked.append(k)
        return self.graph.search(queries, k, ef_search=ef_search)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("effort", [None, 16])
def test_filtered_search_in_small_clusters_takes_more_effort_or_is_exact(unit_vectors, share, effort):
    """The nearest allowed lie in several clusters, which a graph finds with candidates enough only."""
    rng = np.random.default_rng(5)
    centres = unit_vectors(1200, 32, seed=6)
    queries = centres[:50]
    vectors = np.repeat(centres, 10, axis=0) + 0.05 * rng.standard_normal((12_000, 32), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config = IndexConfig(exact_rows=500, M=8, ef_construction=60, ef_search=32)
    graph = _Counted(_shared_graph(vectors, config))
    allowed = rng.random(len(vectors)) < share
    found = filtered_search(graph, vectors, queries, 10, RowSet(allowed), config, ef_search=effort)
    truth, _ = brute_force(vectors, queries, 10, np.flatnonzero(allowed))
    assert recall(found.rows, truth) >= (1.0 if share == 0.2 else 0.98)
    if share == 0.2:  # as fast as the graph, so exact
        assert not graph.asked
    else:
        refused = 1 - allowed.mean()
        (enough,) = (
            m for m in np.roots([1, -20 - 9 * refused, 100]) if m - 3 * math.sqrt(m * refused) > 9.99
        )
        assert graph.asked[0] == math.ceil(max(enough, effort or 32) * len(vectors) / allowed.sum())


_graphs = {}


def _shared_graph(vectors, config):
    key = config, float(vectors[0, 0])
    if key not in _graphs:
        _graphs[key] = HnswIndex.build(vectors, config, num_threads=1)  # the same each time
    return _graphs[key]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 120),
    dimension=st.integers(1, 24),
    k=st.integers(1, 150),
    kind=st.sampled_from(["flat", "hnsw"]),
)
def test_results_are_sorted_unique_and_true(seed, count, dimension, k, kind):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[random.integers(0, count, 3)]
    index = {"flat": FlatIndex, "hnsw": HnswIndex}[kind].build(vectors, IndexConfig(kind=kind), num_threads=1)
    found = index.search(queries, k)
    assert found.rows.shape == found.scores.shape == (3, min(k, count))
    for query, rows, scores in zip(queries, found.rows, found.scores, strict=True):
        assert len(set(rows)) == len(rows)
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)
        assert scores[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "ivf"},
        {"M": 1},
        {"M": 16.0},
        {"M": True},
        {"ef_construction": 0},
        {"ef_search": -1},
        {"seed": -1},
        {"exact_rows": None},
    ],
)
def test_config_refuses(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        IndexConfig(**settings)


def test_config_round_trip():
    config = IndexConfig(M=8, ef_search=77)
    assert IndexConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="unknown index setting 'efSearch'"):
        IndexConfig.from_dict({"efSearch": 3})


@pytest.mark.parametrize("rows", [None, 0.02, 0.4])
def test_codes_find_what_the_vectors_find(rows):
    """Clusters of near neighbours: the scores of many are closer than the error of 8 bits."""
    random = np.random.default_rng(8)
    centres = random.standard_normal((12, 48))
    vectors = centres[random.integers(12, size=9000)] + 0.05 * random.standard_normal((9000, 48))
    vectors[50:60] = vectors[40]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    codes = Codes(*encode_int8(vectors))
    wanted = None if rows is None else np.flatnonzero(random.random(9000) < rows)
    queries = vectors[::900]
    plain = exact_search(vectors, queries, 20, rows=wanted)
    coded = exact_search(vectors, queries, 20, rows=wanted, codes=codes)
    np.testing.assert_array_equal(coded.rows, plain.rows)
    np.testing.assert_array_equal(coded.scores, plain.scores)
    rough = codes.products(queries, slice(0, 9000))
    assert 0 < np.abs(rough - queries @ vectors.T).max() < codes.error


def test_int8_of_the_least_vectors():
    vectors = np.array([[0, 0, 0], [1, 0, 0], [0.6, -0.8, 1e-9]], dtype=np.float32)
    numbers, scales = encode_int8(vectors)
    assert numbers.dtype == np.int8
    assert numbers.tolist() == [[0, 0, 0], [127, 0, 0], [95, -127, 0]]
    np.testing.assert_allclose(scales, [1, 1 / 127, 0.8 / 127], rtol=1e-6)
