"""Toy models trained end to end: they learn, resume exactly, survive kills, and export what dev measured."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import BundleError, InputError, LockedError, TrainingError
from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import RelevanceLevel
from relsdk.models.cross_encoder import open_pair_model
from relsdk.records import Document, LabelledPair
from relsdk.tools.evaluation import evaluate
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import EmbedConfig, LossConfig, RunConfig, ScoreConfig
from relsdk_training.engine import checkpoint as checkpoint_module
from relsdk_training.engine import loop
from relsdk_training.engine import precision as precision_module
from relsdk_training.engine.interrupt import InterruptAfterStep
from relsdk_training.engine.log import RunLog, read_log
from relsdk_training.engine.plot import plot_run
from relsdk_training.objectives.embedding import EmbeddingObjective
from relsdk_training.runs.run import load_splits, train_embed, train_score
from tests.default_signals import WITH_DEFAULT_SIGNALS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs of the sample world, split by query."""
    world = generate(seed=11, n_documents=600, n_queries=150)
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "dev"):
        write_pairs(folder / f"{split}.jsonl", world.split({"train": "train", "dev": "test"}[split]))
    return folder


@pytest.fixture
def settings(files, toy_checkpoint, tmp_path):
    """Overrides that make a run of a few seconds."""
    return [
        f"data.train={files / 'train.jsonl'}",
        f"data.dev={files / 'dev.jsonl'}",
        f"model.checkpoint={toy_checkpoint}",
        f"run.output={tmp_path / 'run'}",
        "run.batch_size=32",
        "run.precision=fp32",
        "run.max_steps=10",
        "optimiser.learning_rate=1e-3",
        "optimiser.warmup=0.1",
    ]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_encoder_learns_and_exports_to_what_dev_measured(settings, files, tmp_path):
    from relsdk_export.encoder import export_encoder

    extra = ["run.max_steps=60", "loss.cosent=1", "loss.matryoshka_dims=[8, 32]", "run.evaluate_every=20"]
    extra += ["optimiser.learning_rate=3e-3", "run.batch_size=64", "model.dropout=0.0"]
    result = train_embed(load_config(EmbedConfig, None, [*settings, *extra]))
    lines = list(read_log(tmp_path / "run" / "log.jsonl"))
    dev = [line for line in lines if line["kind"] == "dev"]
    assert [line["step"] for line in dev] == [0, 20, 40, 60]
    assert result.best["mean_ap"] > dev[0]["mean_ap"] + 0.02
    assert result.warnings == ()
    steps = [line for line in lines if line["kind"] == "step"]
    assert np.mean([s["loss"] for s in steps[-5:]]) < np.mean([s["loss"] for s in steps[:5]])
    assert {"loss", "accuracy", "embedding_std", "gradient_norm", "learning_rate", "rows_per_second"} <= set(
        steps[0]
    )
    bundle = export_encoder(tmp_path / "run" / "best", tmp_path / "bundle", variants=["fp32"])
    assert bundle.settings.matryoshka_dims == (8, 32)
    pairs = list(read_pairs(files / "dev.jsonl"))
    for dim in (None, 8):
        model = open_pair_model(bundle.path, truncate_dim=dim)
        name = "mean_ap" if dim is None else "mean_ap@8"
        assert evaluate(model, pairs).ranking.mean_ap == pytest.approx(result.best[name], abs=1e-3)


@pytest.mark.parametrize("head", ["categorical", "ordinal"])
def test_a_score_model_learns_and_exports_to_what_dev_measured(settings, files, tmp_path, head):
    from relsdk_export.scorer import export_scorer

    extra = [f"model.head={head}", "run.max_steps=40", "run.evaluate_every=20", "model.max_tokens=64"]
    result = train_score(load_config(ScoreConfig, None, [*settings, *extra]))
    dev = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "dev"]
    assert result.best["log_loss"] < dev[0]["log_loss"]
    bundle = export_scorer(tmp_path / "run" / "best", tmp_path / "bundle", variants=["fp32"])
    assert bundle.settings.head == head
    pairs = list(read_pairs(files / "dev.jsonl"))
    with pytest.warns(UserWarning, match="exceed 64 tokens"):
        found = evaluate(open_pair_model(bundle.path), pairs)
    assert found.ranking.mean_ap == pytest.approx(result.best["mean_ap"], abs=2e-3)
    assert found.grading.accuracy == pytest.approx(result.best["accuracy"], abs=2e-3)


