"""The whole method at toy size: it ends, goes on where it was killed, refuses bad input."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from relsdk.errors import InputError, LockedError
from relsdk.formats import read_pairs, write_pairs
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.pair_records import read_records
from relsdk_training.ssra.recipe import train_ssra


def artefacts(run):
    """Hashes of what each stage made, and what it reported."""
    stages = {path.parent.name: json.loads(path.read_text()) for path in run.glob("stages/*/stage.json")}
    return {name: (stage["outputs"], stage["report"]) for name, stage in stages.items()}


def test_a_run_ends_with_an_encoder_and_balanced_pairs(whole, files):
    _, result, run = whole
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
    _, _, run = whole
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
    settings, result, run = whole
    before = times(run)
    row = (run / "row.json").read_bytes()
    notes = []
    again = train_ssra(load_config(SsraConfig, None, settings), on_note=notes.append)
    assert again == result
    assert notes == [f"{name}: done before" for name in sorted(artefacts(run))]
    assert times(run) == before
    assert (run / "row.json").read_bytes() == row  # written again, and the same


def test_the_commands(whole, relsdk):
    settings, _, run = whole
    overrides = [item for setting in settings for item in ("--set", setting)]
    code, out, err = relsdk("train", "ssra", *overrides)
    assert code == 0, err
    assert "relsdk export encoder" in out
    code, out, err = relsdk("synth", "inspect", str(run))
    assert code == 0, err
    assert out.startswith("13-filter-2: ")  # the balance after it drops nothing
    code, out, err = relsdk("synth", "report", str(run))
    assert code == 0, err
    assert (run / "report.md").is_file()


KILLED = """
import json, os, signal, sys
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.recipe import train_ssra
from relsdk_training.ssra.stages import score

stages, settings = sys.argv[1].split(","), sys.argv[2:]

def kill(name, done, total):
    if name == stage and done == 2:  # of three shards or steps
        die()

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

