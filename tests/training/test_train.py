"""Toy models trained end to end: they learn, resume exactly, and export what dev measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import BundleError, InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import RelevanceLevel
from relsdk.models.open import open_pair_model
from relsdk.records import Document, LabelledPair
from relsdk.tools.evaluation import evaluate
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import EmbedConfig, ScoreConfig
from relsdk_training.engine import loop
from relsdk_training.engine._log import read_log
from relsdk_training.runs.embed import train_embed
from relsdk_training.runs.score import train_score


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs of the sample world, split by query."""
    world = generate(seed=11, n_documents=200, n_queries=80, pairs_per_query=8)
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train.jsonl", world.split("train"))
    write_pairs(folder / "dev.jsonl", world.split("test"))  # each model is measured on them
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

    extra = ["run.max_steps=45", "loss.cosent=1", "loss.matryoshka_dims=[8, 32]", "run.evaluate_every=15"]
    extra += ["optimiser.learning_rate=3e-3", "run.batch_size=64", "model.dropout=0.0"]
    result = train_embed(load_config(EmbedConfig, None, [*settings, *extra]))
    lines = list(read_log(tmp_path / "run" / "log.jsonl"))
    dev = [line for line in lines if line["kind"] == "dev"]
    assert [line["step"] for line in dev] == [0, 15, 30, 45]
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

    extra = [f"model.head={head}", "run.max_steps=20", "run.evaluate_every=10", "model.max_tokens=64"]
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
        ["run.accumulation=2", "run.chunk=4", *MINING],
        pytest.param(["run.precision=bf16", "run.chunk=4", "model.dropout=0.0"], marks=pytest.mark.slow),
    ],
    ids=["mining, accumulation and chunks", "chunks in bf16"],
)
def test_resume_is_exact(settings, tmp_path, extra):
    """Six steps equal three, a stop inside the epoch, and three more: bit for bit, dropout included."""
    common = [*settings, *extra, "run.max_steps=6", "run.checkpoint_every=3"]
    common += ["model.max_tokens=16", "run.batch_size=8"]
    whole = load_config(EmbedConfig, None, common)
    train_embed(whole)
    torch.manual_seed(99)  # whatever happened in between

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 5:  # two steps after the checkpoint; they are done again
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


@pytest.mark.parametrize(
    ("times", "name"), [(0.5, "best"), pytest.param(2.0, "state-00000010", marks=pytest.mark.slow)]
)
def test_a_file_that_cannot_be_written_is_told_in_a_line(
    relsdk_on_small_disk, settings, toy_checkpoint, tmp_path, times, name
):
    """The weights are too large, or the state, which has three times as many numbers."""
    size = int(times * (toy_checkpoint / "model.safetensors").stat().st_size)
    overrides = [word for setting in settings for word in ("--set", setting)]
    code, _, err = relsdk_on_small_disk(size, "train", "embed", *overrides)
    assert code == 2, err
    assert "Traceback" not in err
    assert f"run/{name} cannot be written" in err.splitlines()[-1]
    whole = {"best", "last"} if name != "best" else set()
    left = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert left == whole  # and nothing half of it


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