def test_a_training_that_learns_nothing_says_so(settings, tmp_path, relsdk):
    still = ["optimiser.learning_rate=0", "optimiser.head_learning_rate=0", "run.max_steps=2"]
    options = [part for item in [*settings, *still] for part in ("--set", item)]
    code, _, err = relsdk("train", "score", *options)
    assert code == 0
    assert "relsdk: warning: no step had a better mean_ap on dev than the start" in err
    assert "relsdk: warning: the score model hardly tells levels apart: QWK" in err
    assert "run.seed" in err
    kept = json.loads((tmp_path / "run/result.json").read_text())
    assert [warning.split(":")[0] in err for warning in kept["warnings"]] == [True, True]


MINING = ["loss.hard_negatives=2", "loss.queue=64", "loss.momentum=0.9", "loss.ordinal=0.5"]


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["run.precision=bf16"],
        ["run.accumulation=2", "run.chunk=8"],
        ["run.precision=bf16", "run.chunk=8", "model.dropout=0.0"],
        MINING,
    ],
    ids=["fp32", "bf16", "accumulation and chunks", "chunks in bf16", "mining"],
)
def test_resume_is_exact(settings, tmp_path, extra):
    """Ten steps equal five, a stop inside the epoch, and five more: bit for bit, dropout included."""
    common = [*settings, *extra, "run.checkpoint_every=5"]
    whole = load_config(EmbedConfig, None, common)
    train_embed(whole)
    torch.manual_seed(99)  # whatever happened in between

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 7:  # two steps after the checkpoint; they are done again
            raise Stop

    halves = replace(whole, run=replace(whole.run, output=str(tmp_path / "halves")))
    with pytest.raises(Stop):
        train_embed(halves, on_step=stop)
    torch.manual_seed(5)
    train_embed(halves, resume=True)
    assert same(weights(tmp_path / "run" / "last"), weights(tmp_path / "halves" / "last"))
    logs = [list(read_log(tmp_path / name / "log.jsonl")) for name in ("run", "halves")]
    times = {"rows_per_second"}
    one, other = ([{k: v for k, v in line.items() if k not in times} for line in log] for log in logs)
    assert one == other


def test_epochs_of_different_length_are_trained_to_their_end_and_resumed_exactly(files, settings, tmp_path):
    """Pairs of a query stay together, so an epoch has a batch more or less than the one before."""
    left = Counter()
    uneven = []
    for pair in read_pairs(files / "train.jsonl"):
        left[pair.query] += 1
        if left[pair.query] <= 1 + 5 * len(left) % 16:
            uneven.append(pair)
    write_pairs(tmp_path / "uneven.jsonl", uneven[:400])
    extra = [f"data.train={tmp_path / 'uneven.jsonl'}", "run.max_steps=0", "run.epochs=6"]
    config = load_config(EmbedConfig, None, [*settings, *extra, "run.checkpoint_every=7"])
    splits = load_splits(config.data, 0)
    encoder = TextEncoder.load(Path(config.model.checkpoint))
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
    lengths = [len(objective.batches(epoch)) for epoch in range(6)]
    assert len(set(lengths)) > 1
    result = train_embed(config)
    assert result.steps == sum(lengths)
    lines = list(read_log(tmp_path / "run/log.jsonl"))
    ends = np.cumsum(lengths).tolist()
    assert [line["step"] for line in lines if line["kind"] == "dev"] == [0, *ends]  # after each epoch
    assert [path.name for path in (tmp_path / "run").glob("state-*")] == [f"state-{ends[-1]:08d}"]

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        assert steps == ends[-1]
        if step == ends[-2] - 1:
            raise Stop

    halves = replace(config, run=replace(config.run, output=str(tmp_path / "halves")))
    with pytest.raises(Stop):
        train_embed(halves, on_step=stop)
    train_embed(halves, resume=True)
    assert same(weights(tmp_path / "run/last"), weights(tmp_path / "halves/last"))