for stage in [*stages, "none"]:
    child = os.fork()  # nothing has been computed here yet: only the imports are shared
    if child == 0:
        if stage == "after 03-judge":  # was trained
            score.fit_levels = die
        train_ssra(load_config(SsraConfig, None, settings), on_progress=kill)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = os.path.join(settings[-1].partition("=")[2], "work", stage.rpartition(" ")[2])
    print(json.dumps([stage, status, sorted(os.listdir(folder)) if os.path.isdir(folder) else []]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_each_stage_it_resumes_to_the_same_artefacts(whole, tmp_path):
    settings, _, run = whole
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


class Stop(Exception):
    pass


def test_a_training_goes_on_after_a_change_that_is_none(whole, tmp_path, monkeypatch):
    """The run is moved, its path written another way, the checkpoint moved, the sampling changed."""
    settings, _, run = whole
    checkpoint = next(item.partition("=")[2] for item in settings if "training.checkpoint" in item)
    for name in ("01-pool", "02-score", "03-judge", "04-candidates", "05-annotate"):
        shutil.copytree(run / "stages" / name, tmp_path / "first/stages" / name)

    def stop(name, done, total):
        if name == "06-query-1" and done == 2:
            raise KeyboardInterrupt

    first = load_config(SsraConfig, None, [*settings, f"run.output={tmp_path / 'first'}"])
    with pytest.raises(KeyboardInterrupt):
        train_ssra(first, on_progress=stop)
    shutil.move(tmp_path / "first", tmp_path / "second")
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    changed = [*settings, "run.output=second", "query.temperature=0.9", "training.checkpoint=checkpoint"]
    notes, steps = [], []

    def on_note(note):
        notes.append(note)
        if note.startswith("06-query-1: done"):
            raise Stop

    with pytest.raises(Stop):
        train_ssra(
            load_config(SsraConfig, None, changed),
            on_note=on_note,
            on_progress=lambda name, done, total: steps.append((name, done)),
        )
    assert "06-query-1: goes on" in notes
    assert [note for note in notes if note.endswith("done before")][-1] == "05-annotate: done before"
    assert [done for name, done in steps if name == "06-query-1"] == [2, 3]  # not 1


def test_two_processes_in_one_folder(settings, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(LockedError, match="in use by another process"):
        train_ssra(load_config(SsraConfig, None, [*settings, f"run.output={tmp_path / 'run'}"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["run.output="], "run.output names no folder"),
        (["run.shard=0"], "run.shard=0"),
        (["filter.checkpoint=nowhere"], "filter.checkpoint 'nowhere' is no checkpoint; name RUN/best"),
        (["query.checkpoint=nowhere"], "query.checkpoint 'nowhere' is not a folder; set it, or training"),
        (["training.checkpoint="], "score.checkpoint '' is not a folder"),
        (["training.warmup=2"], r"\[score\]: optimiser.warmup=2.0; 0 to 1"),
        (["query.temperature=0"], "temperature=0"),
        (["query.decoder_layers=[5]"], r"decoder_layers \[5\]; rising numbers out of 0 to 1"),
        (["synthesis.endpoint.url=ftp://x"], "http or https URL"),
        (["data.dev="], "data.dev names no file"),
        (["data.limit=3"], "at least one of each"),
        (["unlabelled.pairs=[]"], "no unlabelled document; name files in unlabelled.pairs"),
        (["unlabelled.pairs=['nowhere.jsonl']"], "nowhere.jsonl is not a file"),
        (["filter.thresholds=[0.5]"], "four probabilities"),
        (["filter.thresholds=[50, 30, 30, 50]"], "four probabilities from 0 to 1"),
        (["filter.adjust=400"], "filter.adjust=400.0; 0 to 10"),
        (["synthesis.rounds=21"], "rounds=21; 0 to 20"),
        (["synthesis.levels=[7]"], "levels out of 0 to 3"),
        (["synthesis.levels=[]"], "levels out of 0 to 3, at least one"),
        (["synthesis.levels=[1, 1]"], "different levels"),
        (["synthesis.endpoint.url=http://localhost"], "no model is named"),
        (["filter.judge=endpoint", "filter.endpoint.url=http://localhost"], "no model is named"),
        (["query.kind=seq2seq", "query.guidance=1"], "no seq2seq language model"),
        (["filter.judge=endpoint"], "no endpoint is named"),
        (["balance.shares=[0, 1, 1, 1]"], "above 0"),
    ],
)
def test_bad_input_is_told(settings, tmp_path, changes, message):
    """Before anything is trained."""
    changed = [*settings, f"run.output={tmp_path / 'run'}", *changes]
    with pytest.raises(InputError, match=message):
        train_ssra(load_config(SsraConfig, None, changed))
    assert not (tmp_path / "run" / "stages").exists()


def test_a_dev_split_that_levels_cannot_be_read_from_is_told(settings, files, tmp_path):
    write_pairs(tmp_path / "dev.jsonl", list(read_pairs(files / "dev.jsonl"))[:40])
    changed = [*settings, f"run.output={tmp_path / 'run'}", f"data.dev={tmp_path / 'dev.jsonl'}"]
    with pytest.raises(InputError, match=r"dev\.jsonl: too few to calibrate on: 40 labelled pairs"):
        train_ssra(load_config(SsraConfig, None, changed))
    assert not (tmp_path / "run" / "stages").exists()


def test_a_model_of_another_kind_gives_no_levels(whole, tmp_path):
    settings, result, run = whole
    scorer = run / "stages/02-score/best"
    for changes, message in (
        ([f"filter.checkpoint={result.encoder}"], "is an encoder; .*cross_encoder needs a score model"),
        ([f"filter.checkpoint={scorer}", "filter.scorer=encoder"], "score model .*encoder needs an encoder"),
        ([f"filter.checkpoint={scorer}", "score.head=ordinal"], "is categorical; .* is ordinal"),
    ):
        with pytest.raises(InputError, match=message):
            train_ssra(load_config(SsraConfig, None, [*settings, f"run.output={tmp_path / 'run'}", *changes]))
        assert not (tmp_path / "run" / "stages").exists()
