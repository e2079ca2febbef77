"""Folders that earlier versions wrote open for ever, and answer as they did."""

import json
from pathlib import Path

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.index import verify_index
from tests.fixtures.make_index import answers

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def expected():
    return json.loads((FIXTURES / "expected-v1.json").read_text(encoding="utf-8"))


def test_an_encoder_gives_the_vectors_that_it_gave(expected):
    embedder = Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32")
    texts = expected["texts"]
    np.testing.assert_allclose(embedder.encode_query(texts), expected["query_vectors"], atol=1e-5)
    np.testing.assert_allclose(embedder.encode_document(texts), expected["document_vectors"], atol=1e-5)
    tower = Embedder(FIXTURES / "tower-bundle-v1", variant="fp32")
    np.testing.assert_allclose(tower.encode_query(texts), expected["tower_query_vectors"], atol=1e-5)
    np.testing.assert_allclose(tower.encode_document(texts), expected["document_vectors"], atol=1e-5)


def test_an_index_finds_and_grades_what_it_did(expected):
    assert verify_index(FIXTURES / "index-v1").ok
    with Index.open(FIXTURES / "index-v1") as index:
        searcher = Searcher(Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32"), index)
        for search in expected["searches"]:
            hits = searcher.search(search["query"], k=5)
            assert [hit.document.id for hit in hits] == [hit["id"] for hit in search["hits"]]
            for hit, old in zip(hits, search["hits"], strict=True):
                assert (hit.document.title, int(hit.level)) == (old["title"], old["level"])
                assert hit.score == pytest.approx(old["score"], abs=1e-5)
                np.testing.assert_allclose(hit.probabilities, old["probabilities"], atol=1e-4)


def test_an_index_of_format_2_answers_as_it_did():
    """Two segments, dead documents, a model of meaning and words, codes of 8 bits; and one in passages."""
    expected = json.loads((FIXTURES / "expected-v2.json").read_text(encoding="utf-8"))
    for name in ("index-v2", "index-v2-passages"):
        assert verify_index(FIXTURES / name).ok
    found = answers(FIXTURES, Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32"))
    for name in ("ids", "facets", "count", "spans"):
        assert found[name] == expected[name], name
    for name in ("dense", "filtered", "lexical", "hybrid", "passages"):
        for hits, old in zip(found[name], expected[name], strict=True):
            assert [identifier for identifier, _ in hits] == [identifier for identifier, _ in old], name
            assert [score for _, score in hits] == pytest.approx([score for _, score in old], abs=1e-4)


def test_a_scorer_grades_as_it_did(expected):
    scorer = RelevanceScorer(FIXTURES / "scorer-bundle-v1", variant="fp32")
    found = scorer.predict([tuple(pair) for pair in expected["pairs"]])
    np.testing.assert_allclose(found.probabilities, expected["pair_probabilities"], atol=1e-4)
    assert found.levels.tolist() == expected["pair_levels"]