def test_a_folder_that_is_no_run_is_not_resumed_into(settings, toy_checkpoint, tmp_path):
    checkpoint = shutil.copytree(toy_checkpoint, tmp_path / "checkpoint")
    (tmp_path / "mine/best").mkdir(parents=True)
    (tmp_path / "mine/best/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder, message in (
        (checkpoint, "no folder of a run"),
        (tmp_path / "mine", "no folder of a run"),
        (tmp_path / "file", "is a file"),
    ):
        config = load_config(EmbedConfig, None, [*settings, f"run.output={folder}"])
        with pytest.raises(InputError, match=message):
            train_embed(config, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_that_failed_at_the_end_is_made_good(settings, tmp_path, monkeypatch):
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=4", "run.checkpoint_every=2"])
    original = EmbeddingObjective.save
    calls = []

    def save(self, folder):
        calls.append(folder.name)
        if sum("last" in name for name in calls) == 2:
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(EmbeddingObjective, "save", save)
    with pytest.raises(TrainingError, match=r"last cannot be written.*go on with --resume"):
        train_embed(config)
    monkeypatch.setattr(EmbeddingObjective, "save", original)
    whole = replace(config, run=replace(config.run, output=str(tmp_path / "whole")))
    result = train_embed(whole)
    assert train_embed(config, resume=True).steps == 4
    assert same(weights(tmp_path / "run/last"), weights(tmp_path / "whole/last"))
    said = json.loads((tmp_path / "whole/result.json").read_text())
    assert train_embed(whole, resume=True).steps == result.steps
    assert json.loads((tmp_path / "whole/result.json").read_text()) == said  # not that of no step


def test_patience_ends_a_run_for_good(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(EmbeddingObjective, "evaluate", lambda self, device: {"mean_ap": 0.5})
    extra = ["run.patience=2", "run.evaluate_every=2", "run.checkpoint_every=5"]
    config = load_config(EmbedConfig, None, [*settings, *extra])
    for resume in (False, True, True):
        result = train_embed(config, resume=resume)
        assert (result.stopped, result.steps, result.best_step) == ("patience", 4, 0)
        assert len(result.warnings) == 1
        assert [path.name for path in (tmp_path / "run").glob("state-*")] == ["state-00000004"]
    assert weights(tmp_path / "run/last")


def test_what_a_kill_left_is_put_back_or_removed(settings, tmp_path):
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=2"])
    train_embed(config)
    run = tmp_path / "run"
    best = weights(run / "best")
    (run / "best").rename(run / ".best.old-0a1b2c3d")  # killed between two renames
    for name in (".state-00000002.new-abc_1234", ".best.new-0a1b2c3d", ".last.old-0a1b2c3d"):
        (run / name).mkdir()
    (run / ".last.lock").touch()
    train_embed(config, resume=True)
    assert not [path for path in run.iterdir() if path.name.startswith((".s", ".b", ".last"))]
    assert all(np.array_equal(value, best[name]) for name, value in weights(run / "best").items())


def test_each_statistic_is_a_mean_of_the_batches_that_have_it():
    class Objective:
        def loss(self, batch, device):
            value = torch.tensor(float(batch), requires_grad=True)
            return value, {"read": value.item()} if batch > 1 else {"repeat": 5.0}

    found = loop._backward(Objective(), torch.device("cpu"), nullcontext, [1, 2, 6])
    assert found == (3.0, {"repeat": 5.0, "read": 4.0})


def test_a_full_disk_met_by_the_log_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    log = RunLog(tmp_path / "log.jsonl")
    log.path = Path("/dev/full")
    with pytest.raises(TrainingError, match=r"No space left.*--resume"):
        log.write("step", 1, {"loss": 1.0})


def test_an_undefined_measure_is_null_in_the_log(tmp_path):
    RunLog(tmp_path / "log.jsonl").write("dev", 3, {"mean_ap": 0.12345678, "ndcg_at_10": float("nan")})
    assert (tmp_path / "log.jsonl").read_text() == (
        '{"kind": "dev", "step": 3, "mean_ap": 0.123457, "ndcg_at_10": null}\n'
    )


def test_what_some_batches_say_is_plotted(tmp_path):
    """Of a query model's batches, those that repeat a text have no accuracy."""
    log = RunLog(tmp_path / "log.jsonl")
    log.write("step", 1, {"loss": 1.0, "accuracy": 0.5})
    log.write("step", 2, {"loss": 1.0})
    log.write("dev", 2, {"log_likelihood": float("nan")})
    assert plot_run(tmp_path, tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for target, message in ((tmp_path / "nowhere/x.png", "is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=message):
            plot_run(tmp_path, target)


def test_chunks_give_the_same_gradient(settings):
    gradients = []
    for chunk in (0, 5):
        config = load_config(EmbedConfig, None, [*settings, f"run.chunk={chunk}", "loss.cosent=1"])
        splits = load_splits(config.data, 0)
        encoder = TextEncoder.load(Path(config.model.checkpoint))
        objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
        objective.module.eval()  # dropout draws differ between chunks and whole batches
        loss, _ = objective.loss(objective.batches(0)[0], torch.device("cpu"))
        loss.backward()
        gradients.append({name: p.grad for name, p in objective.module.named_parameters()})
    assert gradients[0]["encoder.transformer.embeddings.word_embeddings.weight"].abs().max() > 0.01
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_the_full_width_is_always_trained(settings):
    """A recipe's dimensions are those of narrower encoders."""
    for dims, expected in (("[]", (32,)), ("[8, 16]", (8, 16, 32)), ("[8, 32]", (8, 32))):
        config = load_config(EmbedConfig, None, [*settings, f"loss.matryoshka_dims={dims}"])
        splits = load_splits(config.data, 0)
        encoder = TextEncoder.load(Path(config.model.checkpoint))
        objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
        assert objective.dims == expected


def test_documents_judged_relevant_elsewhere_are_no_negatives(settings, files, tmp_path):
    """(a, x) and (b, y) share a batch, and y was judged relevant to a, too: in another batch."""
    write_pairs(
        tmp_path / "train.jsonl",
        [
            LabelledPair(query, Document(title, title), level)
            for query, title, level in [("a", "x", 3), ("b", "y", 3), ("a", "y", 2), ("b", "x", 0)]
        ],
    )
    overrides = [*settings, f"data.train={tmp_path / 'train.jsonl'}", "run.group=false", "run.batch_size=2"]
    config = load_config(EmbedConfig, None, overrides)
    splits = load_splits(config.data, 0)
    encoder = TextEncoder.load(Path(config.model.checkpoint))
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
    queries, documents = torch.tensor([0, 1]), torch.tensor([0, 1])  # a, b and x, y
    assert objective._positives(queries, documents).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(("kind", "task"), [(EmbedConfig, train_embed), (ScoreConfig, train_score)])
def test_a_dev_split_without_a_level_is_refused_and_nothing_is_trained(settings, tmp_path, files, kind, task):
    """Labels 0-2 that nobody mapped to levels: no checkpoint would ever be the best."""
    for split in ("train", "dev"):
        pairs = read_pairs(files / f"{split}.jsonl")
        thinned = [replace(pair, level=min(pair.level, RelevanceLevel.MOSTLY)) for pair in pairs]
        write_pairs(tmp_path / f"{split}.jsonl", thinned)
        settings = [*settings, f"data.{split}={tmp_path / split}.jsonl", "run.max_steps=1"]
    with pytest.raises(InputError, match=r"no pair of level 3.*data\.label_map"):
        task(load_config(kind, None, settings))
    assert not (tmp_path / "run").exists()
    task(load_config(kind, None, [*settings, "data.label_map=[0, 1, 3]"]))
    assert (tmp_path / "run/best").is_dir()


def test_another_run_or_architecture_is_refused(settings, tmp_path, checkpoint_factory):
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=2"])
    train_embed(config)
    with pytest.raises(InputError, match="is not empty"):
        train_embed(config)
    said = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(InputError, match="another configuration"):
        train_embed(replace(config, loss=replace(config.loss, temperature=0.1)), resume=True)
    assert (tmp_path / "run/config.json").read_bytes() == said  # where the message sends the reader
    wide = checkpoint_factory(tmp_path / "wide", hidden=48)
    both = r"checkpoint of bert \(2 layers, 32 wide, .* and this run trains bert \(2 layers, 48 wide, "
    with pytest.raises(InputError, match=both):
        train_embed(replace(config, model=replace(config.model, checkpoint=str(wide))), resume=True)


def test_other_documents_under_the_same_queries_and_labels_are_other_data(settings, tmp_path):
    def pairs(*documents):
        return [
            LabelledPair(query, Document(id=document, title=document), RelevanceLevel(level))
            for query, document, level in zip("甲甲乙", documents, (3, 0, 3), strict=True)
        ]

    write_pairs(tmp_path / "one.jsonl", pairs("一", "二", "一"))
    write_pairs(tmp_path / "other.jsonl", pairs("一", "二", "二"))
    settings = [*settings, "run.max_steps=2", "run.batch_size=2"]
    train_embed(load_config(EmbedConfig, None, [*settings, f"data.train={tmp_path / 'one.jsonl'}"]))
    with pytest.raises(InputError, match="other data"):
        train_embed(
            load_config(EmbedConfig, None, [*settings, f"data.train={tmp_path / 'other.jsonl'}"]), resume=True
        )


def test_a_training_that_has_ended_is_not_repeated(settings, tmp_path):
    """Its states take the most space, and whoever wants the checkpoint only removes them."""
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=4"])
    result = train_embed(config)
    for state in (tmp_path / "run").glob("state-*"):
        shutil.rmtree(state)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert train_embed(config, resume=True) == result
    assert {path: path.read_bytes() for path in before} == before


def test_time_and_throughput_are_those_of_all_tries(settings, tmp_path):
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=6", "run.checkpoint_every=1"])

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 4:
            raise Stop

    with pytest.raises(Stop):
        train_embed(config, on_step=stop)  # three steps are kept
    result = train_embed(config, resume=True)
    steps = [line for line in read_log(tmp_path / "run/log.jsonl") if line["kind"] == "step"]
    assert result.seconds * result.rows_per_second == pytest.approx(6 * 32)
    assert len(steps) == 6
    (tmp_path / "run/result.json").unlink()  # killed before it was written
    again = train_embed(config, resume=True)
    assert (again.steps, again.seconds, again.best) == (6, result.seconds, result.best)
    assert json.loads((tmp_path / "run/result.json").read_text())["seconds"] == result.seconds


def test_the_rate_that_is_logged_is_the_one_that_was_used(settings, tmp_path):
    train_embed(load_config(EmbedConfig, None, [*settings, "run.max_steps=4", "optimiser.warmup=0.5"]))
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run/log.jsonl") if line["kind"] == "step"]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])  # half a cosine from step 2 on


def test_a_checkpoint_says_what_made_it(settings, files, tmp_path):
    train_embed(load_config(EmbedConfig, None, [*settings, "run.max_steps=2"]))
    for folder in ("best", "last"):
        said = json.loads((tmp_path / "run" / folder / "training.json").read_text())
        assert said["task"] == "embed"
        assert said["precision"] == "fp32"
        assert said["settings"]["optimiser"]["learning_rate"] == 1e-3
        assert len(said["data"]) == 64
        assert str(tmp_path) not in json.dumps(said)
        assert str(files) not in json.dumps(said)
    from relsdk_export.encoder import export_encoder

    bundle = export_encoder(tmp_path / "run/best", tmp_path / "bundle", variants=["fp32"])
    assert bundle.provenance["training"] == said
    (tmp_path / "run/best/training.json").write_text("{")
    with pytest.raises(BundleError, match=r"training\.json is not readable JSON"):
        export_encoder(tmp_path / "run/best", tmp_path / "other", variants=["fp32"])
    assert not (tmp_path / "other").exists()


def test_another_precision_is_another_run(settings, monkeypatch):
    """What "auto" is depends on the machine."""
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=2", "run.precision=auto"])
    features = frozenset()
    monkeypatch.setattr(precision_module, "cpu_features", lambda: features)
    train_embed(config)
    features = frozenset({"avx512_bf16"})
    with pytest.raises(InputError, match="another configuration"):
        train_embed(config, resume=True)


@pytest.mark.parametrize("setting", ["run.chunk=8", "run.group=false"])
def test_a_setting_that_would_do_nothing_is_refused(settings, tmp_path, setting):
    with pytest.raises(InputError, match="would do nothing in this training"):
        train_score(load_config(ScoreConfig, None, [*settings, setting]))
    assert not (tmp_path / "run").exists()


def test_dimensions_above_the_encoders_width_are_left_out_and_said(settings, tmp_path):
    """The recipe's dimensions are of a 384-wide encoder."""
    config = load_config(EmbedConfig, Path("embed.toml"), [*settings, "run.max_steps=1"])
    assert max(config.loss.matryoshka_dims) == 384
    notes = []
    train_embed(config, on_note=notes.append)
    assert any("[64, 128, 256, 384] left out" in note and "32 dimensions" in note for note in notes)
    saved = json.loads((tmp_path / "run" / "best" / "config_sentence_transformers.json").read_text())
    assert saved["matryoshka_dims"] == [32]


def test_a_loss_that_is_not_finite_stops_and_spares_the_checkpoint(settings, tmp_path, monkeypatch):
    config = load_config(EmbedConfig, None, [*settings, "run.checkpoint_every=3"])
    original, calls = EmbeddingObjective.loss, []

    def loss(self, batch, device):
        calls.append(1)
        value, statistics = original(self, batch, device)
        return (value * float("nan") if len(calls) == 5 else value), statistics

    monkeypatch.setattr(EmbeddingObjective, "loss", loss)
    with pytest.raises(TrainingError, match=r"step 5: loss nan.*checkpoint of step 3 is intact"):
        train_embed(config)
    monkeypatch.setattr(EmbeddingObjective, "loss", original)
    assert train_embed(config, resume=True).steps == 10


@pytest.mark.parametrize(("times", "name"), [(0.5, "best"), (2.0, "state-00000010")])
def test_a_file_that_cannot_be_written_is_told_in_a_line(
    relsdk_on_small_disk, settings, toy_checkpoint, tmp_path, times, name
):
    """The weights are too large, or the state, which has three times as many numbers."""
    size = int(times * (toy_checkpoint / "model.safetensors").stat().st_size)
    overrides = [word for setting in settings for word in ("--set", setting)]
    done = relsdk_on_small_disk(size, "train", "embed", *overrides)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"run/{name} cannot be written" in done.stderr.splitlines()[-1]
    whole = {"best", "last"} if name != "best" else set()
    left = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert left == whole  # and nothing half of it


def test_a_full_disk_spares_the_checkpoint(settings, tmp_path, monkeypatch):
    config = load_config(EmbedConfig, None, [*settings, "run.checkpoint_every=3"])
    original, calls = checkpoint_module.save_file, []

    def full(tensors, path):
        calls.append(1)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        train_embed(config)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert [name for name in names if name.startswith("state")] == ["state-00000003"]
    monkeypatch.setattr(checkpoint_module, "save_file", original)
    assert train_embed(config, resume=True).steps == 10


def test_a_second_process_is_refused_and_changes_nothing(settings, tmp_path):
    train_embed(load_config(EmbedConfig, None, settings))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code = "import sys; from relsdk_training.engine.lock import lock_run; from pathlib import Path; "
    code += "lock = lock_run(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="in use by another process"):
            train_embed(load_config(EmbedConfig, None, settings), resume=True)
        other.kill()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert (
        train_embed(load_config(EmbedConfig, None, settings), resume=True).steps == 10
    )  # it died: free again


PROGRAM = """
import sys
from relsdk_training.config.settings import EmbedConfig
from relsdk_training.config.files import load_config
from relsdk_training.runs.run import train_embed
print("ready", flush=True)
result = train_embed(load_config(EmbedConfig, None, sys.argv[2:]), resume=sys.argv[1] == "resume")
print(result.stopped, result.steps, flush=True)
"""


def start(mode, settings):
    return subprocess.Popen(
        [*WITH_DEFAULT_SIGNALS, sys.executable, "-c", PROGRAM, mode, *settings],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptAfterStep():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_kill_9_and_ctrl_c_lose_at_most_the_steps_since_the_checkpoint(settings, tmp_path):
    settings = [*settings, "run.max_steps=400", "run.checkpoint_every=1", "run.evaluate_every=1000"]
    run = tmp_path / "run"
    for signal_number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = start("resume", settings)
        process.stdout.readline()
        log = run / "log.jsonl"
        before = sum(1 for _ in read_log(log)) if log.exists() else 0
        deadline = time.monotonic() + 120
        while not log.exists() or sum(1 for _ in read_log(log)) < before + 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal_number)
        out, _ = process.communicate(timeout=120)
        assert signal_number != signal.SIGTERM or out.startswith("terminated")
        steps = [line["step"] for line in read_log(log) if line["kind"] == "step"]
        states = sorted(run.glob("state-????????"))
        assert states
        assert int(states[-1].name[-8:]) >= steps[-1] - 1
        assert all((state / "state.json").exists() for state in states)
    assert out.startswith("interrupted")
    assert weights(run / "last")  # what a user exports is whole, too


def test_the_command_line(settings, tmp_path, relsdk, files, monkeypatch):
    config = tmp_path / "recipe.toml"
    config.write_text('[run]\nmax_steps = 3\nprecision = "fp32"\n[loss]\nself_contrast = false\n')
    arguments = [part for item in settings for part in ("--set", item) if "max_steps" not in item]
    pairs = [(a, b) for a, b in zip(arguments[::2], arguments[1::2], strict=False)]
    code, out, err = relsdk("train", "embed", config, *(part for pair in pairs for part in pair))
    assert code == 0, err
    assert "finished after 3 steps" in out
    assert "relsdk export encoder" in out
    assert "* self_contrast = False" in err
    code, out, err = relsdk("train", "plot", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "any_process", lambda flag, device: True)  # Ctrl-C before the first step
        again = [("--set", item) for item in settings if "run.output" not in item]
        again.append(("--set", f"run.output={tmp_path / 'stopped'}"))
        code, out, _ = relsdk("train", "embed", *(part for pair in again for part in pair))
    assert code == 130  # what follows && is not done
    assert "--resume" in out
    code, _, err = relsdk("train", "embed", "--set", "loss.temperatur=1")
    assert code == 2
    assert "did you mean 'temperature'" in err


def test_lora_trains_little_and_saves_a_whole_model(settings, tmp_path, toy_checkpoint):
    pytest.importorskip("peft")
    config = load_config(EmbedConfig, None, [*settings, "run.max_steps=3", "model.lora_rank=2"])
    train_embed(config)
    before, after = weights(toy_checkpoint), weights(tmp_path / "run" / "last")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.endswith("weight") and before[name].ndim == 2 for name in changed)


def test_lora_of_a_score_model_trains_the_head_whole(settings, tmp_path, toy_checkpoint):
    """It starts at random: low-rank updates of what is random are no head."""
    pytest.importorskip("peft")
    model = ScoreModel.load(toy_checkpoint, "categorical", lora_rank=2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.endswith("classifier.modules_to_save.default.weight") for name in trained)
    assert any(name.endswith("classifier.modules_to_save.default.bias") for name in trained)
    assert any("lora_A" in name and "attention" in name for name in trained)
    config = load_config(ScoreConfig, None, [*settings, "run.max_steps=3", "model.lora_rank=2"])
    train_score(config)
    saved = weights(tmp_path / "run/last")
    plain = ScoreModel.load(toy_checkpoint, "categorical").transformer.state_dict()
    assert saved.keys() == plain.keys()
    assert not torch.equal(saved["classifier.bias"], plain["classifier.bias"])


def test_a_text_that_occurs_twice_in_a_batch_is_encoded_once(files, toy_checkpoint):
    splits = load_splits(
        replace(EmbedConfig().data, train=str(files / "train.jsonl"), dev=str(files / "dev.jsonl")), 0
    )
    encoder = TextEncoder.load(toy_checkpoint, dropout=0.0)
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, LossConfig(), RunConfig(batch_size=32))
    batch = objective.batches(0)[0]
    rows, tokens = splits.train.query_of[batch], objective.train.queries
    assert len(np.unique(rows)) < len(rows)
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    vectors = objective._encode(encoder, tokens, rows, torch.device("cpu"))
    assert sum(seen) == len(np.unique(rows))
    for row, vector in zip(rows, vectors, strict=True):
        (alone,) = objective._encode(encoder, tokens, np.array([row]), torch.device("cpu"))
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=1e-4)
