"""A run with what a language model said beforehand: opinions on pairs, and queries written for a level."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.records import Document, LabelledPair
from relsdk.shards.runner import LocalRunner
from relsdk_sample import generate
from relsdk_sample.annotator import annotate, write_queries
from relsdk_training.config.files import config_from_dict, load_config
from relsdk_training.config.settings import EmbedConfig
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.opinions import confusion_matrix
from relsdk_training.ssra._shards import read_lines, read_shards
from relsdk_training.ssra.pair_records import document_of, labelled_key, read_records
from relsdk_training.ssra.recipe import plan_stages, train_ssra
from tests.training.ssra.test_run import KILLED, artefacts

LABELLED, OPINIONS = 120, 120
GRADED_TOO = 60  # opinions on pairs of dev


@pytest.fixture(scope="session")
def answers(files, tmp_path_factory):
    """Files of opinions, on pairs without a label and on half of dev, and of written queries."""
    folder = tmp_path_factory.mktemp("answers")
    world = generate(seed=11, n_documents=200, n_queries=70)
    alone = world.split("train")[LABELLED : LABELLED + OPINIONS]
    write_pairs(folder / "weak.jsonl", annotate([*alone, *world.split("test")[-120:][:GRADED_TOO]]))
    documents = list({pair.document.id: pair.document for pair in world.split("train")}.values())
    junk = LabelledPair("？？？", documents[0], 1)
    write_pairs(folder / "written.jsonl", [*write_queries(documents[:60]), junk])
    return folder


@pytest.fixture(scope="session")
def opinion_settings(settings, answers):
    return [
        *settings,
        f"data.weak=['{answers / 'weak.jsonl'}']",
        f"data.written=['{answers / 'written.jsonl'}']",
        "data.weak_weight=0.5",
        "data.written_weight=0.75",
        "data.human_last=0.4",
        "synthesis.rounds=1",
        "synthesis.levels=[1, 2, 3]",
        "query.max_steps=2",
        "unlabelled.limit=10",
    ]


@pytest.fixture(scope="session")
def told(opinion_settings, tmp_path_factory):
    """An uninterrupted run: its settings, notes and folder; nobody may change it."""
    run = tmp_path_factory.mktemp("runs") / "told"
    of_run, notes = [*opinion_settings, f"run.output={run}"], []
    train_ssra(load_config(SsraConfig, None, of_run), on_note=notes.append)
    return of_run, notes, run


def stage_of(run, name):
    (folder,) = (path for path in run.glob("stages/*") if path.name.partition("-")[2] == name)
    return folder


def data_of(run, name):
    """The [data] that a model was trained with; files by their place in the run."""
    data = json.loads((stage_of(run, name) / "config.json").read_text(encoding="utf-8"))["data"]
    places = {}
    for key in ("train", "dev", "weak", "written"):
        of = data[key] if isinstance(data[key], list) else [data[key]]
        places[key] = ["/".join(Path(path).parts[-2:]) for path in of]
    return places | {key: data[key] for key in ("weak_weight", "written_weight", "human_last")}


def keys(pairs):
    return [labelled_key(pair) for pair in pairs]


def test_the_first_stage_keeps_what_was_said(told, answers):
    _, notes, run = told
    pool = stage_of(run, "pool")
    said = list(read_pairs(answers / "weak.jsonl"))
    kept = list(read_pairs(pool / "weak.jsonl"))
    assert sorted(map(repr, kept)) == sorted(map(repr, said))
    report = json.loads((pool / "stage.json").read_text(encoding="utf-8"))["report"]
    assert sum(report["opinions"]["levels"]) == OPINIONS
    assert report["opinions"]["graded_by_people_too"] == GRADED_TOO
    dev = {labelled_key(pair): int(pair.level) for pair in read_pairs(pool / "dev.jsonl")}
    both = [(int(pair.level), dev[key]) for pair in said if (key := labelled_key(pair)) in dev]
    expected = confusion_matrix(*zip(*both, strict=True))
    np.testing.assert_allclose(report["opinions"]["confusion"], expected, atol=1e-4)
    assert any(f"opinions, corrected by {GRADED_TOO} pairs that people graded too" in note for note in notes)
    written = list(read_pairs(answers / "written.jsonl"))
    assert report["written"] == np.bincount([int(pair.level) for pair in written], minlength=4).tolist()
    shards = sorted(pool.glob("written-*.jsonl"))
    lines = [list(read_lines(path)) for path in shards]
    documents = [{line["document"]["id"] for line in of_shard} for of_shard in lines]
    assert [len(some) for some in documents] == [5] * (len(shards) - 1) + [len(documents[-1])]
    assert sum(map(len, documents)) == len(set().union(*documents))  # a document is in one shard
    assert Counter((q, line["wanted"]) for of in lines for line in of for q in line["queries"]) == Counter(
        (pair.query, int(pair.level)) for pair in written
    )


def test_each_model_learns_from_its_own(told):
    _, _, run = told
    alone = {"weak_weight": 0.5, "written_weight": 1.0, "human_last": 0.4, "written": []}
    assert data_of(run, "score") == {
        "train": ["01-pool/labelled.jsonl"],
        "dev": ["01-pool/dev.jsonl"],
        "weak": ["01-pool/weak.jsonl"],
        **alone,
    }
    assert data_of(run, "judge") == {
        "train": ["03-judge/labelled.jsonl"],
        "dev": ["01-pool/dev.jsonl"],
        "weak": ["03-judge/weak.jsonl"],
        **alone,
    }
    assert data_of(run, "query-1") == {
        "train": ["06-query-1/pairs.jsonl"],
        "dev": ["01-pool/dev.jsonl"],
        "weak": [],
        "written": [],
        "weak_weight": 1.0,
        "written_weight": 1.0,
        "human_last": 0.0,
    }
    assert data_of(run, "embed") == {
        "train": ["01-pool/labelled.jsonl"],
        "dev": ["01-pool/dev.jsonl"],
        "weak": ["01-pool/weak.jsonl"],
        "written": ["91-embed/added.jsonl"],
        "weak_weight": 0.5,
        "written_weight": 0.75,
        "human_last": 0.4,
    }


def test_the_judge_knows_a_part_of_the_opinions_and_corrects_them_by_the_same_pairs(told):
    _, _, run = told
    pool, judge = stage_of(run, "pool"), stage_of(run, "judge")
    everything, part = (list(read_pairs(folder / "weak.jsonl")) for folder in (pool, judge))
    dev = set(keys(read_pairs(pool / "dev.jsonl")))
    both = [pair for pair in part if labelled_key(pair) in dev]
    assert len(both) == GRADED_TOO
    queries = {pair.query for pair in part} - {pair.query for pair in both}
    all_queries = {pair.query for pair in everything} - {pair.query for pair in both}
    labelled = {pair.query for pair in read_pairs(judge / "labelled.jsonl")}
    all_labelled = {pair.query for pair in read_pairs(pool / "labelled.jsonl")}
    assert len(queries | labelled) == round(0.7 * len(all_queries | all_labelled))
    # What it does not know as a label it does not know as an opinion either.
    assert not queries & (all_labelled - labelled)


def test_the_query_model_learns_from_all_that_was_written(told, answers):
    _, _, run = told
    learned = list(read_pairs(stage_of(run, "query-1") / "pairs.jsonl"))
    labelled = list(read_pairs(stage_of(run, "pool") / "labelled.jsonl"))
    assert learned[: len(labelled)] == labelled
    levels = {labelled_key(pair): pair.level for pair in learned}
    *written, junk = read_pairs(answers / "written.jsonl")
    assert [levels[labelled_key(pair)] for pair in written] == [pair.level for pair in written]
    assert labelled_key(junk) not in levels
    before, after = (np.bincount([int(p.level) for p in some], minlength=4) for some in (labelled, learned))
    assert (after[[1, 2]] - before[[1, 2]] > 50).all()


def test_written_queries_pass_the_filter_of_all(told, answers):
    _, _, run = told
    records = list(read_records(stage_of(run, "filter-written")))
    written = Counter(keys(read_pairs(answers / "written.jsonl")))
    assert len(records) == sum(written.values())
    assert {(record["source"], record["round"], record["model"]) for record in records} == {
        ("written", 0, None)
    }
    reasons = {record["dropped_because"] for record in records}
    assert {None, "score", "cleaning"} <= reasons
    for record in records:
        if record["kept"]:
            assert record["predicted"] == record["wanted"]
            assert record["judge"]["verdict"] in ("agrees", "not asked", "contradicts")


def test_nothing_is_written_for_a_document_that_has_the_query(told):
    _, _, run = told
    pool, write = stage_of(run, "pool"), stage_of(run, "write-1")
    given = {
        (document_of(line["document"]), line["wanted"])
        for line in read_shards(sorted(pool.glob("written-*.jsonl")))
    }
    lines = list(read_shards(sorted(write.glob("written-*.jsonl"))))
    asked = {(document_of(line["document"]), line["wanted"]) for line in lines}
    documents = {document_of(line) for line in read_shards(sorted(pool.glob("documents-*.jsonl")))}
    assert asked == {(text, level) for text in documents for level in (1, 2, 3)} - given
    assert 0 < len(asked) < 3 * len(documents)


def test_the_encoder_learns_from_people_models_and_opinions(told):
    _, _, run = told
    pool, balance, embed = (stage_of(run, name) for name in ("pool", "balance", "embed"))
    records = list(read_records(balance))
    sources = Counter(record["source"] for record in records)
    kept = sum(record["kept"] for record in read_records(stage_of(run, "filter-written")))
    assert 0 < sources["written"] <= kept
    assert sources["labelled"] > 0
    labelled = set(keys(read_pairs(pool / "labelled.jsonl")))
    balanced = list(read_pairs(balance / "pairs.jsonl"))
    added = list(read_pairs(embed / "added.jsonl"))
    assert added == [pair for pair in balanced if labelled_key(pair) not in labelled]
    assert len(added) == len(records) - sources["labelled"]
    assert not set(keys(added)) & set(keys(read_pairs(pool / "weak.jsonl")))
    # As the training reads it; it did so before its folder was moved to its place.
    content = json.loads((embed / "config.json").read_text(encoding="utf-8").replace("/work/", "/stages/"))
    lesson = load_splits(config_from_dict(EmbedConfig, content, "config.json").data, 0).train
    assert lesson.human.sum() == LABELLED
    assert Counter(lesson.weights.tolist()) == {1.0: LABELLED, 0.5: OPINIONS, 0.75: len(added)}


@pytest.mark.slow
def test_killed_here_and_there_it_resumes_to_the_same_artefacts(told, tmp_path):
    settings, _, run = told
    stages = ["02-score", "03-judge", "06-query-1", "89-filter-written", "91-embed"]
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", KILLED),
            *(",".join(stages), *settings, f"run.output={tmp_path / 'run'}"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line)[:2] for line in done.stdout.splitlines() if line.startswith("[")]
    assert ends == [*([stage, -9] for stage in stages), ["none", 0]]
    assert artefacts(tmp_path / "run") == artefacts(run)


@pytest.mark.slow
def test_two_workers_make_what_one_makes(told, tmp_path):
    config = load_config(SsraConfig, None, [*told[0], "run.threads=1"])
    made = []
    for workers in (1, 2):
        planned = plan_stages(config, 1, shard_runner=LocalRunner(workers))
        (stage,) = (one.stage for one in planned if one.stage.name == "89-filter-written")
        folder = tmp_path / str(workers)
        folder.mkdir()
        report = stage.make(folder)
        made.append((report, {path.name: path.read_bytes() for path in folder.glob("records-*.jsonl")}))
    assert made[0] == made[1]
    assert len(made[0][1]) > 2


def test_the_reports_know_of_them(told, relsdk):
    _, _, run = told
    code, out, err = relsdk("synth", "inspect", str(run), "--stage", "filter-written")
    assert code == 0, err
    assert out.startswith("89-filter-written: ")
    code, out, err = relsdk("synth", "inspect", str(run), "--stage", "balance")
    assert code == 0, err
    assert "labelled" in out.splitlines()[1]
    assert "written" in out.splitlines()[1]
    code, _, err = relsdk("synth", "report", str(run), "--output", str(run.parent / "told.md"))
    assert code == 0, err
    report = (run.parent / "told.md").read_text(encoding="utf-8")
    assert "## Opinions" in report
    assert f"corrected by {GRADED_TOO} pairs" in report
    assert "| 89-filter-written |" in report
    assert "| written |" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.weak=['nowhere.jsonl']"], "nowhere.jsonl is not a file"),
        (["data.written=['nowhere.jsonl']"], "nowhere.jsonl is not a file"),
        (["data.weak=[]"], r"data\.weak_weight=0\.5 would do nothing"),
        (["data.written=[]"], r"data\.written_weight=0\.75 would do nothing"),
        (
            ["data.weak=[]", "data.written=[]", "data.weak_weight=1", "data.written_weight=1"],
            r"data\.human_last=0\.4 would do nothing",
        ),
    ],
)
def test_bad_input_is_told(opinion_settings, tmp_path, changes, message):
    changed = [*opinion_settings, f"run.output={tmp_path / 'run'}", *changes]
    with pytest.raises(InputError, match=message):
        train_ssra(load_config(SsraConfig, None, changed))
    assert not (tmp_path / "run/stages").exists()


@pytest.mark.parametrize("name", ["weak", "written"])
def test_a_query_of_dev_is_a_leak(opinion_settings, files, tmp_path, name):
    """An opinion on a pair of dev is none, but one on another document for a query of dev is."""
    first, *_ = read_pairs(files / "dev.jsonl")
    document = Document("of nobody", "没有人标注过的文档")
    write_pairs(tmp_path / "leak.jsonl", [LabelledPair(first.query, document, first.level)])
    changed = [
        *opinion_settings,
        f"run.output={tmp_path / 'run'}",
        f"data.{name}=['{tmp_path / 'leak.jsonl'}']",
    ]
    with pytest.raises(InputError, match=f"both in {name} and in dev"):
        train_ssra(load_config(SsraConfig, None, changed))
