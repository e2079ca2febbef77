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


def test_what_does_not_go_together(fails, world):
    index, bundle, pairs, _ = world
    assert "leave out --dim" in fails("calibrate", bundle, pairs, "--index", index, "--dim", "8")
    assert "does not exist" in fails("calibrate", bundle, pairs, "--index", index.with_name("none"))
