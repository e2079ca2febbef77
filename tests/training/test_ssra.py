"""The whole method at toy size: it ends, survives a kill in the middle of any stage, refuses bad input."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relsdk.errors import InputError, LockedError, TrainingError
from relsdk.formats import read_pairs, write_pairs
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.recipe import train_ssra
from relsdk_training.ssra.records import read_records

MODELS = ("score", "query", "embed")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    world = generate(seed=11, n_documents=400, n_queries=120)
    folder = tmp_path_factory.mktemp("ssra")
    for split, name in (("train", "train"), ("test", "dev")):
        write_pairs(folder / f"{name}.jsonl", world.split(split))
    return folder


def settings_of(files, checkpoint, run):
    """A run of seconds: three shards, four steps a model, a checkpoint after each, two rounds."""
    common = [f"{m}.run.{x}" for m in MODELS for x in ("max_steps=4", "batch_size=16", "checkpoint_every=1")]
    return [
        *common,
        *(f"{model}.model.checkpoint={checkpoint}" for model in MODELS),
        "query.model.decoder_layers=[0, 1]",
        "query.model.max_query_tokens=6",
        "query.model.guidance=1.5",
        "embed.run.evaluate_every=1",
        "embed.optimiser.learning_rate=0.001",
        "embed.run.batch_size=64",
        "embed.model.dropout=0.0",
        f"data.train={files / 'train.jsonl'}",
        f"data.dev={files / 'dev.jsonl'}",
        f"pool.unlabelled=['{files / 'train.jsonl'}']",
        "pool.limit=15",
        "data.limit=120",
        "filter.thresholds=[0, 0, 0, 0]",
        "synthesis.min_gain=-1",
        "balance.size=300",
        "run.shard=5",
        f"run.output={run}",
    ]


@pytest.fixture(scope="module")
def whole(files, toy_checkpoint, tmp_path_factory):
    """An uninterrupted run, and its settings."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    settings = settings_of(files, toy_checkpoint, run)
    notes = []
    return settings, train_ssra(load_config(SsraConfig, None, settings), on_note=notes.append), run, notes


def artefacts(run):
    """Hashes of what each stage made, and what it reported."""
    stages = {path.parent.name: json.loads(path.read_text()) for path in run.glob("stages/*/stage.json")}
    return {name: (stage["outputs"], stage["report"]) for name, stage in stages.items()}


def test_a_run_ends_with_an_encoder_and_balanced_pairs(whole, files):
    _, result, run, _ = whole
    assert {name.partition("-")[2] for name in artefacts(run)} == {
        *("pool", "score", "judge", "candidates", "annotate", "query-1", "try-1", "write-1", "filter-1"),
        *("query-2", "try-2", "write-2", "filter-2", "balance", "embed", "compare"),
    }
    assert (Path(result.encoder) / "model.safetensors").is_file()
    assert 0 < result.dev["mean_ap"] <= 1
    pairs = list(read_pairs(result.pairs))
    labelled = {(pair.query, pair.document.title) for pair in list(read_pairs(files / "train.jsonl"))[:120]}
    assert labelled <= {(pair.query, pair.document.title) for pair in pairs}
    sources = Counter(record["source"] for record in read_records(run / "stages/90-balance"))
    assert min(sources["labelled"], sources["annotated"], sources["synthesised"]) > 0
    assert artefacts(run)["91-embed"][1]["best_step"] > 0  # it learned, and is not what it started from
    held_out = {pair.query for pair in read_pairs(files / "dev.jsonl")}
    assert not held_out & {pair.query for pair in pairs}
    assert not list((run / "work").iterdir())


def test_every_written_query_has_its_provenance(whole):
    _, _, run, _ = whole
    records = list(read_records(run / "stages/09-filter-1"))
    assert len(records) == 15 * 4 * 2
    assert {record["wanted"] for record in records} == {0, 1, 2, 3}
    assert len({record["model"] for record in records}) == 1
    for record in records:
        assert record["round"] == 1
        assert record["source"] == "synthesised"
        if record["kept"]:
            assert record["predicted"] == record["wanted"]
            assert record["probabilities"][record["wanted"]] == max(record["probabilities"])


def times(run):
    return {path: path.stat().st_mtime_ns for path in (run / "stages").rglob("*") if path.is_file()}


def test_what_is_done_is_not_done_again(whole):
    settings, result, run, _ = whole
    before = times(run)
    row = (run / "row.json").read_bytes()
    notes = []
    again = train_ssra(load_config(SsraConfig, None, settings), on_note=notes.append)
    assert again == result
    assert notes == [f"{name}: done before" for name in sorted(artefacts(run))]
    assert times(run) == before
    assert (run / "row.json").read_bytes() == row  # written again, and the same


