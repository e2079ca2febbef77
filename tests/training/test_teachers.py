"""A score model learns the pooled probabilities of its teachers, on labelled and on unlabelled pairs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk.formats import write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import RunConfig, ScoreConfig, TeacherConfig
from relsdk_training.data.lessons import label_targets
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays
from relsdk_training.engine._log import read_log
from relsdk_training.runs import score
from relsdk_training.runs.score import train_score
from relsdk_training.teachers.cache import TEACHER_FOLDER
from relsdk_training.teachers.targets import soft_targets, unlabelled_pairs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs of the sample world: labelled, to decide on, and to be graded."""
    world = generate(seed=13, n_documents=150, n_queries=60, pairs_per_query=8)
    folder = tmp_path_factory.mktemp("pairs")
    train = world.split("train")
    write_pairs(folder / "train.jsonl", train[:100])
    write_pairs(folder / "more.jsonl", train[100:150])
    write_pairs(folder / "dev.jsonl", world.split("test")[:120])
    return folder


@pytest.fixture
def settings(files, toy_checkpoint, tmp_path):
    return [
        f"data.train={files / 'train.jsonl'}",
        f"data.dev={files / 'dev.jsonl'}",
        f"model.checkpoint={toy_checkpoint}",
        f"run.output={tmp_path / 'run'}",
        "run.precision=fp32",
        "model.max_tokens=32",
        "run.batch_size=16",
        "run.max_steps=6",
        "run.checkpoint_every=3",
    ]


@pytest.fixture(scope="module")
def scorer(files, toy_checkpoint, tmp_path_factory):
    """A toy score model with an ordinal head."""
    run = tmp_path_factory.mktemp("scorer") / "run"
    changes = [f"data.train={files / 'train.jsonl'}", f"data.dev={files / 'dev.jsonl'}", "run.max_steps=2"]
    changes += [f"model.checkpoint={toy_checkpoint}", f"run.output={run}", "model.head=ordinal"]
    train_score(load_config(ScoreConfig, None, changes))
    return run / "best"


def teachers(files, *checkpoints):
    named = ", ".join(f"'{checkpoint}'" for checkpoint in checkpoints)
    return [f"teacher.checkpoints=[{named}]", f"teacher.pairs=['{files / 'more.jsonl'}']"]


def arrays(files, name):
    return pair_arrays(load_pairs(str(files / f"{name}.jsonl")))


def test_one_teacher_gives_its_calibrated_probabilities(files, toy_checkpoint, tmp_path):
    train, dev = arrays(files, "train"), arrays(files, "dev")
    more = [("红烧肉怎么做", "红烧肉的家常做法"), (train.queries[0], "云南大理三天旅游攻略")]
    config = TeacherConfig((str(toy_checkpoint),), weight=0.25)
    run = RunConfig(output=str(tmp_path), precision="fp32")
    lesson = soft_targets(config, label_targets(train), more, dev, run)
    embedder = TextEmbedder(toy_checkpoint)
    calibration, _ = fit_calibration(embedder.scores(dev.texts()), dev.labels, [str(q) for q in dev.query_of])
    said = calibration.probabilities(embedder.scores(lesson.pairs.texts()))
    one_hot = np.eye(4)[train.labels]
    labelled, unlabelled = slice(len(train)), slice(len(train), None)
    np.testing.assert_allclose(lesson.targets[labelled], 0.75 * one_hot + 0.25 * said[labelled], atol=2e-4)
    np.testing.assert_allclose(lesson.targets[unlabelled], said[unlabelled], atol=2e-4)
    pairs = lesson.pairs
    rows = list(zip(pairs.query_of, pairs.document_of, strict=True))
    assert [(pairs.queries[query], pairs.documents[document]) for query, document in rows[unlabelled]] == more
    assert pairs.labels[unlabelled].tolist() == said[unlabelled].argmax(axis=1).tolist()
    assert pairs.labels[labelled].tolist() == train.labels.tolist()
    assert (len(train.queries), len(train)) == (len(arrays(files, "train").queries), len(train.labels))


def test_teachers_are_pooled_as_the_normalised_geometric_mean(files, toy_checkpoint, scorer, tmp_path):
    train, dev, notes = arrays(files, "train"), arrays(files, "dev"), []
    run = RunConfig(output=str(tmp_path), precision="fp32")

    def said(*checkpoints):
        config = TeacherConfig(tuple(map(str, checkpoints)), weight=1)
        return soft_targets(config, label_targets(train), [], dev, run, notes.append).targets.astype(
            np.float64
        )

    product = np.sqrt(said(toy_checkpoint) * said(scorer))
    np.testing.assert_allclose(
        said(toy_checkpoint, scorer), product / product.sum(axis=1, keepdims=True), atol=2e-3
    )
    assert any("2 teachers, calibrated on dev and pooled: mean_ap 0." in note for note in notes)


