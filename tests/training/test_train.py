"""Toy models trained end to end: they learn, resume exactly, survive kills, and export what dev measured."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import InputError, LockedError
from relsdk.evaluation import evaluate
from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import RelevanceLevel
from relsdk.pair_models import open_pair_model
from relsdk.records import Document, LabelledPair
from relsdk.sample_world import generate
from relsdk_training import checkpoint as checkpoint_module
from relsdk_training.config import EmbedConfig, LossConfig, RunConfig, ScoreConfig
from relsdk_training.config_files import load_config
from relsdk_training.embedding_objective import EmbeddingObjective
from relsdk_training.encoder import TextEncoder
from relsdk_training.errors import TrainingError
from relsdk_training.run_log import read_log
from relsdk_training.tasks import load_splits, train_embed, train_score


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


MINING = ["loss.hard_negatives=2", "loss.queue=64", "loss.momentum=0.9", "loss.ordinal=0.5"]


@pytest.mark.parametrize(
    "extra",
    [[], ["run.precision=bf16"], ["run.accumulation=2", "run.chunk=8"], MINING],
    ids=["fp32", "bf16", "accumulation and chunks", "mining"],
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
    with pytest.raises(InputError, match="another configuration"):
        train_embed(replace(config, loss=replace(config.loss, temperature=0.1)), resume=True)
    wide = checkpoint_factory(tmp_path / "wide", hidden=48)
    with pytest.raises(InputError, match=r"numbers, and this run trains .* numbers"):
        train_embed(replace(config, model=replace(config.model, checkpoint=str(wide))), resume=True)


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
    code = "import sys; from relsdk_training.run_lock import lock_run; from pathlib import Path; "
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
from relsdk_training.config import EmbedConfig
from relsdk_training.config_files import load_config
from relsdk_training.tasks import train_embed
print("ready", flush=True)
result = train_embed(load_config(EmbedConfig, None, sys.argv[2:]), resume=sys.argv[1] == "resume")
print(result.stopped, result.steps, flush=True)
"""


def start(mode, settings):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, *settings], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_kill_9_and_ctrl_c_lose_at_most_the_steps_since_the_checkpoint(settings, tmp_path):
    settings = [*settings, "run.max_steps=400", "run.checkpoint_every=1", "run.evaluate_every=1000"]
    run = tmp_path / "run"
    for signal_number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
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
        steps = [line["step"] for line in read_log(log) if line["kind"] == "step"]
        states = sorted(run.glob("state-????????"))
        assert states
        assert int(states[-1].name[-8:]) >= steps[-1] - 1
        assert all((state / "state.json").exists() for state in states)
    assert out.startswith("interrupted")
    assert weights(run / "last")  # what a user exports is whole, too


def test_the_command_line(settings, tmp_path, relsdk, files):
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


def test_defaults_are_what_the_paper_says():
    assert LossConfig().temperature == 0.03
    assert LossConfig().max_ratio == 0.95
    assert RunConfig().seed == 0


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