def test_a_changed_setting_repeats_its_stage_and_what_reads_it(whole, tmp_path):
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    changed = [*settings, f"run.output={copy}", "balance.size=200"]
    notes = []
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    repeated = {note.partition(":")[0] for note in notes if note.endswith("begins")}
    assert artefacts(copy)["90-balance"] != artefacts(run)["90-balance"]
    assert repeated == {"90-balance", "91-embed", "92-compare"}


def test_a_model_that_is_there_judges_like_the_one_it_is(whole, tmp_path):
    settings, _, run, _ = whole
    given = run / "stages/02-score/best"
    changed = [*settings, f"run.output={tmp_path / 'run'}", f"filter.checkpoint={given}"]
    changed += ["synthesis.rounds=1"]
    train_ssra(load_config(SsraConfig, None, changed))
    made, expected = artefacts(tmp_path / "run"), artefacts(run)
    assert not (tmp_path / "run/stages/02-score/log.jsonl").exists()  # nothing was trained
    alike = {stage for stage in expected if stage <= "09-filter-1"} - {"02-score"}
    assert {"05-annotate", "06-query-1", "09-filter-1"} < alike
    assert {stage: made[stage] for stage in alike} == {stage: expected[stage] for stage in alike}


def test_a_round_that_is_not_followed_trains_nothing_twice(whole, tmp_path):
    """The second round's query model agrees no better, so it writes nothing: all is as with one round."""
    settings, _, run, _ = whole
    shutil.copytree(run, tmp_path / "run")
    changed = [*settings, f"run.output={tmp_path / 'run'}", "synthesis.rounds=1"]
    train_ssra(load_config(SsraConfig, None, changed))
    made, notes = artefacts(tmp_path / "run"), []
    changed += ["synthesis.rounds=2", "synthesis.min_gain=1"]
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    assert any(note.startswith("round 2: agreement") for note in notes)
    assert not [note for note in notes if note.endswith("begins")]
    assert artefacts(tmp_path / "run") == made


def test_a_model_of_another_kind_does_not_judge(whole, tmp_path):
    settings, result, run, _ = whole
    scorer = run / "stages/02-score/best"
    for changes, message in (
        ([f"filter.checkpoint={result.encoder}"], "is an encoder; .*cross_encoder needs a score model"),
        ([f"filter.checkpoint={scorer}", "filter.scorer=encoder"], "score model .*encoder needs an encoder"),
        ([f"filter.checkpoint={scorer}", "score.model.head=ordinal"], "is categorical; .* is ordinal"),
    ):
        with pytest.raises(InputError, match=message):
            train_ssra(load_config(SsraConfig, None, [*settings, f"run.output={tmp_path / 'run'}", *changes]))
        assert not (tmp_path / "run" / "stages").exists()


KILLED = """
import json, os, signal, sys
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra import work
from relsdk_training.ssra.recipe import train_ssra

stages, settings = sys.argv[1].split(","), sys.argv[2:]

def kill(name, done, total):
    if name == stage and done == 2:  # of three shards or four steps
        die()

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

for stage in [*stages, "none"]:
    child = os.fork()  # nothing has been computed here yet: only the imports are shared
    if child == 0:
        if stage == "after 03-judge":  # was trained
            work.fit_levels = die
        train_ssra(load_config(SsraConfig, None, settings), on_progress=kill)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = os.path.join(settings[-1].partition("=")[2], "work", stage.rpartition(" ")[2])
    print(json.dumps([stage, status, sorted(os.listdir(folder)) if os.path.isdir(folder) else []]))
"""


