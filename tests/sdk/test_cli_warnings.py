"""What commands warn of stands in their JSON, too, word for word."""

import json

import pytest

from relsdk import Embedder, Index
from relsdk.calibration import Promise
from relsdk.cli._promises import promised_options
from relsdk.formats import write_documents
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import generate
from tests.toys import copy_bundle


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=120, n_queries=30)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """Documents, pairs, queries, a bundle with levels, one without, and an index."""
    folder = tmp_path_factory.mktemp("warnings")
    bundle = copy_bundle("encoder-bundle-v1", folder / "bundle", variants=["fp32"])
    copy_bundle("encoder-bundle-v1", folder / "bare", variants=["fp32"])
    calibrate_bundle(bundle, world.pairs, targets=[(1, 0.005)])
    write_documents(folder / "docs.jsonl", world.documents)
    lines = [
        {"query": p.query, "title": p.document.title, "text": p.document.text, "label": int(p.level)}
        for p in world.pairs
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with Index.build(folder / "index", world.documents, Embedder(bundle, variant="fp32")):
        return folder


def warned(relsdk, *command):
    """Return what stands on stderr without --json, and the JSON with it."""
    code, _, err = relsdk(*command)
    assert code == 0, err
    code, out, _ = relsdk(*command, "--json")
    assert code == 0
    told = [line.removeprefix("relsdk: warning: ") for line in err.splitlines()]
    return told, json.loads(out)


TARGETS = ("--target-precision", "0.005", "--target-precision", "0.99", "--level", "1")


def test_calibrate_and_what_is_stored(relsdk, folder, world, tmp_path):
    bundle = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join((folder / "pairs.jsonl").read_text().splitlines()[:100]))
    told, content = warned(relsdk, "calibrate", bundle, folder / "pairs.jsonl", *TARGETS, "--unlabelled", few)
    assert content["warnings"] == told[1:]  # the first says what is done
    for part in (
        "100 pairs without labels are few",
        "leaves hardly any out",
        "cannot show a precision of 0.99",
    ):
        assert sum(part in one for one in content["warnings"]) == 1, part
    told, content = warned(relsdk, "model", "info", bundle)
    assert content["warnings"] == told
    assert "leaves hardly any out" in told[0]


def test_calibrate_of_an_index(relsdk, folder):
    command = ("calibrate", folder / "bundle", folder / "pairs.jsonl", *TARGETS, "--index", folder / "index")
    told, content = warned(relsdk, *command)
    assert content["warnings"] == told[1:]
    assert any("leaves hardly any out" in one for one in content["warnings"])
    assert any("cannot show" in one for one in content["warnings"])


def test_query(relsdk, folder, tmp_path):
    with Index.build(
        tmp_path / "i",
        generate(seed=5, n_documents=100, n_queries=10).documents,
        Embedder(folder / "bare", variant="fp32"),
    ):
        pass
    command = ("query", tmp_path / "i", "红烧肉" * 60, "-m", folder / "bare", "--mode", "hybrid")
    told, content = warned(relsdk, *command)
    assert sorted(content["warnings"]) == sorted(told)
    assert any("order of the cosine" in one for one in told)
    assert any("relsdk calibrate" in one and "order" not in one for one in told)
    told, content = warned(relsdk, "query", folder / "index", "红烧肉" * 60, "-m", folder / "bundle")
    assert sorted(content["warnings"]) == sorted(told)
    assert any("levels are less to be trusted" in one for one in told)


def test_eval(relsdk, folder, tmp_path):
    told, (content,) = warned(relsdk, "eval", folder / "bare", folder / "pairs.jsonl")
    assert content["warnings"] == told == ["no levels: fit them with relsdk calibrate"]
    (tmp_path / "qrels.txt").write_text("q1 0 v1 2\nq2 0 v1 1\nq3 0 v1 0\n")
    (tmp_path / "run.txt").write_text("q1 Q0 v1 1 0.5 t\nq9 Q0 v1 1 0.5 t\n")
    told, content = warned(relsdk, "eval", "--run", tmp_path / "run.txt", tmp_path / "qrels.txt")
    assert content["warnings"] == told
    assert len(told) == 3
    (tmp_path / "queries.jsonl").write_text(json.dumps({"id": "q1", "text": "红烧肉"}))
    command = ("eval", "--index", folder / "index", "--queries", tmp_path / "queries.jsonl")
    told, content = warned(relsdk, *command, tmp_path / "qrels.txt", "-m", folder / "bundle")
    assert content["warnings"] == told
    assert any("not in the index" in one for one in told)


@pytest.mark.filterwarnings("always::relsdk.errors.TruncationWarning")
def test_index_build_and_add(relsdk, folder, tmp_path):
    (tmp_path / "d.csv").write_text("id,title,year\nd1," + "红烧肉" * 200 + ",2020\nd2,x,2021\n")
    options = ("-m", folder / "bundle", "--variant", "fp32", "-i", tmp_path / "d.csv")
    told, content = warned(relsdk, "index", "build", tmp_path / "i", *options, "--overwrite")
    assert content["warnings"] == told
    assert "columns typed as numbers: year" in told[0]
    assert "1 text longer than" in told[-1]
    told, content = warned(relsdk, "index", "add", tmp_path / "i", *options, "--replace")
    assert sorted(content["warnings"]) == sorted(told)
    assert "columns typed as numbers: year" in told[0]


def test_label_suggest_mine_and_facets(relsdk, folder, tmp_path):
    (tmp_path / "q.txt").write_text("红烧肉\n大理旅游\n")
    command = ("label", "suggest", folder / "index", tmp_path / "q.txt", "--overwrite")
    told, content = warned(relsdk, *command, "-m", folder / "bundle", "-o", tmp_path / "p.jsonl")
    assert content["warnings"] == told
    assert "at least 5 queries" in told[0]
    command = ("mine", folder / "index", folder / "pairs.jsonl", tmp_path / "m.jsonl", "--overwrite")
    told, content = warned(relsdk, *command, "--model", folder / "bundle")
    assert content["warnings"] == ["without --scorer some of them may be relevant"]
    assert content["warnings"][0] in told
    nobody = ("index", "facets", folder / "index", "topic", "--where", 'topic="nothing"')
    told, content = warned(relsdk, *nobody)
    assert content["warnings"] == told
    assert "no document that may count" in told[0]


def test_the_next_command_asks_for_what_all_variants_promise():
    one, other = (Promise(2, precision, 0.95, 0.7, 0.5, 0.93, 300, 100) for precision in (0.9, 0.8))
    assert promised_options([[one, other], [other]]) == "--min-level 2 --min-precision 0.8"
    assert promised_options([[one], [other]]) == promised_options([[]]) == ""
