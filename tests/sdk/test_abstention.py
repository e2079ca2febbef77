"""Answering only where one is sure: levels, curves, and "nothing relevant" as an answer of its own."""

import zlib

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, RelevanceLevel, RelevanceScorer, Searcher
from relsdk.bundle import save_calibration
from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk.metrics import abstention_curve
from relsdk.models.bi_encoder import BiEncoder
from relsdk.records import Relevance
from relsdk.tools.evaluation import calibrate_bundle, evaluate
from relsdk_sample import generate, level_of
from relsdk_sample.oracle import facts_of, level_from_facts
from relsdk_sample.parse import parse
from tests.toys import copy_bundle


def test_a_level_is_told_where_it_is_probable_enough():
    relevance = Relevance(RelevanceLevel.MOSTLY, (0.1, 0.1, 0.6, 0.2), 1.9, 0.8)
    assert relevance.level_at(0.0) == relevance.level_at(0.6) == RelevanceLevel.MOSTLY
    assert relevance.level_at(0.61) is None  # though P(level >= 1) is 0.9
    for wrong in (-0.1, 1.1, float("nan"), "0.5", True, None):
        with pytest.raises(InputError, match="confidence="):
            relevance.level_at(wrong)


def test_the_curve_of_a_toy():
    probabilities = np.array([[0.9, 0.1, 0, 0], [0, 0.7, 0.3, 0], [0.1, 0.3, 0.6, 0], [0.4, 0.3, 0.2, 0.1]])
    points = abstention_curve([0, 1, 1, 0], probabilities, (0.0, 0.5, 0.7, 0.95))
    assert [point.unanswered for point in points] == [0, 0.25, 0.5, 1]
    assert [point.accuracy for point in points[:3]] == [3 / 4, 2 / 3, 1]
    assert points[3].to_dict() == {"confidence": 0.95, "unanswered": 1.0, "accuracy": None}


def test_answers_of_calibrated_probabilities_are_as_right_as_they_say():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet([0.4] * 4, 20_000)
    labels = (rng.random((20_000, 1)) > np.cumsum(probabilities, axis=1)).sum(axis=1)
    for point in abstention_curve(labels, probabilities):
        answered = probabilities.max(axis=1) >= point.confidence
        assert point.unanswered == pytest.approx(1 - answered.mean())
        assert point.accuracy == pytest.approx(probabilities.max(axis=1)[answered].mean(), abs=0.02)


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def embedder(world, tmp_path_factory):
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("calibrated") / "b", variants=["fp32"])
    calibrate_bundle(folder, world.split("train"))
    return Embedder(folder, threads=1)


@pytest.fixture(scope="module")
def index(embedder, world, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("i") / "i", world.documents, embedder) as built:
        yield built


def relevant(hit):
    return sum(hit.probabilities[2:])


def test_eval_has_the_curve(embedder, world):
    report = evaluate(BiEncoder(embedder), world.split("test"))
    content = report.to_dict()["abstention"]
    assert [point["confidence"] for point in content] == [round(0.5 + 0.05 * n, 2) for n in range(10)]
    shares = [point["unanswered"] for point in content]
    assert shares == sorted(shares)
    pairs = world.split("test")
    graded = RelevanceScorer(embedder).predict([(pair.query, pair.document) for pair in pairs])
    answered = graded.probabilities.max(axis=1) >= 0.5
    right = graded.levels == [pair.level for pair in pairs]
    assert content[0]["unanswered"] == pytest.approx(1 - answered.mean())
    assert content[0]["accuracy"] == (pytest.approx(right[answered].mean()) if answered.any() else None)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_nothing_relevant_is_of_all_candidates(embedder, index, world, mode):
    searcher = Searcher(embedder, index, mode=mode)
    query = world.queries[0].text
    hits = searcher.search(query, k=50)
    assert hits.nothing_relevant == pytest.approx(1 - max(map(relevant, hits)))
    for conditions in ({"min_score": 9e9}, {"min_confidence": 1.0}, {"offset": 3}, {"group_by": "topic"}):
        again = searcher.search(query, k=50, **conditions).nothing_relevant
        if mode != "lexical" or "min_score" in conditions:  # else other candidates are looked at
            assert again == pytest.approx(hits.nothing_relevant)


