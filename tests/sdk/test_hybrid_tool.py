"""Calibration of a hybrid search: BM25 of pairs, random pairs, the fit through an index."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.errors import CalibrationError, EncoderMismatchError, InputError
from relsdk.records import LabelledPair
from relsdk.tools.hybrid_calibration import _fit, calibrate_hybrid
from relsdk.tools.random_negatives import draw_unjudged
from relsdk_sample import generate


@pytest.fixture(scope="module")
def world():
    return generate(seed=4, n_documents=300, n_queries=60, pairs_per_query=8)


@pytest.fixture(scope="module")
def embedder(toy_bundle):
    return Embedder(toy_bundle, variant="fp32", threads=1)


@pytest.fixture
def index(world, embedder, tmp_path):
    with Index.build(tmp_path / "index", world.documents[:150], embedder) as index:
        index.add(world.documents[150:], embedder)
        index.delete([document.id for document in world.documents[:20]])
        yield index


def test_bm25_of_a_text_is_that_of_the_row_that_holds_it(world, embedder, index):
    searcher = Searcher(embedder, index, mode="lexical")
    for query in [query.text for query in world.queries[:10]]:
        hits = searcher.search(query, 300)
        scores, best = index.bm25(query, [hit.document for hit in hits])
        np.testing.assert_allclose(scores, [hit.signals.bm25 for hit in hits], atol=1e-3)
        assert best == pytest.approx(hits[0].signals.best_possible)
    scores, best = index.bm25("天文望远镜", [Document("x", "天文望远镜"), Document("y", "篮球")])
    assert 0 == scores[1] < scores[0] < best
    assert index.bm25("😀", [Document("x", "天")]) == (np.zeros(1), 0.0)


def test_random_pairs_are_of_the_query_and_not_judged():
    query_of = np.repeat(np.arange(10), 6)
    document_of = np.arange(60) % 45
    found = draw_unjudged(query_of, query_of, document_of, 45, 3)
    assert len(found) == 60
    assert found[:, 0].tolist() == query_of.tolist()
    judged = set(zip(query_of.tolist(), document_of.tolist(), strict=True))
    assert not judged & set(map(tuple, found.tolist()))
    assert found[:, 1].max() < 45
    np.testing.assert_array_equal(found, draw_unjudged(query_of, query_of, document_of, 45, 3))
    assert (found[:, 1] != draw_unjudged(query_of, query_of, document_of, 45, 4)[:, 1]).any()
    # A query that has judged every document gets none.
    assert len(draw_unjudged(*[np.array([0, 0, 0, 1])] * 2, np.array([0, 1, 2, 0]), 3, 0)) == 1


def test_the_fitted_model_searches(world, embedder, index):
    model, report = calibrate_hybrid(index, embedder, world.pairs)
    assert model.cosine_weight > 0
    assert model.words_weight > 0
    assert report.variant == "fp32"
    assert report.queries == len({pair.query for pair in world.pairs})
    assert report.random_pairs == len(world.pairs)
    assert report.grading.pairs == report.ranking.pairs == len(world.pairs)
    assert report.held_out_log_loss["hybrid"] < report.held_out_log_loss["cosine"]
    assert report.to_dict()["ranking"]["mean_ap"] == report.ranking.mean_ap
    assert calibrate_hybrid(index, embedder, world.pairs)[0] == model
    index.store_hybrid({report.variant: model})
    hits = Searcher(embedder, index, mode="hybrid").search(world.queries[0].text, 5)
    assert hits.order == "hybrid"
    assert all(hit.relevance is not None for hit in hits)


def test_levels_and_order_are_those_of_the_labelled_pairs_alone():
    """Random pairs are fitted; the report is of what somebody labelled."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    near = np.stack([0.5 + 0.1 * labels + rng.normal(0, 0.1, 400), rng.random(400) ** 2], axis=1)
    features = np.concatenate([near, np.stack([rng.normal(0.2, 0.1, 400), np.zeros(400)], axis=1)])
    queries = [f"q{i // 8}" for i in range(400)]
    model, report = _fit(features, labels, queries * 2, "fp32")
    assert report.random_pairs == report.grading.pairs == report.ranking.pairs == 400
    assert report.queries == 50
    assert model.probabilities([[0.2, 0.0]])[0, 0] > 0.95


def test_what_cannot_support_a_fit_is_refused(world, embedder, index, tmp_path):
    with pytest.raises(InputError, match="no labelled pairs"):
        calibrate_hybrid(index, embedder, [])
    with pytest.raises(CalibrationError, match="too few"):
        calibrate_hybrid(index, embedder, world.pairs[:10])
    with pytest.raises(CalibrationError, match="49 labelled pairs"):  # random ones do not count
        calibrate_hybrid(index, embedder, world.pairs[:49])
    same = [LabelledPair(pair.query, pair.document, world.pairs[0].level) for pair in world.pairs]
    with pytest.raises(CalibrationError, match="levels 0 and 3"):
        calibrate_hybrid(index, embedder, same)
    with Index.build(tmp_path / "none", world.documents[:50], embedder, lexical=False) as plain:
        with pytest.raises(InputError, match="lexical=False"):
            calibrate_hybrid(plain, embedder, world.pairs)
    with pytest.raises(EncoderMismatchError):
        calibrate_hybrid(index, Embedder(embedder.bundle.path, truncate_dim=8), world.pairs)
