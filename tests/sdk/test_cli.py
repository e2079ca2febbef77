"""The command line as a user meets it: what it prints, and one line with exit code 2 for each mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relsdk.bundle import read_bundle
from relsdk.cli import main
from relsdk.cli.output import bar, clip, echo_json
from relsdk_sample import generate, write
from tests.bundle_changes import make_foreign

SCORER = Path(__file__).resolve().parents[1] / "fixtures" / "scorer-bundle-v1"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(
        generate(seed=3, n_documents=200, n_queries=60, pairs_per_query=8),
        tmp_path_factory.mktemp("world") / "w",
    )


@pytest.fixture(scope="module")
def calibrated(toy_bundle, world, tmp_path_factory):
    """A toy bundle with levels."""
    from relsdk.formats import read_pairs
    from relsdk.tools.evaluation import calibrate_bundle

    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(toy_bundle, folder)
    calibrate_bundle(folder, list(read_pairs(world / "pairs_train.jsonl")))
    return folder


@pytest.fixture(scope="module")
def index(calibrated, world, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "i"
    main(["index", "build", str(path), "-m", str(calibrated), "-i", str(world / "documents.jsonl")])
    return path


def documents(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_query_for_people(relsdk, index, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a narrow terminal has no room for the bars
    code, out, _ = relsdk("query", index, "红烧肉怎么做", "-k", "3")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("红烧肉怎么做")
    assert len(lines) == 5
    assert any(word in out for word in ("IRRELEVANT", "PARTIAL", "MOSTLY", "FULL"))
    assert any(shade in lines[2] for shade in "█▓▒░")


def test_query_for_programs(relsdk, index):
    code, out, err = relsdk("query", index, "红烧肉怎么做", "-k", "3", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert len(answer["hits"]) == 3
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in answer["hits"]:
        assert sum(hit["probabilities"]) == pytest.approx(1.0, abs=1e-5)
        assert hit["level"] == int(np.argmax(hit["probabilities"]))


def test_a_query_within_a_budget_says_what_was_skipped(relsdk, fails, index):
    common = ("query", index, "红烧肉怎么做", "-k", "3", "--json", "--scorer", SCORER)
    answer = json.loads(relsdk(*common)[1])
    assert (answer["scored"], answer["skipped"]) == (15, 0)
    answer = json.loads(relsdk(*common, "--budget-ms", "0.001")[1])
    assert (answer["scored"], answer["skipped"]) == (0, 15)
    assert len(answer["hits"]) == 3
    assert "budget_ms=0" in fails(*common, "--budget-ms", "0")


def test_several_queries_and_filters(relsdk, index, tmp_path):
    (tmp_path / "q.txt").write_text("红烧肉\n大理旅游\n")
    code, out, _ = relsdk(
        "query", index, "-i", tmp_path / "q.txt", "--json", "-k", "2", "--where", "duration<60"
    )
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["query"] for answer in answers] == ["红烧肉", "大理旅游"]
    hits = [hit for answer in answers for hit in answer["hits"]]
    assert hits
    assert all(hit["metadata"]["duration"] < 60 for hit in hits)


def test_min_level_and_min_score_leave_out(relsdk, index):
    _, out, _ = relsdk("query", index, "红烧肉怎么做", "-k", "50", "--json")
    everything = json.loads(out)["hits"]
    levels = sorted({hit["level"] for hit in everything})
    _, out, _ = relsdk("query", index, "红烧肉怎么做", "-k", "50", "--json", "--min-level", levels[-1])
    kept = json.loads(out)["hits"]
    assert [hit["id"] for hit in kept] == [hit["id"] for hit in everything if hit["level"] >= levels[-1]]
    middle = everything[10]["score"]
    _, out, _ = relsdk("query", index, "红烧肉怎么做", "-k", "50", "--json", "--min-score", middle)
    assert all(hit["score"] >= middle - 1e-6 for hit in json.loads(out)["hits"])


def test_what_is_not_sure_enough_is_left_out_and_nothing_relevant_is_said(relsdk, index):
    _, out, _ = relsdk("query", index, "红烧肉怎么做", "-k", "50", "--json")
    answer = json.loads(out)
    shares = [sum(hit["probabilities"][2:]) for hit in answer["hits"]]
    assert answer["nothing_relevant"] == pytest.approx(1 - max(shares), abs=1e-5)
    for confidence in (min(shares) - 1e-5, max(shares) + 1e-5):
        _, out, _ = relsdk(
            "query", index, "红烧肉怎么做", "-k", "50", "--json", "--min-confidence", confidence
        )
        assert len(json.loads(out)["hits"]) == sum(share >= confidence for share in shares)
    _, out, _ = relsdk("query", index, "红烧肉怎么做")
    said = f", nothing relevant (p = {answer['nothing_relevant']:.2f})" in out
    assert said == (answer["nothing_relevant"] >= 0.5)
    code, out, _ = relsdk("query", index, "红烧肉怎么做", "--where", "duration<0")
    assert (code, "0 hits" in out, "nothing relevant (p = 1.00)" in out) == (0, True, True)


def test_index_info_and_verify(relsdk, index, calibrated):
    code, out, _ = relsdk("index", "info", index, "--json")
    info = json.loads(out)
    assert code == 0
    assert (info["count"], info["dimension"], info["kind"]) == (200, 32, "hnsw")
    assert info["encoder_path"] == str(calibrated.resolve())
    code, out, _ = relsdk("index", "verify", index)
    assert code == 0
    assert "FAILED" not in out


def test_verify_names_what_is_damaged(relsdk, index, tmp_path):
    copy = shutil.copytree(index, tmp_path / "copy")
    vectors = next(copy.glob("segments/*/vectors*"))
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    code, out, err = relsdk("index", "verify", copy)
    assert code == 2
    assert "FAILED" in out
    assert "failed" in err


def test_encode_writes_vectors(relsdk, fails, calibrated, tmp_path):
    (tmp_path / "q.txt").write_text("红烧肉\n大理旅游\n")
    code, out, _ = relsdk(
        "encode", calibrated, tmp_path / "q.txt", tmp_path / "v.npy", "--json", "--dim", "8"
    )
    assert code == 0
    assert json.loads(out)["shape"] == [2, 8]
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert "--overwrite" in fails("encode", calibrated, tmp_path / "q.txt", tmp_path / "v.npy")


def test_score_grades_pairs(relsdk, fails, calibrated, world):
    code, out, _ = relsdk("score", calibrated, "红烧肉怎么做", "红烧肉的家常做法", "--json")
    assert code == 0
    assert sum(json.loads(out)["probabilities"]) == pytest.approx(1.0, abs=1e-5)
    code, out, _ = relsdk("score", calibrated, "--input", world / "pairs_test.jsonl", "--json")
    assert len(out.splitlines()) == len((world / "pairs_test.jsonl").read_text().splitlines())
    assert "either" in fails("score", calibrated, "红烧肉")


def test_eval_and_calibrate(relsdk, fails, toy_bundle_copy, world, tmp_path):
    pairs = world / "pairs_train.jsonl"
    code, out, err = relsdk("eval", toy_bundle_copy, pairs, "--variant", "fp32")
    assert code == 0
    assert "no levels" in err
    options = ["--variant", "fp32", "--target-precision", "0.15", "--level", "1"]
    code, out, _ = relsdk("calibrate", toy_bundle_copy, pairs, *options, "--json")
    assert code == 0
    content = json.loads(out)
    (report,) = content["calibrations"]
    assert report["method"] in report["held_out_log_loss"]
    assert report["grading"]["pairs"] == len(pairs.read_text().splitlines())
    (promise,) = report["promises"]
    assert (promise["level"], promise["precision"], report["refusals"]) == (1, 0.15, [])
    options[3:] = ["0.99", "--level", "3"]
    code, out, err = relsdk("calibrate", toy_bundle_copy, pairs, *options)
    assert f'next: relsdk query INDEX "..." --min-level 2, or relsdk eval {toy_bundle_copy} PAIRS' in out
    assert code == 0  # the levels are stored; there is no such threshold
    assert "log loss" in out
    assert "cannot show a precision of 0.99 for level >= 3" in err
    for bad in (["--level", "9"], ["--target-precision", "0"]):
        code, _, err = relsdk("calibrate", toy_bundle_copy, pairs, *options, *bad)
        assert code == 2
        assert "is not in the range" in err
    code, out, _ = relsdk(
        "eval", toy_bundle_copy, pairs, "--variant", "fp32", "--json", "-o", tmp_path / "e.json"
    )
    (evaluated,) = json.loads(out)
    assert evaluated["grading"]["qwk"] is not None
    assert json.loads((tmp_path / "e.json").read_text()) == [evaluated]
    assert "go together" in fails("calibrate", toy_bundle_copy, pairs, "--level", "2")


def test_model_info_doctor_and_help(relsdk, calibrated):
    code, out, _ = relsdk("model", "info", calibrated)
    assert code == 0
    assert "int8_avx2" in out
    assert json.loads(relsdk("model", "info", calibrated, "--json")[1])["kind"] == "encoder"
    code, out, _ = relsdk("doctor", "--model", calibrated, "--json")
    report = json.loads(out)
    assert report["levels"] == "calibrated"
    assert "threads" in report
    code, out, _ = relsdk("--help")
    assert code == 0
    assert "query" in out
    assert "Traceback" not in relsdk("nonsense")[2]


GOOD = {"_id": "1", "title": "红烧肉"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "d.jsonl"),
        ([{"_id": str(n), "title": "a"} for n in range(16)] + ["{not json\n"], "d.jsonl:17"),
        ([GOOD, {"title": "b"}], "d.jsonl:2"),
        ([GOOD, {"_id": "1", "title": "b"}], "--on-duplicate last"),
        ([GOOD, {"_id": "2", "title": "", "text": " "}], "d.jsonl:2"),
    ],
)
def test_bad_documents(fails, calibrated, tmp_path, lines, message):
    path = documents(tmp_path / "d.jsonl", *lines)
    assert message in fails("index", "build", tmp_path / "i", "-m", calibrated, "-i", path)


def test_invalid_utf8_and_missing_input(fails, calibrated, tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'{"_id": "1", "title": "\xff\xfe"}\n')
    assert "d.jsonl:1" in fails(
        "index", "build", tmp_path / "i", "-m", calibrated, "-i", tmp_path / "d.jsonl"
    )
    assert "none.jsonl" in fails(
        "index", "build", tmp_path / "i", "-m", calibrated, "-i", tmp_path / "none.jsonl"
    )
    assert not (tmp_path / "i").exists()
    assert "does not exist" in fails("query", tmp_path / "i", "红烧肉")


def test_the_last_duplicate_can_win(relsdk, calibrated, tmp_path):
    path = documents(tmp_path / "d.jsonl", GOOD, {"_id": "1", "title": "糖醋排骨"})
    code, _, _ = relsdk(
        "index", "build", tmp_path / "i", "-m", calibrated, "-i", path, "--on-duplicate", "last", "--json"
    )
    assert code == 0
    _, out, _ = relsdk("query", tmp_path / "i", "糖醋排骨", "--json")
    assert [hit["title"] for hit in json.loads(out)["hits"]] == ["糖醋排骨"]


@pytest.mark.filterwarnings("ignore:.* inputs exceed")
def test_texts_that_are_cut_are_told(relsdk, calibrated, tmp_path):
    limit = read_bundle(calibrated).settings.max_tokens
    path = documents(tmp_path / "d.jsonl", GOOD, {"_id": "2", "title": "", "text": "红烧肉怎么做" * limit})
    code, _, err = relsdk("index", "build", tmp_path / "i", "-m", calibrated, "-i", path)
    assert code == 0
    assert f"1 text longer than the {limit} tokens that the model reads; --chunk {min(400, limit)} " in err


def test_an_existing_index_is_not_replaced(fails, relsdk, index, calibrated, tmp_path):
    path = documents(tmp_path / "d.jsonl", GOOD)
    before = json.loads(relsdk("index", "info", index, "--json")[1])
    assert "--overwrite" in fails("index", "build", index, "-m", calibrated, "-i", path)
    assert json.loads(relsdk("index", "info", index, "--json")[1]) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep me")
    fails("index", "build", tmp_path / "mine", "-m", calibrated, "-i", path, "--overwrite")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["precious.txt"]


def test_bad_queries(fails, index, tmp_path):
    assert "k=0" in fails("query", index, "红烧肉", "-k", "0")
    assert "not empty" in fails("query", index, "  ")
    assert "100,000 characters" in fails("query", index, "长" * 100_000)
    assert "min_level=7" in fails("query", index, "红烧肉", "--min-level", "7")
    assert "--where" in fails("query", index, "红烧肉", "--where", "author")
    assert "either" in fails("query", index)
    assert str(tmp_path / "none") in fails("query", tmp_path / "none", "红烧肉")


@pytest.mark.parametrize(
    ("conditions", "rule"),
    [
        (["duration<50", "duration<40"], lambda m: m["duration"] < 40),
        (["duration<50 and not duration>=40"], lambda m: m["duration"] < 40),
        (["duration!=30", "duration<50"], lambda m: m["duration"] < 50 and m["duration"] != 30),
        (["duration==30 or duration in (40, 50)"], lambda m: m["duration"] in (30, 40, 50)),
        (["duration not in (30, 40, 50)"], lambda m: m["duration"] not in (30, 40, 50)),
        (["duration exists"], lambda m: True),
    ],
)
def test_every_condition_counts(relsdk, index, conditions, rule):
    common = ("query", index, "红烧肉", "-k", "200", "--json")
    everything = json.loads(relsdk(*common)[1])
    assert everything["matching"] == 200
    found = json.loads(relsdk(*common, *(part for text in conditions for part in ("--where", text)))[1])
    wanted = {hit["id"] for hit in everything["hits"] if rule(hit["metadata"])}
    assert {hit["id"] for hit in found["hits"]} == wanted
    assert found["matching"] == len(wanted)


def test_filters_that_find_nothing_say_why(relsdk, fails, index):
    code, out, _ = relsdk("query", index, "红烧肉", "--where", "duration<0")
    assert code == 0
    assert "(0 hits among the 0 documents that the filter leaves, " in out
    assert "did you mean 'duration'" in fails("query", index, "红烧肉", "--where", "durations<60")
    assert "never text; compare it with a number" in fails("query", index, "红烧肉", "--where", "duration=x")
    assert "at its end: a value" in fails("query", index, "红烧肉", "--where", "duration<>")
    many = [f"--where=duration!={number}" for number in range(1200)]
    assert "1,200 filters in 'and'; at most 100" in fails("query", index, "红烧肉", *many)


def test_both_bounds_of_a_range(relsdk, index):
    common = ("query", index, "红烧肉", "-k", "200", "--json", "--where")
    everything = json.loads(relsdk(*common, "duration>=0")[1])["hits"]
    some = json.loads(relsdk(*common, "duration>=20", "--where", "duration<40")[1])["hits"]
    wanted = {hit["id"] for hit in everything if 20 <= hit["metadata"]["duration"] < 40}
    assert {hit["id"] for hit in some} == wanted
    assert wanted


def test_where_results_cannot_go_is_said_before_the_work(
    fails, toy_bundle_copy, world, tmp_path, monkeypatch
):
    def worked(*_, **__):
        raise AssertionError("the work was done first")

    monkeypatch.setattr("relsdk.cli.encode.Embedder", worked)
    monkeypatch.setattr("relsdk.cli.evaluate.evaluate_pairs", worked)
    absent = tmp_path / "absent" / "x.npy"
    assert "is no folder" in fails("encode", toy_bundle_copy, world / "queries.jsonl", absent)
    assert "is no folder" in fails(
        "eval", toy_bundle_copy, world / "pairs_test.jsonl", "-o", absent.with_suffix(".json")
    )
    assert "is a folder" in fails("eval", toy_bundle_copy, world / "pairs_test.jsonl", "-o", tmp_path)


def test_a_terminal_that_lacks_characters(index):
    """A GBK terminal has no emoji: text shows a question mark, JSON an escape."""
    program = "from relsdk.cli import main; import sys; main(sys.argv[1:])"
    common = [sys.executable, "-c", program, "query", str(index), "红烧肉😀", "-k", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "gbk", "PYTHONUTF8": "0"}
    shown = subprocess.run([*common, "--json"], env=environment, capture_output=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout.decode("gbk"))["query"] == "红烧肉😀"
    shown = subprocess.run(common, env=environment, capture_output=True, timeout=120)
    assert shown.returncode == 0, shown.stderr


def test_json_has_no_nan(capsys):
    echo_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (True, None, "NaN")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": [True, None, "NaN"],
    }


def test_bad_labels(fails, relsdk, toy_bundle_copy, world, tmp_path):
    lines = (world / "pairs_train.jsonl").read_text().splitlines(keepends=True)
    bad = json.loads(lines[3]) | {"label": 7}
    (tmp_path / "p.jsonl").write_text("".join([*lines[:3], json.dumps(bad) + "\n", *lines[4:]]))
    before = (toy_bundle_copy / "relsdk.json").read_text()
    for command in ("calibrate", "eval"):
        line = fails(command, toy_bundle_copy, tmp_path / "p.jsonl")
        assert "p.jsonl:4" in line
        assert "7" in line
    (tmp_path / "few.jsonl").write_text("".join(lines[:10]))
    assert "too few" in fails("calibrate", toy_bundle_copy, tmp_path / "few.jsonl")
    assert (toy_bundle_copy / "relsdk.json").read_text() == before


def test_another_encoder_is_refused(fails, relsdk, index, toy_bundle_copy):
    other = read_bundle(make_foreign(toy_bundle_copy))  # what relsdk did not write has another fingerprint
    line = fails("query", index, "红烧肉", "--model", other.path)
    assert other.fingerprint in line
    assert json.loads(relsdk("index", "info", index, "--json")[1])["encoder_fingerprint"] in line


def test_damaged_bundles(fails, index, toy_bundle_copy, world):
    path = toy_bundle_copy / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    documents_path = world / "documents.jsonl"
    build = ["index", "build", toy_bundle_copy.parent / "i", "-m", toy_bundle_copy, "-i", documents_path]
    assert "model.onnx" in fails(*build, "--variant", "fp32")
    make_foreign(toy_bundle_copy)
    assert "not a loadable ONNX model" in fails(*build, "--variant", "fp32")
    assert "Traceback" not in fails(
        "index", "build", index, "-m", toy_bundle_copy / "none", "-i", documents_path
    )


def test_a_disk_that_cannot_be_written(fails, calibrated, world):
    """/proc refuses new files to everybody, root included."""
    documents_path = world / "documents.jsonl"
    assert "/proc" in fails("index", "build", "/proc/relsdk", "-m", calibrated, "-i", documents_path)


def test_a_missing_extra_names_the_pip_line(tmp_path):
    """torch is hidden from a process of its own; the folder passes what is checked before torch is needed."""
    checkpoint = tmp_path / "a"
    checkpoint.mkdir()
    (checkpoint / "tokenizer.json").write_text("{}")
    program = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Hide())
from relsdk.cli import main
main(["export", "encoder", {str(checkpoint)!r}, {str(tmp_path / "b")!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "pip install 'relsdk[export]'" in done.stderr


def test_bar_by_hand():
    assert bar([0.0, 0.0, 0.0, 1.0]) == "█" * 16
    assert bar([1.0, 0.0, 0.0, 0.0]) == "░" * 16
    assert bar([0.25, 0.25, 0.25, 0.25]) == "████▓▓▓▓▒▒▒▒░░░░"
    assert all(len(bar(np.random.default_rng(n).dirichlet([1] * 4))) == 16 for n in range(50))


def test_clip_counts_wide_characters(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert clip("短", 0) == "短"
    assert clip("大" * 40, 10) == "大" * 14 + "…"
    assert clip("a\n b", 0) == "a b"


def test_doctor_says_which_file_would_load_and_why(relsdk, calibrated):
    code, out, _ = relsdk("doctor", "-m", calibrated, "--no-self-test", "--json", "--threads", "1")
    report = json.loads(out)
    assert code == 0
    assert report["threads"] == "1 (asked for)"
    assert report["self_test"] == []
    would_load = [text for text in report["file"].values() if text.startswith("would load")]
    assert len(would_load) == 1
    assert set(report["file"]) == set(report["variants"].split(", "))
    code, out, _ = relsdk("doctor", "-m", calibrated, "--no-self-test")
    assert code == 0
    assert "cpus by cgroup quota" in out
    assert f"file {report['variants'].split(', ')[0]}" in out


def test_doctor_tests_a_model_and_fails_when_it_gives_other_vectors(relsdk, fails, toy_bundle_copy):
    code, out, _ = relsdk("doctor", "-m", toy_bundle_copy, "--json", "--threads", "1")
    assert code == 0
    checks = {check["name"]: check for check in json.loads(out)["self_test"]}
    assert list(checks) == [
        "matrix product",
        "graph search",
        "document store",
        "model speed",
        "golden outputs",
    ]
    assert all(check["ok"] for check in checks.values())
    golden = toy_bundle_copy / "golden.json"
    content = json.loads(golden.read_text())
    content["vectors"] = {name: [row[::-1] for row in rows] for name, rows in content["vectors"].items()}
    golden.write_text(json.dumps(content))
    assert "golden outputs" in fails("doctor", "-m", toy_bundle_copy, "--threads", "1")
    golden.unlink()
    code, out, _ = relsdk("doctor", "-m", toy_bundle_copy, "--threads", "1", "--json")
    last = json.loads(out)["self_test"][-1]
    assert (code, last["ok"]) == (0, None)
    assert "export" in last["detail"]