def test_nothing_relevant_of_a_scorer_is_of_those_it_saw(embedder, index, world):
    searcher = Searcher(embedder, index, RelevanceScorer(embedder))
    query = world.queries[0].text
    hits = searcher.search(query, k=4)
    assert hits.nothing_relevant == pytest.approx(1 - max(map(relevant, hits)))
    assert searcher.search(query, k=4, min_score=9e9).nothing_relevant == hits.nothing_relevant
    assert searcher.search(query, k=4, budget_ms=1e-6).nothing_relevant is None  # no time for any


def test_nothing_relevant_without_candidates_and_without_levels(embedder, index, world, tmp_path):
    nowhere = {"topic": "nowhere"}
    for scorer in (None, RelevanceScorer(embedder)):
        assert Searcher(embedder, index, scorer).search("红烧肉", where=nowhere).nothing_relevant == 1.0
    bare = Embedder(copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"]), threads=1)
    assert Searcher(bare, index).search("红烧肉").nothing_relevant is None


class Reader(Embedder):
    """Reads what a text asks for or offers: a noisy sum of directions for entity, aspects and constraints."""

    def encode_query(self, inputs, **options):
        return self._vectors_of(inputs, lambda query: self._wanted(*parse(query)))

    def encode_document(self, inputs, **options):
        documents = [inputs] if isinstance(inputs, Document) else inputs
        return self._vectors_of(documents, lambda document: self._wanted(facts_of(document)))

    def _wanted(self, facts):
        entities = getattr(facts, "entities", None)
        names = sorted(entities if entities is not None else {facts.entity})
        parts = [(1.0, name) for name in names] + [(0.9, facts.topic)]
        parts += [(0.8, f"{facts.topic} {key}") for key in sorted(facts.aspects)]
        return parts + [(0.3, f"{facts.topic} {key}") for key in sorted(facts.constraints)]

    def _vectors_of(self, inputs, parts_of):
        texts = [inputs] if isinstance(inputs, str) else inputs
        rows = []
        for text in texts:
            noise = direction(repr(getattr(text, "id", text)), self.dimension)
            rows.append(sum((w * direction(n, self.dimension) for w, n in parts_of(text)), 0.1 * noise))
        matrix = np.array(rows, dtype=np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return matrix[0] if isinstance(inputs, str) else matrix


def direction(name, dimension):
    vector = np.random.default_rng(zlib.crc32(name.encode())).normal(size=dimension)
    return vector / np.linalg.norm(vector)


def test_nothing_relevant_on_the_sample_corpus(tmp_path):
    """Relevant documents of half of the queries are left out: right in 90 % of these, wrong in 10 % else.

    Levels are fitted on graded hits of other queries, as `relsdk label suggest` chooses them.
    """
    world = generate(seed=1, n_documents=600, n_queries=300, pairs_per_query=4)
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    queries = [query.text for query in world.queries]
    fitted, left_out, others = queries[:120], queries[120:210], queries[210:]
    facts = [facts_of(document) for document in world.documents]
    wanted = [reading for query in left_out for reading in parse(query)]
    gone = [any(level_from_facts(reading, one) >= 2 for reading in wanted) for one in facts]
    few = [document for document, is_gone in zip(world.documents, gone, strict=True) if not is_gone]
    reader = Reader(folder, threads=1)
    with (
        Index.build(tmp_path / "all", world.documents, reader) as everything,
        Index.build(tmp_path / "few", few, reader) as rest,
    ):
        pairs = [
            (hit.score, int(level_of(query, hit.document)), query)
            for index in (everything, rest)
            for query, hits in zip(fitted, index.search(reader.encode_query(fitted), 8), strict=True)
            for hit in hits
        ]
        calibration, _ = fit_calibration(*zip(*pairs, strict=True))
        save_calibration(reader.bundle, reader.variant, reader.calibration_key, calibration.to_dict(), {})
        reader = Reader(folder, threads=1)
        share = {}
        for name, index, some in (("right", rest, left_out), ("wrong", everything, others)):
            told = [result.nothing_relevant for result in Searcher(reader, index).search_batch(some)]
            share[name] = np.mean(np.array(told) >= 0.5)
    assert share["right"] >= 0.9
    assert share["wrong"] <= 0.1
