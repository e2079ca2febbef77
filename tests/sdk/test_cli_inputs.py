"""Files of other people on the command line: types, encodings, blank lines, ids, runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from relsdk import Embedder
from relsdk.cli import main
from relsdk.formats import read_run, run_lines
from relsdk.metrics import run_report

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BUNDLE, SCORER = FIXTURES / "encoder-bundle-v1", FIXTURES / "scorer-bundle-v1"
ROWS = """id;title;时长;new;sku;sparse
a;红烧肉怎么做;95;true;007;
b;大理旅游攻略;40;false;012;3
c;猫粮;180;True;1;
"""


@pytest.fixture
def fails(relsdk):
    """Run a command that must end with one line on stderr and exit code 2; return the line."""

    def run(*arguments):
        code, out, err = relsdk(*arguments)
        assert code == 2, (out, err)
        lines = [line for line in err.splitlines() if line.startswith("relsdk: error: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "d.csv"
    path.write_bytes(ROWS.encode("gb18030"))
    return path


@pytest.fixture(scope="module")
def index(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "x"
    main(["index", "build", str(path), "-m", str(BUNDLE), "-i", str(table), *READ])
    return path


READ = ("--encoding", "gb18030", "--delimiter", ";")


def found(relsdk, index, *conditions):
    options = [part for text in conditions for part in ("--where", text)]
    code, out, err = relsdk("query", index, "红烧肉", "--json", *options)
    assert code == 0, err
    return {hit["id"] for hit in json.loads(out)["hits"]}


def test_a_table_of_a_chinese_shop_is_read_and_typed(relsdk, fails, table, index, tmp_path):
    code, _, err = relsdk("index", "build", tmp_path / "x", "-m", BUNDLE, "-i", table, *READ)
    assert code == 0
    assert "columns typed as numbers: 时长, sparse; override with --types 时长=text" in err
    assert "columns typed as booleans: new; override with --types new=text" in err
    assert found(relsdk, index, "时长<60") == {"b"}
    assert found(relsdk, index, "new=true and not 时长>100") == {"a"}
    assert found(relsdk, index, "sku='007' or sparse exists") == {"a", "b"}
    assert "save the file as UTF-8, or give its encoding, as in --encoding gb18030" in fails(
        "index", "build", tmp_path / "y", "-m", BUNDLE, "-i", table
    )
    assert "--delimiter ';'" in fails(
        "index", "build", tmp_path / "y", "-m", BUNDLE, "-i", table, "--encoding", "gb18030"
    )


def test_types_override_what_is_found(relsdk, fails, table, tmp_path):
    build = ("index", "build", tmp_path / "x", "-m", BUNDLE, "-i", table, *READ)
    code, _, err = relsdk(*build, "--types", "时长=text,sku=number", "--types", "new=text")
    assert code == 0
    assert "typed as numbers: sparse;" in err
    assert "booleans" not in err
    assert found(relsdk, tmp_path / "x", "sku=7") == {"a"}
    line = fails("query", tmp_path / "x", "红烧肉", "--where", "时长<60")
    assert "'时长' holds text only, never numbers" in line
    assert "if the file was CSV: --types 时长=number" in line
    refused = {
        "sku": "write COLUMN=TYPE",
        "sku=int": "'int' of column 'sku'; allowed are text, number",
        "sku=text,sku=number": "a column has one type",
        "x=number": "'x', which is no column",
        "title=number": "'title' is always text",
    }
    for wrong, said in refused.items():
        assert said in fails(*build, "--overwrite", "--types", wrong)


def test_row_n_of_the_vectors_is_line_n(relsdk, fails, tmp_path):
    texts, output = ["红烧肉", "猫", "大理"], tmp_path / "q.npy"
    path = tmp_path / "q.txt"
    embedder = Embedder(BUNDLE)
    path.write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    assert relsdk("encode", BUNDLE, path, output)[0] == 0
    np.testing.assert_allclose(np.load(output), embedder.encode_query(texts), atol=1e-6)
    path.write_text("红烧肉\n\n猫\n大理\n", encoding="utf-8")
    assert "q.txt:2: a blank line, and row n is line n; remove it, or give --skip-empty" in fails(
        "encode", BUNDLE, path, output, "--overwrite"
    )
    assert relsdk("encode", BUNDLE, path, output, "--overwrite", "--skip-empty")[0] == 0
    np.testing.assert_allclose(np.load(output), embedder.encode_query(texts), atol=1e-6)
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 1, "title": "a"}\n\n{"id": 2, "title": "b"}\n{"id": 3, "title": ""}\n')
    assert "d.jsonl:2: a blank line" in fails(
        "encode", BUNDLE, path, output, "--as", "document", "--overwrite"
    )
    assert relsdk("encode", BUNDLE, path, output, "--as", "document", "--overwrite", "--skip-empty")[0] == 0
    np.testing.assert_allclose(np.load(output), embedder.encode_document(["a", "b"]), atol=1e-6)


def test_queries_keep_their_ids(relsdk, fails, index, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "q7", "text": "红烧肉"}\n{"id": 9, "text": "猫"}\n', encoding="utf-8")
    answers = [json.loads(line) for line in relsdk("query", index, "-i", path, "--json")[1].splitlines()]
    assert [(answer["id"], answer["query"]) for answer in answers] == [("q7", "红烧肉"), ("9", "猫")]
    out = relsdk("query", index, "-i", path)[1]
    assert "q7  红烧肉  (3 hits, " in out
    assert json.loads(relsdk("query", index, "红烧肉", "--json")[1])["id"] is None
    code, out, _ = relsdk("query", index, "-i", path, "--format", "trec", "-k", "2")
    assert code == 0
    run = tmp_path / "run"
    run.write_text(out)
    ids = {answer["id"]: {hit["id"]: hit["score"] for hit in answer["hits"][:2]} for answer in answers}
    assert read_run(run).keys() == ids.keys()
    for query, scores in read_run(run).items():
        assert scores == pytest.approx(ids[query], abs=1e-6)
    assert [line.split()[3] for line in out.splitlines()] == ["1", "2", "1", "2"]
    path.write_text('{"id": "q 7", "text": "红烧肉"}\n', encoding="utf-8")
    assert "query id 'q 7' cannot be a TREC column" in fails("query", index, "-i", path, "--format", "trec")
    path.write_text('{"id": "q\\u001b7", "text": "红烧肉"}\n', encoding="utf-8")
    assert "control character" in fails("query", index, "-i", path, "--format", "trec")
    assert "choose one" in fails("query", index, "a", "--format", "trec", "--json")
    assert "two kinds of scores" in fails(
        "query", index, "a", "--format", "trec", "--scorer", SCORER, "--budget-ms", "5"
    )


@pytest.fixture
def single(relsdk, tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"_id": "a", "title": "红烧肉"}\n', encoding="utf-8")
    assert relsdk("index", "build", tmp_path / "one", "-m", BUNDLE, "-i", path)[0] == 0
    return tmp_path / "one"


def test_options_of_a_scorer_need_one(single, fails):
    assert "is an encoder, not a scorer" in fails("query", single, "肉", "--scorer", BUNDLE)
    assert "no --scorer is given" in fails("query", single, "肉", "--budget-ms", "5")


def test_why_there_are_no_levels_is_said(single, relsdk, fails):
    code, out, err = relsdk("query", single, "肉", "--variant", "int8_any")
    assert (code, err.count("no levels")) == (0, 1)
    assert "(1 hit, " in out
    assert "encoder (int8_any, " in err
    assert "with it are fp32, " in err
    assert "relsdk calibrate" in err
    assert "no levels" not in relsdk("query", single, "肉", "--variant", "fp32")[2]
    assert "encoder (int8_any, " in fails("query", single, "肉", "--variant", "int8_any", "--min-level", "2")


@pytest.mark.parametrize(
    "line", ['{"_id": "a", "title": "x', '{"_id": "a" "b"}', '{"_id": "a\tb"}', '{"_id": "a\\x"}']
)
def test_broken_json_is_placed_once(fails, tmp_path, line):
    path = tmp_path / "d.jsonl"
    path.write_text(line + "\n")
    said = fails("index", "build", tmp_path / "i", "-m", BUNDLE, "-i", path)
    assert " at character " in said
    assert "at at" not in said


def test_pairs_in_other_encodings(relsdk, tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("query|title\n红烧肉|红烧肉怎么做\n猫|\n".encode("gbk"))
    read = ("--encoding", "gbk", "--delimiter", "|", "--skip-empty")
    code, out, _ = relsdk("score", SCORER, "-i", path, "--json", *read)
    assert code == 0
    assert [json.loads(line)["query"] for line in out.splitlines()] == ["红烧肉"]


def some_run(seed, queries=30):
    """Judgements and a run without ties, and with queries that only one of them has."""
    random = np.random.default_rng(seed)
    qrels = {f"q{q}": {f"d{d}": int(random.integers(0, 4)) for d in range(40)} for q in range(queries)}
    qrels["none"] = {"d1": 0}
    run = {}
    for query in itertools.islice(qrels, 3, None):
        documents = random.permutation(250)[:150]
        scores = random.permutation(len(documents)) / 7
        run[query] = {f"d{d}": float(score) for d, score in zip(documents, scores, strict=True)}
    run["other"] = {"d1": 1.0}
    return qrels, run


def write_qrels(path, qrels):
    lines = [f"{query} 0 {name} {label}" for query, row in qrels.items() for name, label in row.items()]
    path.write_text("\n".join(lines))


def write_run(path, run):
    path.write_text("\n".join(run_lines(run)))


def test_a_run_is_measured_as_trec_eval_does(relsdk, fails, tmp_path):
    qrels, run = some_run(3)
    write_qrels(tmp_path / "qrels", qrels)
    write_run(tmp_path / "run", run)
    code, out, _ = relsdk("eval", "--run", tmp_path / "run", tmp_path / "qrels", "--json")
    assert code == 0
    report = json.loads(out)
    counts = {name: value for name, value in report.items() if name.startswith("queries")}
    assert counts == {
        "queries": 30, "queries_not_in_run": 3, "queries_without_relevant": 1, "queries_not_judged": 1,
    }  # fmt: skip
    names = {
        "ndcg_at_10_linear": ir_measures.nDCG @ 10,
        "average_precision": ir_measures.AP,
        "recall_at_100": ir_measures.R @ 100,
        "precision_at_10": ir_measures.P @ 10,
        "mrr": ir_measures.RR,
    }
    judged = {query: rows for query, rows in qrels.items() if query != "none"}
    wanted = ir_measures.calc_aggregate(names.values(), judged, run)
    for name, measure in names.items():
        assert report[name] == pytest.approx(wanted[measure], abs=1e-6), name
    gains = {
        query: {document: 2**label - 1 for document, label in rows.items()} for query, rows in judged.items()
    }
    exponential = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], gains, run)
    assert report["ndcg_at_10"] == pytest.approx(exponential[ir_measures.nDCG @ 10], abs=1e-6)
    code, out, err = relsdk(
        "eval", "--run", tmp_path / "run", tmp_path / "qrels", "-o", tmp_path / "report.json"
    )
    assert code == 0
    assert f"{100 * report['mrr']:.2f}" in out
    assert "3 judged queries are not in the run: each counts 0" in err
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_runs_that_cannot_be_measured(fails, tmp_path):
    write_qrels(tmp_path / "qrels", {"q": {"d": 1}})
    write_qrels(tmp_path / "zeros", {"q": {"d": 0}})
    write_run(tmp_path / "run", {"Q": {"d": 1.0}})
    assert "need the same query ids ('Q' and 'q')" in fails(
        "eval", "--run", tmp_path / "run", tmp_path / "qrels"
    )
    assert "label above 0" in fails("eval", "--run", tmp_path / "run", tmp_path / "zeros")
    assert "write relsdk eval --run RUN QRELS" in fails("eval", "--run", tmp_path / "run")
    assert "write relsdk eval MODEL PAIRS" in fails("eval", BUNDLE)
    assert "leave out --variant" in fails("eval", "--run", "a", "b", "--variant", "fp32")


def test_a_perfect_run_is_perfect():
    qrels = {"q": {"a": 3, "b": 1, "c": 0}, "r": {"a": 2}}
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0}}
    report = run_report(qrels, run)
    assert (report.ndcg_at_10, report.average_precision, report.recall_at_100, report.mrr) == (1, 1, 1, 1)
    assert report.precision_at_10 == pytest.approx(0.15)


def test_the_ending_of_an_output_is_that_of_its_format(fails, tmp_path):
    other = tmp_path / "out.csv"
    for command, allowed in (
        (("label", "suggest", "i", "q.txt", "-o", other), ".jsonl"),
        (("mine", "i", "pairs.jsonl", other), ".jsonl"),
        (("index", "export", "i", other), ".jsonl"),
        (("index", "export", "i", tmp_path / "o.jsonl", "--vectors", other), ".npy"),
        (("eval", "m", "pairs.jsonl", "-o", other), ".json"),
    ):
        error = fails(*command)
        assert f"out.csv: .csv is not the format that is written; end the name with {allowed}" in error
    for command in (
        ("encode", "m", "in.txt", other, "--as", "query"),
        ("score", "m", "-i", "p", "-o", other),
    ):
        assert "out.csv is named like a file, and a folder of parts is written" in fails(*command)
    assert not other.exists()
