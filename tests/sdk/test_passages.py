"""Passages beyond the index: what a scorer reads of a hit, and what commands show of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from relsdk import Document, Embedder, Index, RelevanceScorer, Searcher
from relsdk.index import IndexConfig

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ENCODER, SCORER = FIXTURES / "encoder-bundle-v1", FIXTURES / "scorer-bundle-v1"
FIRST, SECOND = "红烧肉要选五花肉，切块焯水。" * 3, "大理的古城和洱海适合骑行。" * 3
DOCUMENTS = [
    Document("long", "两件事", FIRST + SECOND),
    Document("untitled", "", "猫粮怎么选。" * 9),
    Document("short", "只有标题"),
]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(ENCODER, variant="fp32", threads=1)


@pytest.fixture(scope="module")
def index(embedder, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "i"
    Index.build(path, DOCUMENTS, embedder, config=IndexConfig(passage_characters=len(FIRST))).close()
    return path


def hit_of(hits, identifier):
    return next(hit for hit in hits if hit.document.id == identifier)


@pytest.mark.parametrize("text", ["红烧肉怎么做", "大理旅游"])
def test_a_scorer_reads_the_passage_that_was_found(index, embedder, text):
    scorer = RelevanceScorer(SCORER, variant="fp32", threads=1)
    with Index.open(index) as opened:
        hits = Searcher(embedder, opened, scorer).search(text, 3)
    hit = hit_of(hits, "long")
    assert hit.document == DOCUMENTS[0]  # whole, with the passage beside it
    assert hit.passage.text == hit.document.text[hit.passage.start : hit.passage.end]
    assert len(hit.passage.text) < len(hit.document.text)
    read = replace(hit.document, text=hit.passage.text)
    of_passage, of_whole = scorer.predict([(text, read), (text, hit.document)]).scores.tolist()
    assert hit.score == pytest.approx(of_passage, abs=1e-6)
    assert hit.score != pytest.approx(of_whole, abs=1e-3)


def test_a_query_shows_the_passage_below_the_title(index, relsdk):
    common = ("query", index, "大理旅游", "-m", ENCODER, "--variant", "fp32")
    code, out, _ = relsdk(*common, "--json")
    assert code == 0
    hits = {hit["id"]: hit for hit in json.loads(out)["hits"]}
    passage = hits["long"]["passage"]
    assert passage["text"] == hits["long"]["text"][passage["start"] : passage["end"]]
    assert hits["short"]["passage"] == {"text": "", "start": 0, "end": 0}
    lines = relsdk(*common)[1].splitlines()
    row = next(number for number, line in enumerate(lines) if "两件事" in line)
    assert lines[row + 1].strip().startswith(passage["text"][:5])
    assert sum("猫粮" in line for line in lines) == 1  # without a title it is the passage
    assert len(lines) == 2 + len(hits) + 1


def test_hits_of_an_index_of_whole_documents_have_no_passage(embedder, relsdk, tmp_path):
    Index.build(tmp_path / "i", DOCUMENTS, embedder).close()
    code, out, _ = relsdk("query", tmp_path / "i", "大理旅游", "-m", ENCODER, "--variant", "fp32", "--json")
    assert code == 0
    assert [hit["passage"] for hit in json.loads(out)["hits"]] == [None] * 3