def test_labels_alone_are_certain():
    pairs = PairArrays(["a"], ["b"], np.zeros(2, int), np.zeros(2, int), np.array([3, 1]))
    assert label_targets(pairs).targets.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]


def test_what_is_labelled_or_held_out_is_not_graded(tmp_path):
    def pair(query, title):
        return LabelledPair(query, Document("1", title), 0)

    path = tmp_path / "more.jsonl"
    rows = [("a", "x"), ("a", "y"), ("a", "y"), ("Ｂ", "x"), ("c", "x")]
    write_pairs(path, [pair(*row) for row in rows])
    train = pair_arrays([pair("a", "x")])
    assert unlabelled_pairs([str(path)], train, ["b"]) == ([("a", "y"), ("c", "x")], 1)
    assert unlabelled_pairs([], train, []) == ([], 0)


@pytest.mark.parametrize("head", ["categorical", pytest.param("ordinal", marks=pytest.mark.slow)])
def test_a_taught_model_learns_what_its_teachers_say(settings, files, toy_checkpoint, scorer, tmp_path, head):
    extra = [*teachers(files, toy_checkpoint, scorer), f"model.head={head}", "teacher.weight=1"]
    extra += ["run.max_steps=30", "optimiser.learning_rate=1e-3"]
    notes = []
    train_score(load_config(ScoreConfig, None, [*settings, *extra]), on_note=notes.append)
    assert not (tmp_path / "run" / TEACHER_FOLDER).exists()
    assert json.loads((tmp_path / "run/config.json").read_text())["teacher"]["weight"] == 1
    assert any("pairs to grade, without 0 of queries of dev or test" in note for note in notes)
    losses = [line["loss"] for line in read_log(tmp_path / "run/log.jsonl") if line["kind"] == "step"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_run_that_was_stopped_goes_on_with_what_teachers_said(settings, files, scorer, tmp_path):
    def config(name):
        changed = [*settings, *teachers(files, scorer), f"run.output={tmp_path / name}"]
        return load_config(ScoreConfig, None, changed)

    train_score(config("whole"))

    def stop(step, steps, statistics):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_score(config("stopped"), on_step=stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / TEACHER_FOLDER).iterdir()}
    assert kept

    def look(step, steps, statistics):
        assert {path: path.stat().st_mtime_ns for path in kept} == kept

    train_score(config("stopped"), resume=True, on_step=look)
    one, other = (load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_teachers_of_a_run_that_has_ended_read_nothing_again(settings, files, scorer, tmp_path, monkeypatch):
    config = load_config(ScoreConfig, None, [*settings, *teachers(files, scorer)])
    ended = train_score(config)

    monkeypatch.delattr(score, "soft_targets")  # whoever asks teachers now, fails
    assert train_score(config, resume=True) == ended
    with pytest.raises(NameError, match="soft_targets"):
        train_score(replace(config, run=replace(config.run, seed=config.run.seed + 1)), resume=True)
    result = tmp_path / "run/result.json"
    for content in (json.loads(result.read_text()) | {"stopped": "interrupted"}, ["damaged"]):
        result.write_text(json.dumps(content))
        with pytest.raises(NameError, match="soft_targets"):
            train_score(config, resume=True)


def test_a_teacher_that_gives_one_number_is_refused(settings, scorer, tmp_path):
    foreign = Path(shutil.copytree(scorer, tmp_path / "foreign"))
    config = json.loads((foreign / "config.json").read_text())
    config |= {"relsdk_head": "regression", "id2label": {"0": "score"}, "num_labels": 1}
    (foreign / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="gives one number for a pair; a categorical or ordinal head"):
        train_score(load_config(ScoreConfig, None, [*settings, f"teacher.checkpoints=['{foreign}']"]))
    assert not (tmp_path / "run").exists()


def test_a_resume_with_other_teachers_is_refused(settings, files, toy_checkpoint, scorer):
    train_score(load_config(ScoreConfig, None, [*settings, *teachers(files, scorer)]))
    for changed in (teachers(files, toy_checkpoint), []):
        with pytest.raises(InputError, match="another configuration or other data"):
            train_score(load_config(ScoreConfig, None, [*settings, *changed]), resume=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            ["teacher.checkpoints=['nowhere']"],
            "'nowhere' is no checkpoint; name folders of",
        ),
        (["teacher.checkpoints=['.']"], "'.' is no checkpoint; name folders of"),
        (["teacher.pairs=['a.jsonl']"], "teacher.pairs has no labels to learn from"),
        (["teacher.weight=1.5"], "teacher.weight=1.5; 0 to 1 is needed"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(settings, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        train_score(load_config(ScoreConfig, None, [*settings, *changed]))
    assert not (tmp_path / "run").exists()
