"""Two processes under torchrun train as one with the same batches does."""

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from relsdk.formats import write_pairs
from relsdk_sample import generate
from relsdk_training.engine._log import read_log
from relsdk_training.engine.processes import any_process, is_first, share, world_size


def test_one_process_is_alone():
    assert share([1, 2, 3]) == [1, 2, 3]
    assert (world_size(), is_first(), any_process(True, torch.device("cpu"))) == (1, True, True)


@pytest.mark.slow
def test_two_processes_equal_one(toy_checkpoint, tmp_path):
    world = generate(seed=5, n_documents=200, n_queries=40)
    for name, split in (("train", "train"), ("dev", "test")):
        write_pairs(tmp_path / f"{name}.jsonl", world.split(split))
    settings = {
        "data.train": tmp_path / "train.jsonl",
        "data.dev": tmp_path / "dev.jsonl",
        "model.checkpoint": toy_checkpoint,
        "model.dropout": 0.0,
        "run.batch_size": 16,
        "run.max_steps": 6,
        "run.precision": "fp32",
        "run.group": "false",
        "run.threads": 1,
        "loss.hard_negatives": 2,
        "loss.cosent": 1.0,
    }
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for name, start in (("one", []), ("two", torchrun)):
        output = f"run.output={tmp_path / name}"
        done = subprocess.run(
            [sys.executable, *start, "-m", "relsdk", "train", "embed", *arguments, "--set", output],
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: relsdk export") == 1  # one process speaks
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    started = load_file(toy_checkpoint / "model.safetensors")
    # Adam moves a weight whose gradient is all rounding by a whole step, so the whole movement is compared.
    moved, apart = (
        math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))
        for other in (started, two)
    )
    assert 0 < apart < 0.05 * moved
    losses = [
        [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "step"]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 6


STOPPED = """
import sys
from relsdk_training.config.settings import ScoreConfig
from relsdk_training.config.files import load_config
from relsdk_training.runs.score import train_score

def stop(step, steps, statistics):
    if step == int(sys.argv[2]):
        raise KeyboardInterrupt

try:
    train_score(load_config(ScoreConfig, None, sys.argv[3:]), resume=sys.argv[1] == "resume", on_step=stop)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.slow
def test_two_processes_resume_exactly(toy_checkpoint, tmp_path):
    """Each goes on with random numbers of its own: the toy has dropout."""
    world = generate(seed=5, n_documents=200, n_queries=40)
    for name, split in (("train", "train"), ("dev", "test")):
        write_pairs(tmp_path / f"{name}.jsonl", world.split(split))
    settings = [
        f"data.train={tmp_path / 'train.jsonl'}",
        f"data.dev={tmp_path / 'dev.jsonl'}",
        f"model.checkpoint={toy_checkpoint}",
        "run.batch_size=16",
        "run.max_steps=6",
        "run.precision=fp32",
        "run.checkpoint_every=2",
        "run.threads=1",
    ]
    (tmp_path / "stopped.py").write_text(STOPPED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    alone = [sys.executable, str(tmp_path / "stopped.py"), "resume", "0", *settings]
    for name, mode, last in (("whole", "start", 0), ("halves", "start", 3), ("halves", "resume", 0)):
        if mode == "resume":
            done = subprocess.run([*alone, f"run.output={tmp_path / name}"], capture_output=True, text=True)
            assert "is of 2 processes, and here are 1" in done.stderr
        command = [*torchrun, str(tmp_path / "stopped.py"), mode, str(last), *settings]
        done = subprocess.run(
            [*command, f"run.output={tmp_path / name}"], capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
    whole, halves = (load_file(tmp_path / name / "last/model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
