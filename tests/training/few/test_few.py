"""`relsdk train few` at toy size: what it makes, what it says, and what it does not do again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from relsdk.bundle import read_bundle
from relsdk.errors import InputError, MissingExtraError, TrainingError
from relsdk.formats import read_pairs, write_pairs
from relsdk_training.few import _bundle as bundle
from relsdk_training.few._data import calibrates
from tests.training.few.conftest import run_here, train_here


def opinions(files):
    return [
        f'data.weak=["{files / "weak.jsonl"}", "{files / "check.jsonl"}"]',
        f'data.written=["{files / "written.jsonl"}"]',
        "data.human_last=0.3",
    ]


def labelled(files):
    return [f"data.train={files / 'labels.jsonl'}", f"data.dev={files / 'dev.jsonl'}"]


def pairs_of(path):
    return [(pair.query, pair.document.title, int(pair.level)) for pair in read_pairs(path)]


def done_before(notes):
    return [note.partition(":")[0] for note in notes if note.endswith("done before")]


@pytest.fixture(scope="module")
def whole(small, few_files, tmp_path_factory):
    """A run with all kinds of data, which nobody may change: its settings, folder and result."""
    run = tmp_path_factory.mktemp("few") / "run"
    settings = [*labelled(few_files), *opinions(few_files), f"data.test={few_files / 'test.jsonl'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "_run", run_here([]))
        return settings, run, train_here(small, run, *settings)[0]


def test_a_run_ends_with_a_bundle_that_has_levels_and_a_report(whole, few_files, world):
    _, _, result = whole
    content = json.loads((Path(result.report).parent / "report.json").read_text())
    assert content == result.content
    (variant,) = read_bundle(result.bundle).variants
    assert variant.calibrations
    assert content["levels"]["fp32"]["pairs"] == len(world.split("dev"))
    assert set(content["measures"]) == {"dev", "test"}
    assert content["training"]["steps"] == 3
    # What both the annotator and people graded, counted by hand.
    said = {pair[:2]: pair[2] for pair in pairs_of(few_files / "check.jsonl")}
    counts = np.zeros((4, 4))
    for query, title, level in pairs_of(few_files / "dev.jsonl"):
        counts[said[query, title], level] += 1
    prior = counts.sum(axis=0) / counts.sum()
    confusion = (counts + 4 * prior) / (counts.sum(axis=1, keepdims=True) + 4)
    np.testing.assert_allclose(content["opinions"]["confusion"], confusion, atol=1e-4)
    assert content["opinions"]["graded_by_people_too"] == counts.sum()
    assert sum(content["pairs"]["opinions"]) == len(pairs_of(few_files / "weak.jsonl"))
    assert sum(content["pairs"]["written queries"]) == len(pairs_of(few_files / "written.jsonl"))
    told = Path(result.report).read_text()
    assert f"| {' | '.join(f'{share:.2f}' for share in confusion[1])} |" in told
    assert "| test | fp32 |" in told


@pytest.mark.usefixtures("without_bundle")
def test_what_is_done_is_not_done_again(whole, train, commands, tmp_path):
    settings, run, first = whole
    again, notes = train(*settings, output=run)
    assert again.content == first.content
    assert done_before(notes) == ["01-data", "04-train", "05-bundle", "06-eval"]
    assert commands == []
    shutil.copytree(run, tmp_path / "run")
    _, notes = train(*settings, "run.seed=1")
    assert done_before(notes) == ["01-data"]


def test_a_stopped_run_goes_on(train, commands, few_files, monkeypatch):
    run = bundle._run

    def fail(*arguments, on_note):
        if arguments[0] == "calibrate":
            raise TrainingError("the disk is full")
        return run(*arguments, on_note=on_note)

    monkeypatch.setattr(bundle, "_run", fail)
    with pytest.raises(TrainingError, match="the disk is full"):
        train(*labelled(few_files))
    monkeypatch.setattr(bundle, "_run", run)
    result, notes = train(*labelled(few_files))
    assert done_before(notes) == ["01-data", "04-train"]
    assert [command[0] for command in commands] == ["export", "calibrate", "eval"]
    assert read_bundle(result.bundle).variants[0].calibrations


def test_labels_alone_are_split_by_query(train, few_files):
    result, _ = train(f"data.train={few_files / 'labels.jsonl'}")
    data = Path(result.report).parent / "stages/01-data"
    learned, dev = (pairs_of(data / f"{name}.jsonl") for name in ("train", "dev"))
    assert sorted(learned + dev) == sorted(pairs_of(few_files / "labels.jsonl"))
    assert not {query for query, *_ in learned} & {query for query, *_ in dev}
    assert 50 <= len(dev) < len(learned)
    assert calibrates(list(read_pairs(data / "dev.jsonl")))
    assert any(f"{len(dev)} of the 160 labels" in note for note in result.content["notes"])
    assert result.content["levels"]["fp32"]["pairs"] == len(dev)


@pytest.mark.parametrize("labels", ["few", ""])
def test_without_dev_nothing_is_measured_and_the_report_says_what_labels_would_give(train, few_files, labels):
    given = [f"data.train={few_files / 'few.jsonl'}"] if labels else []
    result, _ = train(*given, *opinions(few_files))
    content = result.content
    assert sum(content["pairs"]["labels"]) == (32 if labels else 0)
    assert sum(content["pairs"]["dev"]) == 0
    assert (content["levels"], content["measures"], content["training"]["dev"]) == ({}, {}, {})
    assert content["training"]["steps"] == content["training"]["best_step"] == 3
    assert content["opinions"]["confusion"] is None
    assert "Label 100 pairs" in content["next"][0]
    assert any("has no levels" in note for note in content["notes"])
    assert not read_bundle(result.bundle).variants[0].calibrations


def test_what_cannot_work_is_said_before_anything_is_done(train, few_files, tmp_path, monkeypatch):
    labels = f"data.train={few_files / 'labels.jsonl'}"
    for settings, message in (
        ([], "there is nothing to learn from; name labels"),
        ([labels, "run.output="], "name one with --output FOLDER"),
        ([labels, "model.checkpoint=nowhere"], "'nowhere' is not a folder; get one with relsdk model pull"),
        ([labels, f'ask.unlabelled=["{labels}"]'], "--unlabelled is for a language model"),
        ([labels, f"data.dev={few_files / 'few.jsonl'}"], "both in train and in dev"),
        (["data.train=gone.jsonl"], r"gone.jsonl is not a file"),
    ):
        with pytest.raises(InputError, match=message):
            train(*settings)
    monkeypatch.setattr(bundle, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"relsdk\[train,export\]"):
        train(labels)
    assert not (tmp_path / "run/stages").exists()


def test_the_command(relsdk, commands, small, few_files, tmp_path):
    odd = tmp_path / "1e5 it's #1"
    odd.symlink_to(few_files)
    changes = [word for setting in small for word in ("--set", setting)]
    given = ["--labels", odd / "labels.jsonl", "--dev", odd / "dev.jsonl", "--weak", odd / "weak.jsonl"]
    given += ["--weak", odd / "check.jsonl", "--output", tmp_path / "2024"]
    code, out, err = relsdk("train", "few", *given, *changes, "--json")
    assert code == 0, err
    content = json.loads(out.splitlines()[-1])
    assert content["training"]["steps"] == 3
    assert content["opinions"]["graded_by_people_too"] == len(pairs_of(few_files / "dev.jsonl"))
    code, out, err = relsdk("train", "few", *given, *changes)
    assert code == 0, err
    assert "next: relsdk index build INDEX --model" in out
    assert "report: " in out


@pytest.mark.slow
def test_the_commands_run_in_processes_of_their_own(toy_bundle_copy, few_files):
    notes = []
    measured = bundle.measure_bundle(toy_bundle_copy, {"dev": few_files / "dev.jsonl"}, notes.append)
    assert 0 < measured["dev"][0]["ranking"]["mean_ap"] <= 1
    with pytest.raises(TrainingError, match="ended with 2 and said why above"):
        bundle.measure_bundle(toy_bundle_copy, {"dev": Path("gone.jsonl")}, notes.append)
    assert notes[0] == f"relsdk eval {toy_bundle_copy} {few_files / 'dev.jsonl'}"


def test_pairs_that_lack_a_level_have_no_measure_of_it(train, few_files, tmp_path):
    """After the hours of a run, its report is written."""
    pairs = [pair for pair in read_pairs(few_files / "test.jsonl") if pair.level < 3]
    write_pairs(tmp_path / "test.jsonl", pairs)
    result, _ = train(*labelled(few_files), f"data.test={tmp_path / 'test.jsonl'}")
    (row,) = [line for line in Path(result.report).read_text().splitlines() if "| test | fp32 |" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == cells[5] == "-"  # mean AP, AP=3
    assert float(cells[3]) > 0
