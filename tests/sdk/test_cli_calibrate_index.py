"""`relsdk calibrate --index`, and searches by the model that it stores."""

import json

import pytest

from relsdk import Embedder, Index, Searcher
from relsdk.formats import write_documents
from relsdk_sample import generate


@pytest.fixture
def world(tmp_path, toy_bundle_copy):
    world = generate(seed=4, n_documents=120, n_queries=40, pairs_per_query=8)
    write_documents(tmp_path / "d.jsonl", world.documents)
    lines = [
        {"query": p.query, "title": p.document.title, "text": p.document.text, "label": int(p.level)}
        for p in world.pairs
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    embedder = Embedder(toy_bundle_copy, variant="fp32", threads=1)
    Index.build(tmp_path / "x", world.documents, embedder).close()
    return tmp_path / "x", toy_bundle_copy, tmp_path / "pairs.jsonl", world.queries[0].text


def test_it_is_fitted_stored_and_used(relsdk, world):
    index, bundle, pairs, query = world
    before = {path: path.read_bytes() for path in bundle.rglob("*.json")}
    ask = ("query", index, query, "--model", bundle, "--variant", "fp32", "--mode", "hybrid")
    code, out, err = relsdk(*ask)
    assert code == 0
    assert f"relsdk calibrate BUNDLE PAIRS --index {index}" in err
    code, out, err = relsdk("calibrate", bundle, pairs, "--index", index, "--variant", "fp32", "--json")
    assert code == 0, err
    (report,) = json.loads(out)["calibrations"]
    assert report["variant"] == "fp32"
    assert report["model"]["words_weight"] >= 0
    assert {path: path.read_bytes() for path in bundle.rglob("*.json")} == before
    assert "fp32" in next(
        line for line in relsdk("index", "info", index)[1].splitlines() if line.startswith("hybrid ")
    )
    with Index.open(index) as opened:
        assert opened.hybrid_models["fp32"].to_dict() == report["model"]
        expected = Searcher(Embedder(bundle, variant="fp32"), opened, mode="hybrid").search(query)
    code, out, err = relsdk(*ask, "--json", "--min-level", "0")
    answer = json.loads(out)
    assert answer["order"] == "hybrid"
    assert "calibrate" not in err
    assert [(hit["id"], hit["level"]) for hit in answer["hits"]] == [
        (hit.document.id, int(hit.level)) for hit in expected
    ]


def test_it_notes_what_searches_find(relsdk, world, monkeypatch):
    """Counted again here, from what the searcher gives for the same queries."""
    index, bundle, pairs, _ = world
    queries = [pair["query"] for pair in map(json.loads, pairs.read_text().splitlines())][:310]
    (pairs.parent / "q.txt").write_text("\n".join(queries))
    arguments = (
        "calibrate",
        bundle,
        pairs,
        "--index",
        index,
        "--variant",
        "fp32",
        "--queries",
        pairs.parent / "q.txt",
    )
    code, out, err = relsdk(*arguments)
    assert code == 0, err
    assert "noted what 310 searches find" in out
    with Index.open(index) as opened:
        profiles = opened.profiles("fp32")
        searcher = Searcher(Embedder(bundle, variant="fp32", threads=1), opened)
        assert set(profiles) == {"cosine", "bm25", "hybrid"}
        for mode, order in (("dense", "cosine"), ("lexical", "bm25"), ("hybrid", "hybrid")):
            first = [hits[0] for hits in searcher.search_batch(queries, k=1, mode=mode)]
            levels = [
                sum(int(hit.level) == level for hit in first if hit.level is not None) for level in range(4)
            ]
            assert profiles[order].level == [0, *levels]
            assert sum(levels) in (0, 310)  # the bundle has no levels of its own
            assert profiles[order].searches("cosine") == profiles[order].searches("tokens") == 310
    monkeypatch.setattr("relsdk.tools.search_profiles._LEAST_QUERIES", 30)
    (pairs.parent / "q.txt").write_text("\n".join(queries[:30]))
    assert json.loads(relsdk(*arguments, "--json")[1])["searches"] == 30


def test_what_does_not_go_together(fails, world):
    index, bundle, pairs, _ = world
    (pairs.parent / "few").write_text("\n".join(["红烧肉"] * 299))
    assert "there are 299 queries; at least 300 are needed" in fails(
        "calibrate", bundle, pairs, "--index", index, "--queries", pairs.parent / "few"
    )
    assert "pass --index INDEX as well" in fails(
        "calibrate", bundle, pairs, "--queries", pairs.parent / "few"
    )
    assert "leave out --dim" in fails("calibrate", bundle, pairs, "--index", index, "--dim", "8")
    assert "does not exist" in fails("calibrate", bundle, pairs, "--index", index.with_name("none"))
