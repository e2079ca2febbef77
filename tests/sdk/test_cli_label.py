"""`relsdk label suggest`: which pairs to label next."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.errors import InputError
from relsdk.formats import read_pairs, read_unlabelled_pairs, write_documents
from relsdk.records import Hit, Passage, Relevance, SearchResult
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.label_suggestions import suggest_pairs
from relsdk_sample import generate, level_of
from tests.toys import copy_bundle


def entropy(probabilities):
    return -sum(p * np.log(p) for p in probabilities)


class Found:
    """A searcher whose hits are written down: query to (id, probabilities)."""

    def __init__(self, hits):
        self.hits = hits

    def search_batch(self, queries, k):
        return [SearchResult([self.hit(*one) for one in self.hits[query]][:k]) for query in queries]

    @staticmethod
    def hit(name, probabilities):
        level = int(np.argmax(probabilities))
        return Hit(Document(name, name), 0.5, Relevance(level, probabilities, 0.0, 0.5))


SURE_0, UNSURE_0 = (0.97, 0.01, 0.01, 0.01), (0.7, 0.2, 0.05, 0.05)
SURE_3, UNSURE_3 = (0.01, 0.01, 0.01, 0.97), (0.02, 0.08, 0.1, 0.8)


def test_the_uncertain_of_each_level_come_first():
    searcher = Found({"q": [("a", SURE_0), ("b", UNSURE_0), ("c", SURE_0), ("d", SURE_3), ("e", UNSURE_3)]})
    chosen = suggest_pairs(searcher, ["q"], 2)
    assert [(one.document.id, one.stratum, one.weight) for one in chosen] == [("b", 0, 3), ("e", 3, 2)]
    everything = suggest_pairs(searcher, ["q"], 9)
    assert [one.document.id for one in everything] == list("abcde")
    assert {one.weight for one in everything} == {1}


def test_queries_take_turns():
    hits = [(name, UNSURE_0) for name in "abcdef"]
    searcher = Found({"q": hits, "r": [(name.upper(), UNSURE_0) for name, _ in hits], "s": [("z", SURE_0)]})
    chosen = suggest_pairs(searcher, ["q", "r", "q", "s"], 4)
    assert sorted(Counter(one.query for one in chosen).values()) in ([2, 2], [1, 1, 2])
    assert max(Counter(one.query for one in suggest_pairs(searcher, ["q", "r", "s"], 7)).values()) == 3
    assert len(suggest_pairs(searcher, ["q"], 5)) == 5  # one query has to give all
    searcher.hits["q"] = [("a", UNSURE_0)]
    shares = [Counter(one.query for one in suggest_pairs(searcher, ["q", "r"], n)) for n in (4, 6, 9)]
    assert shares == [{"q": 1, "r": 3}, {"q": 1, "r": 5}, {"q": 1, "r": 6}]  # the other makes up for it


def test_what_has_a_label_and_what_is_there_twice_is_left_out():
    searcher = Found({"q": [("a", SURE_0), ("a", SURE_0), ("b", SURE_0)]})
    assert [one.document.id for one in suggest_pairs(searcher, ["q"], 9)] == ["a", "b"]
    known = [("q", Document("of another id", "b")), ("r", Document("a", "a"))]
    assert [one.document.id for one in suggest_pairs(searcher, ["q"], 9, labelled=known)] == ["a"]
    with pytest.raises(InputError, match="nothing is left to label"):
        suggest_pairs(searcher, ["q"], 9, labelled=[*known, ("q", Document("a", "a"))])
    with pytest.raises(InputError, match="no queries"):
        suggest_pairs(searcher, [], 9)
    with pytest.raises(InputError, match="count=0"):
        suggest_pairs(searcher, ["q"], 0)


def test_of_a_passage_the_passage_is_labelled():
    hit = Hit(Document("1", "title", "a long text"), 0.5, passage=Passage("long", 2, 6))
    searcher = SimpleNamespace(search_batch=lambda queries, k: [SearchResult([hit])])
    (one,) = suggest_pairs(searcher, ["q"], 1)
    assert one.document == Document("", "title", "long")


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    bundle = copy_bundle("encoder-bundle-v1", folder / "bundle", variants=["fp32"])
    bare = copy_bundle("encoder-bundle-v1", folder / "bare", variants=["fp32"])
    calibrate_bundle(bundle, world.split("train"))
    write_documents(folder / "docs.jsonl", world.documents)
    (folder / "queries.txt").write_text("".join(f"{query.text}\n" for query in world.queries))
    Index.build(folder / "i", world.documents, Embedder(bundle, threads=1)).close()
    return SimpleNamespace(
        folder=folder, bundle=bundle, bare=bare, index=folder / "i", queries=folder / "queries.txt"
    )


def test_a_team_goes_on_from_what_is_suggested(files, world, relsdk, fails, tmp_path):
    output = tmp_path / "pairs.jsonl"
    code, out, _ = relsdk("label", "suggest", files.index, files.queries, "-n", "60", "-o", output, "--json")
    assert code == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert json.loads(out)["pairs"] == len(rows) == 60
    assert json.loads(out)["queries"] == len({row["query"] for row in rows})
    assert all(row["label"] is None and row["weight"] >= 1 for row in rows)
    message = fails("calibrate", files.bundle, output)
    assert "pairs.jsonl:1" in message
    assert "label is null" in message
    known = {document.id: document for document in world.documents}
    filled = tmp_path / "filled.jsonl"
    graded = [{**row, "label": level_of(row["query"], known[row["doc_id"]])} for row in rows]
    filled.write_text("".join(json.dumps(row) + "\n" for row in graded))
    assert len(list(read_pairs(filled))) == 60
    again = tmp_path / "again.jsonl"
    more = ["-n", "60", "-o", again, "--labelled", filled]
    assert relsdk("label", "suggest", files.index, files.queries, *more)[0] == 0
    first, second = ({(q, d.id) for q, d in read_unlabelled_pairs(path)} for path in (output, again))
    assert len(second) == 60
    assert not first & second


def test_they_are_uncertain_spread_and_the_same_each_time(files, world, relsdk, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        options = ["-n", "45", "-o", tmp_path / name, "-m", files.bundle]
        code, out, _ = relsdk("label", "suggest", files.index, files.queries, *options)
        assert code == 0
        assert "45 pairs of" in out
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    pairs = list(read_unlabelled_pairs(tmp_path / "a.jsonl"))
    assert max(Counter(query for query, _ in pairs).values()) <= 3
    embedder = Embedder(files.bundle, threads=1)
    texts = [query.text for query in world.queries]
    with Index.open(files.index) as index:
        hits = {
            (query, hit.document.id): hit.probabilities
            for query, found in zip(texts, Searcher(embedder, index).search_batch(texts, 30), strict=True)
            for hit in found
        }
    stratum = {key: round(float(np.dot(p, range(4)))) for key, p in hits.items()}
    chosen = [(query, document.id) for query, document in pairs]
    there, taken = Counter(stratum.values()), Counter(stratum[key] for key in chosen)
    even = 45 / len(there)
    assert all(taken[part] >= min(number, int(even)) - 1 for part, number in there.items())
    for part in there:
        own = [entropy(hits[key]) for key in chosen if stratum[key] == part]
        every = [entropy(hits[key]) for key in hits if stratum[key] == part]
        assert np.mean(own) >= np.mean(every) - 1e-9


def test_without_levels_they_are_spread_over_the_cosine(files, relsdk, tmp_path):
    outputs = []
    for seed in ("0", "1"):
        options = ["-n", "40", "-o", tmp_path / seed, "-m", files.bare, "--seed", seed]
        code, out, _ = relsdk("label", "suggest", files.index, files.queries, *options, "--json")
        assert code == 0
        assert json.loads(out)["tenth_of_cosines"] == {str(part): 4 for part in range(10)}
        outputs.append((tmp_path / seed).read_bytes())
    assert outputs[0] != outputs[1]


def test_what_is_wrong_is_said(files, relsdk, fails, tmp_path):
    output = tmp_path / "pairs.jsonl"
    few = tmp_path / "few.txt"
    few.write_text("红烧肉\n大理旅游\n")
    code, out, err = relsdk("label", "suggest", files.index, few, "-o", output)
    assert code == 0
    assert "at least 5 queries" in err
    assert "next:" not in out + err  # it would be refused
    options = ["-o", tmp_path / "p.jsonl", "-n", "20"]
    code, out, err = relsdk("label", "suggest", files.index, files.queries, *options)
    assert (code, err) == (0, "")
    assert f"next: relsdk calibrate {files.bundle} {tmp_path / 'p.jsonl'}\n" in out
    assert "for a promised precision label pairs that are drawn at random" in out
    few.write_text(few.read_text() + "川菜\n火锅\n旅游\n火锅\n")
    code, out, err = relsdk("label", "suggest", files.index, few, "-o", tmp_path / "all", "-n", "5000")
    assert code == 0
    assert "150 pairs of 5 queries, at most 30 of each" in out
    assert "have no label are chosen, 150; give more queries" in err
    assert "of 6 queries 5 are different; equal ones count once" in err
    code, out, err = relsdk("label", "suggest", files.index, files.queries, "-o", "/dev/null", "-n", "20")
    assert code == 0
    assert "next: relsdk calibrate" in err  # as for a pipe: there are the pairs, and nothing else
    assert "next:" not in out
    assert "--overwrite" in fails("label", "suggest", files.index, few, "-o", output)
    assert "--output" in fails("label", "suggest", files.index, few)
    assert "absent" in fails("label", "suggest", files.index, tmp_path / "absent", "-o", tmp_path / "x")