def test_killed_in_the_middle_of_each_stage_it_resumes_to_the_same_artefacts(whole, tmp_path):
    settings, _, run, _ = whole
    killed = tmp_path / "run"
    whole_steps = ("pool", "try-1", "try-2", "balance", "compare")  # too short to have a middle
    stages = [name for name in sorted(artefacts(run)) if name.partition("-")[2] not in whole_steps]
    stages.insert(stages.index("03-judge") + 1, "after 03-judge")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, ",".join(stages), *settings, f"run.output={killed}"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [(stage, status) for stage, status, _ in told] == [*((stage, -9) for stage in stages), ("none", 0)]
    for _, _, left in told[:-1]:
        assert any(name.startswith(("state-", "records-", "candidates-", "written-")) for name in left)
    assert artefacts(killed) == artefacts(run)
    for log in (killed / "stages").rglob("log.jsonl"):  # no step was done twice
        steps = [line["step"] for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["run.output="], "run.output names no folder"),
        (["run.shard=0"], "run.shard=0"),
        (["filter.judge_share=0"], "judge_share"),
        (["score.teacher.checkpoints=['a']"], "score.teacher is for relsdk train score; filter.checkpoint"),
        (["filter.checkpoint=nowhere"], "filter.checkpoint 'nowhere' is no checkpoint; name RUN/best"),
        (["query.model.checkpoint=nowhere"], "query.model.checkpoint 'nowhere' is not a folder"),
        (["query.model.top_p=0"], "top_p=0"),
        (["query.model.decoder_layers=[5]"], r"decoder_layers \[5\]; rising numbers out of 0 to 1"),
        (["synthesis.endpoint_url=ftp://x"], "http or https URL"),
        (["data.dev="], "data.dev names no file"),
        (["data.limit=3"], "at least one of each"),
        (["pool.unlabelled=[]"], "no unlabelled document"),
        (["pool.unlabelled=['nowhere.jsonl']"], "nowhere.jsonl is not a file"),
        (["query.run.chunk=8"], "run.chunk=8 would do nothing"),
        (["filter.thresholds=[0.5]"], "four probabilities"),
        (["filter.thresholds=[50, 30, 30, 50]"], "four probabilities from 0 to 1"),
        (["filter.adjust=400"], "filter.adjust=400.0; 0 to 10"),
        (["synthesis.rounds=21"], "rounds=21; 0 to 20"),
        (["synthesis.levels=[7]"], "levels out of 0 to 3"),
        (["synthesis.levels=[]"], "levels out of 0 to 3, at least one"),
        (["synthesis.levels=[1, 1]"], "different levels"),
        (["synthesis.endpoint_url=http://localhost"], "no model is named"),
        (["filter.judge=endpoint", "filter.judge_url=http://localhost"], "no model is named"),
        (["query.model.kind=seq2seq", "query.model.guidance=1"], "no seq2seq language model"),
        (["score.data.train=x.jsonl"], "set by the run"),
        (["filter.judge=endpoint"], "http or https URL"),
        (["balance.shares=[0, 1, 1, 1]"], "above 0"),
    ],
)
def test_bad_input_is_told(whole, tmp_path, changes, message):
    """Before anything is trained."""
    settings = whole[0]
    changed = [*settings, f"run.output={tmp_path / 'run'}", *changes]
    with pytest.raises(InputError, match=message):
        train_ssra(load_config(SsraConfig, None, changed))
    assert not (tmp_path / "run" / "stages").exists()


def test_a_dev_split_that_levels_cannot_be_read_from_is_told(whole, files, tmp_path):
    write_pairs(tmp_path / "dev.jsonl", list(read_pairs(files / "dev.jsonl"))[:40])
    changed = [*whole[0], f"run.output={tmp_path / 'run'}", f"data.dev={tmp_path / 'dev.jsonl'}"]
    with pytest.raises(InputError, match=r"dev\.jsonl: 40 labelled pairs .* too few"):
        train_ssra(load_config(SsraConfig, None, changed))
    assert not (tmp_path / "run" / "stages").exists()


def test_a_measure_that_dev_does_not_support_is_left_out(whole, files, tmp_path):
    """nDCG needs queries with three documents."""
    seen = Counter()
    pairs = []
    for pair in read_pairs(files / "dev.jsonl"):
        pairs.append(replace(pair, query=f"{pair.query} {seen[pair.query] // 2}"))
        seen[pair.query] += 1
    write_pairs(tmp_path / "dev.jsonl", pairs)
    changed = [*whole[0], f"run.output={tmp_path / 'run'}", f"data.dev={tmp_path / 'dev.jsonl'}"]
    changed += ["synthesis.rounds=0", "synthesis.reannotate=false", "balance.annotated=false"]
    result = train_ssra(load_config(SsraConfig, None, changed))
    assert result.dev["mean_ap"] > 0
    assert "ndcg_at_10" not in result.dev


def test_a_training_goes_on_after_a_change_that_is_none(whole, tmp_path, monkeypatch):
    """The run is moved, its path written another way, the checkpoint moved, the sampling changed."""
    settings = whole[0]
    checkpoint = next(item.partition("=")[2] for item in settings if "query.model.checkpoint" in item)

    def stop(name, done, total):
        if name == "06-query-1" and done == 2:
            raise KeyboardInterrupt

    settings = [*settings, "synthesis.rounds=1"]
    first = load_config(SsraConfig, None, [*settings, f"run.output={tmp_path / 'first'}"])
    with pytest.raises(KeyboardInterrupt):
        train_ssra(first, on_progress=stop)
    shutil.move(tmp_path / "first", tmp_path / "second")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    changed = [*settings, "run.output=second", "query.model.temperature=0.9"]
    changed += [f"{model}.model.checkpoint={tmp_path / 'checkpoint'}" for model in MODELS]
    notes, steps = [], []
    train_ssra(
        load_config(SsraConfig, None, changed),
        on_note=notes.append,
        on_progress=lambda name, done, total: steps.append((name, done)),
    )
    assert "06-query-1: goes on" in notes
    assert [note for note in notes if note.endswith("done before")][-1] == "05-annotate: done before"
    assert [done for name, done in steps if name == "06-query-1"] == [2, 3, 4]  # not 1


