"""Single stages, given those of a whole run before them."""

import json
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest

from relsdk.errors import TrainingError
from relsdk.files.folders import file_sha256
from relsdk.formats import read_pairs, write_pairs
from relsdk.shards.runner import LocalRunner
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra._shards import read_lines, write_lines
from relsdk_training.ssra.job import DEV, LABELLED, WEAK, Job
from relsdk_training.ssra.pair_records import read_records
from relsdk_training.ssra.stages import embed
from tests.threads import Server


def test_a_score_model_that_is_there_gives_levels_like_the_one_it_is(whole, make_stage):
    _, _, run = whole
    trained = run / "stages/02-score"
    folder, report, _ = make_stage("score", f"filter.checkpoint={trained / 'best'}")
    assert not (folder / "log.jsonl").exists()  # nothing was trained
    outputs = json.loads((trained / "stage.json").read_text())["outputs"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix(): file_sha256(path) for path in files} == outputs
    assert report == {"levels": json.loads((trained / "stage.json").read_text())["report"]["levels"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["candidates", "annotate", "write-1", "filter-1"])
def test_two_workers_make_what_one_makes(make_stage, tmp_path, name):
    one, report, _ = make_stage(name, "run.threads=1")
    one = one.rename(tmp_path / "one")
    done = []
    two, again, _ = make_stage(
        name, "run.threads=1", on_progress=lambda stage, *of: done.append(of), runner=LocalRunner(2)
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert again == report
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 6  # three shards and their hashes
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_an_encoder_may_give_levels(make_stage):
    folder, report, _ = make_stage("score", "filter.scorer=encoder")
    assert (folder / "levels.json").is_file()
    assert (folder / "best/modules.json").is_file()  # an encoder's folder
    assert 0 <= report["levels"]["accuracy"] <= 1


def test_a_measure_that_dev_does_not_support_is_left_out(whole, files, tmp_path):
    """nDCG needs queries with three documents."""
    count = Counter()
    pairs = []
    for pair in read_pairs(files / "dev.jsonl"):
        pairs.append(replace(pair, query=f"{pair.query} {count[pair.query] // 2}"))
        count[pair.query] += 1
    write_pairs(tmp_path / "dev.jsonl", pairs)
    sources = {
        "balance/pairs.jsonl": [whole[2] / "stages/90-balance/pairs.jsonl"],
        DEV: [tmp_path / "dev.jsonl"],
        LABELLED: [],  # a run without opinions does not read them here
        WEAK: [],
    }
    (tmp_path / "91-embed").mkdir()
    config = load_config(SsraConfig, None, whole[0])
    report = embed.work(Job(config, tmp_path / "91-embed", 0, sources, lambda note: None, lambda *_: None))
    assert report["dev"]["mean_ap"] > 0
    assert "ndcg_at_10" not in report["dev"]


def test_a_query_model_learns_from_no_more_than_is_asked_for(whole, make_stage, tmp_path):
    _, _, run = whole
    labelled = list(read_pairs(run / "stages/01-pool/labelled.jsonl"))
    everything = list(read_pairs(run / "stages/06-query-1/pairs.jsonl"))

    def stop(*_):
        raise KeyboardInterrupt  # what it learns from is written before the first step

    with pytest.raises(KeyboardInterrupt):
        make_stage("query-1", "synthesis.most_pairs=7", on_progress=stop)
    some = list(read_pairs(tmp_path / "06-query-1/pairs.jsonl"))
    assert len(some) == len(labelled) + 7 < len(everything)
    assert some[: len(labelled)] == everything[: len(labelled)]
    assert [pair for pair in everything if pair in some] == some


@pytest.fixture
def endpoint():
    """A chat endpoint that answers with `endpoint.answer(number of the request)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked += 1
            status, text = server.answer(server.asked, body)
            content = json.dumps({"choices": [{"message": {"content": text}}] * body.get("n", 1)}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with Server(Handler) as server:
        server.asked = 0
        server.settings = [
            f"{section}.endpoint.{setting}"
            for section in ("synthesis", "filter")
            for setting in (f"url={server.url}/v1", "name=toy")
        ]
        yield server


def test_a_language_model_writes(make_stage, endpoint):
    endpoint.answer = lambda number, body: (200, f"搜索词{number}号怎么做")
    folder, report, _ = make_stage("write-1", *endpoint.settings)
    lines = [line for path in sorted(folder.glob("written-*.jsonl")) for line in read_lines(path)]
    assert report == {"queries": 15 * 4 * 2}
    assert Counter(line["wanted"] for line in lines) == dict.fromkeys(range(4), 15)
    assert all("搜索词" in query for line in lines for query in line["queries"])


def test_a_language_model_judges(make_stage, endpoint):
    endpoint.answer = lambda number, body: (200, "A")
    settings = [*endpoint.settings, "filter.judge=endpoint", "filter.by_score=false"]
    folder, _, _ = make_stage("filter-1", *settings)
    records = list(read_records(folder))
    assert {record["model"] for record in records} == {"toy"}
    assert "agrees" in {record["judge"]["verdict"] for record in records if record["judge"]}
    assert endpoint.asked > 0


def test_a_model_that_repeats_itself_is_told(whole, tmp_path, make_stage):
    run = tmp_path / "run"
    for name in ("01-pool", "02-score", "03-judge"):
        (run / "stages").mkdir(parents=True, exist_ok=True)
        (run / "stages" / name).symlink_to(whole[2] / "stages" / name)
    document = {"id": "1", "title": "红烧肉怎么做", "text": ""}
    (run / "stages/08-write-1").mkdir()
    same = ["总是同一个搜索词"] * 2
    lines = [{"document": document, "wanted": level, "queries": same} for level in range(4)]
    write_lines(run / "stages/08-write-1/written-00000.jsonl", lines)
    (run / "stages/06-query-1").symlink_to(whole[2] / "stages/06-query-1")
    _, report, notes = make_stage("filter-1", f"run.output={run}")
    assert report["duplicate_rate"] == 7 / 8
    assert any("repeats itself: 88% " in note for note in notes)


def test_an_endpoint_that_refuses_keeps_what_is_done(make_stage, endpoint, tmp_path):
    per_shard = 5 * 4  # documents and levels
    endpoint.answer = lambda number, body: (200 if number <= per_shard else 401, f"词{number}怎么做")
    with pytest.raises(TrainingError, match="401"):
        make_stage("write-1", *endpoint.settings)
    written = [path.name for path in (tmp_path / "08-write-1").iterdir() if path.is_file()]
    assert written == ["written-00000.jsonl"]
    endpoint.answer = lambda number, body: (200, f"词{number}怎么做")
    asked = endpoint.asked
    make_stage("write-1", *endpoint.settings)
    assert endpoint.asked - asked == 2 * per_shard


def test_an_endpoint_is_asked_nothing_twice(whole, make_stage, endpoint, tmp_path):
    """One document is refused by a content filter, and the run is stopped within its only shard."""
    run, documents, levels = tmp_path / "run", 15, 4
    (run / "stages/01-pool").mkdir(parents=True)
    pool = whole[2] / "stages/01-pool"
    lines = [line for path in sorted(pool.glob("documents-*.jsonl")) for line in read_lines(path)]
    write_lines(run / "stages/01-pool/documents-00000.jsonl", lines)
    (run / "stages/01-pool/labelled.jsonl").symlink_to(pool / "labelled.jsonl")
    refused = []  # the first document

    def answer(number, body):
        question = body["messages"][-1]["content"]
        refused.append(question.partition("\n")[0])
        if refused[-1] == refused[0]:
            return 400, "content_filter"
        return (401, "") if number == 11 * levels else (200, f"词{number}怎么做")

    endpoint.answer = answer
    changes = [*endpoint.settings, f"run.output={run}"]
    with pytest.raises(TrainingError, match="401"):
        make_stage("write-1", *changes)
    asked = endpoint.asked
    folder, _, _ = make_stage("write-1", *changes)
    assert endpoint.asked - asked == (documents - 10) * levels  # ten were written down
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["written-00000.jsonl"]
    assert len(list(read_lines(folder / "written-00000.jsonl"))) == documents * levels
