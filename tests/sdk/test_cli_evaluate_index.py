"""`relsdk eval --index`: retrieval against judgements, and levels against labels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from relsdk import Embedder, Index
from relsdk.formats import read_run
from relsdk_sample import generate

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BUNDLE, SCORER = FIXTURES / "encoder-bundle-v1", FIXTURES / "scorer-bundle-v1"


@pytest.fixture(scope="module")
def world():
    return generate(seed=3, n_documents=200, n_queries=20)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """An index, queries and judgements."""
    folder = tmp_path_factory.mktemp("evaluation")
    Index.build(folder / "i", world.documents, Embedder(BUNDLE, variant="fp32", threads=1)).close()
    lines = [json.dumps({"_id": one.id, "text": one.text}, ensure_ascii=False) for one in world.queries]
    (folder / "q.jsonl").write_text("\n".join(lines))
    ids = {one.text: one.id for one in world.queries}
    judged = [f"{ids[one.query]} 0 {one.document.id} {int(one.level)}\n" for one in world.pairs]
    (folder / "qrels.txt").write_text("".join(judged))
    return folder


@pytest.fixture
def evaluate(files, relsdk):
    def evaluate(*options, qrels="qrels.txt", queries="q.jsonl"):
        named = ("--index", files / "i", "--queries", files / queries, "--variant", "fp32")
        return relsdk("eval", *named, files / qrels, *options)

    return evaluate


def labels_of(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    return {(query, document): int(label) for query, _, document, label in rows}


def test_judged_documents_that_are_gone_are_counted(files, evaluate):
    assert "not in the index" not in evaluate("-k", "5")[2]
    (query, _), *_ = labels_of(files / "qrels.txt")
    gone = "".join(f"{query} 0 gone{label} {label}\n" for label in (0, 1, 3)) + "other 0 gone4 3\n"
    (files / "gone.txt").write_text((files / "qrels.txt").read_text() + gone)
    assert json.loads(evaluate("--json", qrels="gone.txt")[1])["relevant_not_in_index"] == 2
    assert "2 documents judged 1 or above not in the index" in evaluate("-k", "5", qrels="gone.txt")[2]


def test_figures_are_those_of_the_run_and_of_its_judged_hits(files, evaluate, relsdk, tmp_path):
    code, out, _ = evaluate(
        "--json", "-k", "50", "--output-run", tmp_path / "run.txt", "-o", tmp_path / "e.json"
    )
    assert code == 0
    report = json.loads(out)
    assert json.loads((tmp_path / "e.json").read_text()) == report
    assert {**report["ranking"], "warnings": report["warnings"]} == json.loads(
        relsdk("eval", "--run", tmp_path / "run.txt", files / "qrels.txt", "--json")[1]
    )
    queries = ("query", files / "i", "-i", files / "q.jsonl", "-k", "50", "--variant", "fp32")
    (tmp_path / "query.txt").write_text(relsdk(*queries, "--format", "trec")[1])
    runs = [read_run(tmp_path / name) for name in ("run.txt", "query.txt")]
    assert list(runs[0]) == list(runs[1])
    for query, scores in runs[0].items():
        assert scores == pytest.approx(runs[1][query], abs=1e-5)
    answers = [json.loads(line) for line in relsdk(*queries, "--json")[1].splitlines()]
    labels = labels_of(files / "qrels.txt")
    hits = [(answer["id"], hit) for answer in answers for hit in answer["hits"]]
    judged = [(labels[query, hit["id"]], hit) for query, hit in hits if (query, hit["id"]) in labels]
    assert (report["hits"], report["judged_hits"]) == (50 * 20, len(judged))
    top = [(answer["id"], hit["id"]) in labels for answer in answers for hit in answer["hits"][:10]]
    assert report["judged_at_10"] == pytest.approx(np.mean(top))
    truth = np.array([label for label, _ in judged])
    predicted = np.array([hit["level"] for _, hit in judged])
    assert report["levels"]["pairs"] == len(judged)
    assert report["levels"]["accuracy"] == pytest.approx(np.mean(truth == predicted))
    by_chance = np.mean((truth[:, None] - predicted[None, :]) ** 2)
    assert report["levels"]["qwk"] == pytest.approx(1 - np.mean((truth - predicted) ** 2) / by_chance)
    sure = np.array([max(hit["probabilities"]) for _, hit in judged])
    bins = np.minimum((sure * 15).astype(int), 14)
    gaps = [abs(np.sum((truth == predicted)[bins == b]) - np.sum(sure[bins == b])) for b in range(15)]
    assert report["levels"]["ece"] == pytest.approx(np.sum(gaps) / len(judged), abs=1e-4)
    names = ("documents", "queries", "k", "variant", "scorer", "generation", "mode", "order")
    said = {name: report[name] for name in names}
    assert said == {
        "documents": 200, "queries": 20, "k": 50, "variant": "fp32", "scorer": None,
        "generation": "gen-000001", "mode": "dense", "order": "cosine",
    }  # fmt: skip


def test_it_is_a_table_for_people(evaluate):
    code, out, _ = evaluate("-k", "20")
    assert code == 0
    names = [line.split() for line in out.splitlines()]
    assert names[0][:2] == ["queries", "nDCG@10"]
    assert names[2][-4:] == ["accuracy", "QWK", "ECE", "Brier"]
    assert [name[0] for name in names[5:] if name] == ["calibration", *["judged"] * 4]


def test_a_scorer_gives_order_and_levels(evaluate, tmp_path):
    plain = json.loads(evaluate("--json", "-k", "5")[1])
    options = ("--json", "-k", "5", "--scorer", SCORER, "--output-run", tmp_path / "run.txt")
    graded = json.loads(evaluate(*options)[1])
    assert graded["scorer"] == str(SCORER)
    assert graded["ranking"] != plain["ranking"]
    assert all(0 <= score <= 3 for hits in read_run(tmp_path / "run.txt").values() for score in hits.values())


def test_words_are_measured_like_meaning(evaluate, tmp_path):
    options = ("--json", "-k", "20", "--mode", "lexical", "--output-run", tmp_path / "run.txt")
    code, out, _ = evaluate(*options)
    report = json.loads(out)
    assert (code, report["mode"], report["order"]) == (0, "lexical", "bm25")
    assert max(score for hits in read_run(tmp_path / "run.txt").values() for score in hits.values()) > 1


def test_labels_that_are_no_levels_are_left_out_of_the_levels(files, evaluate):
    rows = [line.split() for line in (files / "qrels.txt").read_text().splitlines()]
    changed = [[*row[:3], {"3": "7", "0": "-2"}.get(row[3], row[3])] for row in rows]
    (files / "other.txt").write_text("".join(" ".join(row) + "\n" for row in changed))
    code, out, error = evaluate("-k", "200", "--json", qrels="other.txt")
    report = json.loads(out)
    known = sum(row[3] in "12" for row in rows)
    assert (code, report["judged_hits"], report["levels"]["pairs"]) == (0, len(rows), known)
    assert (
        f"{len(rows) - known} judged hits left out of the levels"
        in evaluate("-k", "200", qrels="other.txt")[2]
    )
    (files / "binary.txt").write_text("".join(" ".join([*row[:3], "9"]) + "\n" for row in rows))
    assert json.loads(evaluate("--json", qrels="binary.txt")[1])["levels"] is None
    code, out, error = evaluate(qrels="binary.txt")
    assert out.splitlines()[-1].split()[-4:] == ["-"] * 4
    assert "no levels" in error


def test_queries_and_judgements_that_do_not_meet(files, evaluate):
    (files / "some.jsonl").write_text("".join((files / "q.jsonl").read_text().splitlines(keepends=True)[:5]))
    code, _, error = evaluate("-k", "5", queries="some.jsonl")
    assert code == 0
    assert "15 judged queries are not in the run: each counts 0" in error
    (files / "q.txt").write_text("红烧肉怎么做\n")
    code, _, error = evaluate(queries="q.txt")
    assert (code, error.count("relsdk: error")) == (2, 1)
    assert "none of 1 queries is judged; queries and judgements need the same query ids ('1' and 'q" in error


@pytest.mark.parametrize(
    "line",
    [
        ("--index", "i", "qrels.txt"),
        ("--queries", "q.jsonl", "qrels.txt"),
        ("-k", "5", "MODEL", "PAIRS"),
        ("--index", "i", "--queries", "q.jsonl"),
        ("--index", "i", "--queries", "q.jsonl", "--run", "r", "qrels.txt"),
        ("--index", "i", "--queries", "q.jsonl", "--dim", "8", "qrels.txt"),
        ("--index", "i", "--queries", "q.jsonl", "--variant", "a", "--variant", "b", "qrels.txt"),
        ("--index", "i", "--queries", "q.jsonl", "--output-run", "absent/run", "qrels.txt"),
        ("--index", "i", "--queries", "q.jsonl", "-k", "0", "qrels.txt"),
    ],
)
def test_options_that_do_not_go_together(files, fails, monkeypatch, line):
    monkeypatch.chdir(files)
    fails("eval", *line)


def test_an_index_without_documents_finds_nothing(files, relsdk, tmp_path):
    index = shutil.copytree(files / "i", tmp_path / "i")
    with Index.open(index) as opened:
        opened.delete([one.id for one in opened.documents()])
    named = ("--index", index, "--queries", files / "q.jsonl", "--variant", "fp32", "--model", BUNDLE)
    code, out, _ = relsdk("eval", *named, files / "qrels.txt", "--json")
    report = json.loads(out)
    assert (code, report["hits"], report["judged_at_10"], report["levels"]) == (0, 0, None, None)
    assert report["ranking"]["ndcg_at_10"] == 0