def test_another_tokenizer_is_another_checkpoint(whole, tmp_path):
    settings, _, run, _ = whole
    checkpoint = next(item.partition("=")[2] for item in settings if "embed.model.checkpoint" in item)
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint/tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    changed = [*settings, f"run.output={tmp_path / 'run'}", "synthesis.rounds=1"]
    changed += [f"{model}.model.checkpoint={tmp_path / 'checkpoint'}" for model in MODELS]
    notes = []
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    begun = {note.partition(":")[0] for note in notes if note.endswith("begins")}
    assert {"02-score", "04-candidates", "06-query-1", "91-embed"} <= begun


def test_a_query_model_that_learned_other_text_is_another(whole, tmp_path):
    """A warm start reads the pool's queries, whether or not they were annotated."""
    settings, _, run, _ = whole
    (tmp_path / "queries.txt").write_text("全新的搜索词\n", encoding="utf-8")
    shutil.copytree(run, tmp_path / "run")
    changed = [*settings, f"run.output={tmp_path / 'run'}", "synthesis.reannotate=false"]
    changed += ["synthesis.rounds=1"]
    train_ssra(load_config(SsraConfig, None, [*changed, "balance.annotated=false"]))
    notes = []
    changed += ["balance.annotated=false", f"pool.queries=['{tmp_path / 'queries.txt'}']"]
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    assert {"01-pool: begins", "06-query-1: begins"} <= set(notes)
    assert "02-score: done before" in notes


