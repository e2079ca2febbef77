"""Two processes under torchrun train as one with the same batches does."""

import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from relsdk.formats import write_pairs
from relsdk.sample_world import generate
from relsdk_training.processes import any_process, is_first, share, world_size
from relsdk_training.run_log import read_log


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
