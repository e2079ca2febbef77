import numpy as np
import pytest

from relsdk import Document, Embedder, Index, RelevanceLevel, RelevanceScorer, Searcher
from relsdk.errors import CalibrationError, EncoderMismatchError, InputError
from relsdk.evaluation import calibrate_bundle, evaluate, operating_point
from relsdk.metrics import average_precision
from relsdk.pair_models import BiEncoder
from relsdk.sample_world import generate


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def embedder(toy_bundle, world, tmp_path_factory):
    import shutil

    folder = shutil.copytree(toy_bundle, tmp_path_factory.mktemp("calibrated") / "b")
    calibrate_bundle(folder, world.split("train"), variants=["fp32"])
    return Embedder(folder, variant="fp32", threads=1)


@pytest.fixture(scope="module")
def searcher(embedder, world, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("i") / "i", world.documents, embedder) as index:
        yield Searcher(embedder, index)


def test_hits_are_the_nearest_documents_with_their_levels(searcher, embedder, world):
    query = world.queries[0].text
    hits = searcher.search(query, k=5)
    vectors = embedder.encode_document(world.documents)
    scores = vectors @ embedder.encode_query(query)
    best = np.argsort(-scores)[:5]
    assert [hit.document.id for hit in hits] == [world.documents[i].id for i in best]
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
    probabilities = embedder.calibration.probabilities([hit.score for hit in hits])
    np.testing.assert_allclose([hit.probabilities for hit in hits], probabilities)
    assert [hit.level for hit in hits] == probabilities.argmax(axis=1).tolist()
    assert isinstance(hits[0].level, RelevanceLevel)
    assert hits[0].document.metadata["topic"]


def test_search_batch_is_search(searcher, world):
    texts = [query.text for query in world.queries[:4]]
    for one, hits in zip(texts, searcher.search_batch(texts, 3), strict=True):
        assert [hit.document.id for hit in hits] == [hit.document.id for hit in searcher.search(one, 3)]


def test_a_scorer_reorders_the_candidates(embedder, searcher, world):
    class Backwards(RelevanceScorer):
        """Grades like the encoder and ranks the other way round."""

        def predict(self, pairs, **options):
            from dataclasses import replace

            found = super().predict(pairs, **options)
            return replace(found, scores=-found.scores)

    query = world.queries[0].text
    plain = searcher.search(query, k=10)
    reordered = Searcher(embedder, searcher.index, Backwards(embedder)).search(query, k=2)
    assert [hit.document.id for hit in reordered] == [hit.document.id for hit in reversed(plain)][:2]
    assert reordered[0].score == pytest.approx(-plain[-1].score, abs=1e-6)
    assert reordered[0].level == plain[-1].level


def test_rank_and_predict(embedder, world):
    scorer = RelevanceScorer(embedder)
    query = world.queries[0].text
    documents = list(world.documents[:20])
    found = scorer.predict([(query, document) for document in documents])
    assert found.probabilities.shape == (20, 4)
    ranked = scorer.rank(query, documents, top_k=5)
    assert [row.index for row in ranked] == np.argsort(-found.scores, kind="stable")[:5].tolist()
    assert ranked[0].relevance == found[ranked[0].index]
    assert 0.0 <= ranked[0].relevance.expected_level <= 3.0
    with pytest.raises(InputError, match="top_k=0"):
        scorer.rank(query, documents, top_k=0)
    assert len(scorer.predict([])) == 0


def test_without_a_calibration_there_are_hits_and_no_levels(toy_bundle, world, tmp_path):
    embedder = Embedder(toy_bundle, variant="fp32", threads=1)
    with Index.build(tmp_path / "i", world.documents[:20], embedder) as index:
        searcher = Searcher(embedder, index)
        hits = searcher.search("红烧肉", k=3)
        assert [hit.level for hit in hits] == [None] * 3
        assert [hit.probabilities for hit in hits] == [None] * 3
        with pytest.raises(CalibrationError, match="relsdk calibrate"):
            searcher.search("红烧肉", min_level=2)
    with pytest.raises(CalibrationError, match="relsdk calibrate"):
        RelevanceScorer(embedder)


def test_an_index_of_another_encoder_or_dimension_is_refused(toy_bundle, searcher):
    with pytest.raises(EncoderMismatchError, match="8"):
        Searcher(Embedder(toy_bundle, truncate_dim=8), searcher.index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": ""}, "not empty"),
        ({"query": 7}, "not empty"),
        ({"query": "a" * 2001}, "2,001 characters"),
        ({"query": "a", "k": 0}, "k=0"),
        ({"query": "a", "k": True}, "k=True"),
        ({"query": "a", "min_level": 4}, "min_level=4"),
    ],
)
def test_bad_arguments(searcher, arguments, message):
    with pytest.raises(InputError, match=message):
        searcher.search(**arguments)
    with pytest.raises(InputError, match="list of queries"):
        searcher.search_batch("红烧肉")


def test_evaluate_is_the_metrics_of_the_scores(embedder, world):
    pairs = world.split("test")
    report = evaluate(BiEncoder(embedder), pairs)
    queries = embedder.encode_query([pair.query for pair in pairs])
    documents = embedder.encode_document([pair.document for pair in pairs])
    scores = (queries * documents).sum(axis=1)
    labels = np.array([pair.level for pair in pairs])
    assert report.ranking.ap_2 == pytest.approx(average_precision(labels >= 2, scores), abs=1e-3)
    assert report.grading.pairs == len(pairs)
    with pytest.raises(InputError, match="no labelled pairs"):
        evaluate(BiEncoder(embedder), [])


def test_the_operating_point_holds_on_its_pairs(embedder, world):
    pairs = world.split("train")
    point = operating_point(BiEncoder(embedder), pairs, level=1, precision=0.15)
    assert point.precision >= 0.15
    assert 0 < point.recall <= 1


def test_calibration_is_kept_by_dimension(toy_bundle_copy, world):
    calibrate_bundle(toy_bundle_copy, world.split("train"), variants=["fp32"], truncate_dim=8)
    assert Embedder(toy_bundle_copy, variant="fp32", truncate_dim=8).is_calibrated
    assert not Embedder(toy_bundle_copy, variant="fp32").is_calibrated
    before = Embedder(toy_bundle_copy, variant="fp32", truncate_dim=8).calibration.to_dict()
    calibrate_bundle(toy_bundle_copy, world.split("train"), variants=["fp32"])
    assert Embedder(toy_bundle_copy, variant="fp32", truncate_dim=8).calibration.to_dict() == before
    assert Embedder(toy_bundle_copy, variant="fp32").is_calibrated


def test_a_query_with_no_documents_left_gives_no_hits(searcher):
    assert searcher.search("红烧肉", where={"author": "nobody at all"}) == []
    assert isinstance(searcher.search("红烧肉", k=10_000), list)
    assert isinstance(searcher.search("红烧肉", k=1)[0].document, Document)