def test_two_processes_in_one_folder(whole, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(LockedError, match="in use by another process"):
        train_ssra(load_config(SsraConfig, None, [*whole[0], f"run.output={tmp_path / 'run'}"]))


def test_how_a_judge_reads_counts(whole, tmp_path):
    """A model that is given is the same whatever it reads of a pair; its judgements are not."""
    settings, _, run, _ = whole
    shutil.copytree(run, tmp_path / "run")
    given = run / "stages/02-score/best"
    changed = [*settings, f"run.output={tmp_path / 'run'}", f"filter.checkpoint={given}"]
    train_ssra(load_config(SsraConfig, None, changed))
    notes = []
    changed += ["score.model.max_tokens=6"]
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    assert {"02-score: begins", "05-annotate: begins"} <= set(notes)
    assert "04-candidates: done before" in notes


def test_a_query_model_learns_from_no_more_than_is_asked_for(whole, tmp_path):
    settings, _, run, _ = whole
    shutil.copytree(run, tmp_path / "run")
    labelled = list(read_pairs(run / "stages/01-pool/labelled.jsonl"))
    everything = list(read_pairs(run / "stages/06-query-1/pairs.jsonl"))
    changed = [*settings, f"run.output={tmp_path / 'run'}", "synthesis.rounds=1", "synthesis.most_pairs=7"]
    train_ssra(load_config(SsraConfig, None, changed))
    some = list(read_pairs(tmp_path / "run/stages/06-query-1/pairs.jsonl"))
    assert len(some) == len(labelled) + 7 < len(everything)
    assert some[: len(labelled)] == everything[: len(labelled)]
    assert [pair for pair in everything if pair in some] == some


def test_other_sampling_does_not_train_again(whole, tmp_path):
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    notes = []
    changed = [*settings, f"run.output={copy}", "query.model.guidance=3"]
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    repeated = {note.partition(":")[0] for note in notes if note.endswith("begins")}
    assert {"07-try-1", "08-write-1"} <= repeated  # what is tried is what will be written
    assert "06-query-1" not in repeated


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_encoder_may_judge(files, toy_checkpoint, tmp_path):
    run = tmp_path / "run"
    settings = [*settings_of(files, toy_checkpoint, run), "filter.scorer=encoder", "synthesis.rounds=1"]
    train_ssra(load_config(SsraConfig, None, settings))
    stage = json.loads((run / "stages/02-score/stage.json").read_text())
    assert {"levels.json", "best/modules.json"} <= set(stage["outputs"])  # an encoder's folder
    assert any(record["kept"] for record in read_records(run / "stages/09-filter-1"))


def test_a_language_model_writes_and_judges(whole, endpoint, tmp_path):
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    endpoint.answer = lambda number, body: (
        200,
        "A" if body["temperature"] == 0 else f"搜索词{number}号怎么做",
    )
    changed = [
        *settings,
        f"run.output={copy}",
        f"synthesis.endpoint_url={url}",
        "synthesis.endpoint_name=toy",
        "filter.judge=endpoint",
        f"filter.judge_url={url}",
        "filter.judge_name=toy",
        "pool.limit=15",
    ]
    train_ssra(load_config(SsraConfig, None, changed))
    records = list(read_records(copy / "stages/09-filter-1"))
    assert any("搜索词" in record["query"] for record in records)
    assert {record["model"] for record in records} == {"toy"}


def test_an_endpoint_that_refuses_keeps_what_is_done(whole, endpoint, tmp_path):
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    per_shard = 5 * 4  # documents and levels
    endpoint.answer = lambda number, body: (200 if number <= per_shard else 401, f"词{number}怎么做")
    changed = [
        *settings,
        f"run.output={copy}",
        f"synthesis.endpoint_url={url}",
        "synthesis.endpoint_name=toy",
        "filter.judge=none",
    ]
    config = load_config(SsraConfig, None, changed)
    with pytest.raises(TrainingError, match="401"):
        train_ssra(config)
    assert [path.name for path in sorted((copy / "work/08-write-1").glob("*.jsonl"))] == [
        "written-00000.jsonl"
    ]
    endpoint.answer = lambda number, body: (200, f"词{number}怎么做")
    asked = endpoint.asked
    train_ssra(config)
    assert endpoint.asked - asked == 2 * per_shard


def test_an_endpoint_writes_once_and_is_asked_nothing_twice(whole, endpoint, tmp_path):
    """One document is refused by a content filter, and the run is stopped within its only shard."""
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    changed = [
        *settings,
        f"run.output={copy}",
        f"synthesis.endpoint_url={url}",
        "synthesis.endpoint_name=toy",
        "filter.judge=none",
        "run.shard=500",
    ]
    documents, levels = 15, 4
    filtered = []  # the first document

    def answer(number, body):
        question = body["messages"][-1]["content"]
        filtered.append(question.partition("\n")[0])
        if filtered[-1] == filtered[0]:
            return 400, "content_filter"
        return (401, "") if number == 11 * levels else (200, f"词{number}怎么做")

    endpoint.answer = answer
    config = load_config(SsraConfig, None, changed)
    with pytest.raises(TrainingError, match="401"):
        train_ssra(config)
    asked = endpoint.asked
    notes = []
    train_ssra(config, on_note=notes.append)
    assert any(note.startswith("one round") for note in notes)
    assert endpoint.asked - asked == (documents - 10) * levels  # ten were written down
    assert not list(copy.rglob("part-*"))
    lines = (copy / "stages/08-write-1/written-00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == documents * levels
    asked, queries = endpoint.asked, tmp_path / "queries.txt"
    queries.write_text("全新的搜索词\n", encoding="utf-8")
    more = load_config(SsraConfig, None, [*changed, f"pool.queries=['{queries}']"])
    train_ssra(more, on_note=notes.append)
    assert {"01-pool: begins", "04-candidates: begins", "08-write-1: done before"} <= set(notes)
    assert endpoint.asked == asked
    assert "filter-2" not in (copy / "row.json").read_text()


def test_a_model_that_repeats_itself_is_told(whole, endpoint, tmp_path):
    settings, _, run, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    endpoint.answer = lambda number, body: (200, "总是同一个搜索词")
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    changed = [
        *settings,
        f"run.output={copy}",
        f"synthesis.endpoint_url={url}",
        "synthesis.endpoint_name=toy",
        "filter.judge=none",
    ]
    notes = []
    train_ssra(load_config(SsraConfig, None, changed), on_note=notes.append)
    assert any("repeats itself" in note for note in notes)


def test_the_commands(whole, relsdk):
    settings, _, run, _ = whole
    overrides = [item for setting in settings for item in ("--set", setting)]
    code, out, err = relsdk("train", "ssra", *overrides)
    assert code == 0, err
    assert "relsdk export encoder" in out
    code, out, err = relsdk("synth", "inspect", str(run))
    assert code == 0, err
    assert out.startswith("13-filter-2: ")  # the balance after it drops nothing
    code, out, err = relsdk("synth", "report", str(run))
    assert code == 0, err
    assert (run / "report.html").is_file()
