"""The training loop and a run's folder, on a linear model: exact resume, locks, logs, full disks, kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import InputError, LockedError, TrainingError
from relsdk_training.engine import checkpoint as checkpoint_module
from relsdk_training.engine import loop
from relsdk_training.engine import precision as precision_module
from relsdk_training.engine._log import RunLog, read_log
from relsdk_training.engine.interrupt import InterruptAfterStep
from relsdk_training.engine.plot import plot_run
from tests.default_signals import WITH_DEFAULT_SIGNALS
from tests.training.linear_objective import (
    LinearObjective,
    into,
    linear_config,
    train_linear,
    train_linear_until,
)


@pytest.fixture
def output(tmp_path):
    """The folder that a run makes."""
    return tmp_path / "run"


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def steps_of(output):
    return [line for line in read_log(output / "log.jsonl") if line["kind"] == "step"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_learns_and_logs_each_step(output):
    result = train_linear(linear_config(output, max_steps=60, evaluate_every=20))
    lines = list(read_log(output / "log.jsonl"))
    dev = [line for line in lines if line["kind"] == "dev"]
    assert [line["step"] for line in dev] == [0, 20, 40, 60]
    assert result.best["mean_ap"] > dev[0]["mean_ap"] + 0.3
    assert (result.warnings, result.stopped) == ((), "finished")
    expected = {"loss", "gradient_norm", "learning_rate", "rows_per_second", "seen"}
    assert all(expected <= set(line) for line in steps_of(output))


@pytest.mark.parametrize(
    "extra",
    [{}, {"precision": "bf16"}, {"accumulation": 2}],
    ids=["fp32", "bf16", "accumulation"],
)
def test_resume_is_exact(output, tmp_path, extra):
    """Ten steps equal five, a stop inside the epoch, and five more: bit for bit, dropout included."""
    whole = linear_config(output, checkpoint_every=5, **extra)
    train_linear(whole)
    torch.manual_seed(99)  # whatever happened in between
    halves = into(whole, tmp_path / "halves")
    train_linear_until(7, halves)  # two steps after the checkpoint; they are done again
    torch.manual_seed(5)
    train_linear(halves, resume=True)
    assert same(weights(output / "last"), weights(tmp_path / "halves" / "last"))
    logs = [list(read_log(folder / "log.jsonl")) for folder in (output, tmp_path / "halves")]
    times = {"rows_per_second"}
    one, other = ([{k: v for k, v in line.items() if k not in times} for line in log] for log in logs)
    assert one == other


def test_epochs_of_different_length_are_trained_to_their_end_and_resumed_exactly(output, tmp_path):
    config = linear_config(output, max_steps=0, epochs=6, checkpoint_every=7)
    lengths = [len(LinearObjective(config.run).batches(epoch)) for epoch in range(6)]
    assert len(set(lengths)) > 1
    assert train_linear(config).steps == sum(lengths)
    ends = np.cumsum(lengths).tolist()
    dev = [line["step"] for line in read_log(output / "log.jsonl") if line["kind"] == "dev"]
    assert dev == [0, *ends]  # after each epoch
    assert [path.name for path in output.glob("state-*")] == [f"state-{ends[-1]:08d}"]
    halves = into(config, tmp_path / "halves")
    train_linear_until(ends[-2] - 1, halves)
    train_linear(halves, resume=True)
    assert same(weights(output / "last"), weights(tmp_path / "halves/last"))


def test_a_checkpoint_that_failed_at_the_end_is_made_good(output, tmp_path, monkeypatch):
    config = linear_config(output, max_steps=4, checkpoint_every=2)
    original = LinearObjective.save
    calls = []

    def save(self, folder):
        calls.append(folder.name)
        if sum("last" in name for name in calls) == 2:
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(LinearObjective, "save", save)
    with pytest.raises(TrainingError, match=r"last cannot be written.*go on with --resume"):
        train_linear(config)
    monkeypatch.setattr(LinearObjective, "save", original)
    whole = into(config, tmp_path / "whole")
    result = train_linear(whole)
    assert train_linear(config, resume=True).steps == 4
    assert same(weights(output / "last"), weights(tmp_path / "whole/last"))
    said = json.loads((tmp_path / "whole/result.json").read_text())
    assert train_linear(whole, resume=True).steps == result.steps
    assert json.loads((tmp_path / "whole/result.json").read_text()) == said  # not that of no step


def test_patience_ends_a_run_for_good(output, monkeypatch):
    monkeypatch.setattr(LinearObjective, "evaluate", lambda self, device: {"mean_ap": 0.5})
    config = linear_config(output, patience=2, evaluate_every=2, checkpoint_every=5)
    for resume in (False, True, True):
        result = train_linear(config, resume=resume)
        assert (result.stopped, result.steps, result.best_step) == ("patience", 4, 0)
        assert len(result.warnings) == 1
        assert [path.name for path in output.glob("state-*")] == ["state-00000004"]
    assert weights(output / "last")


def test_what_a_kill_left_is_put_back_or_removed(output):
    config = linear_config(output, max_steps=2)
    train_linear(config)
    best = weights(output / "best")
    (output / "best").rename(output / ".best.old-0a1b2c3d")  # killed between two renames
    for name in (".state-00000002.new-abc_1234", ".best.new-0a1b2c3d", ".last.old-0a1b2c3d"):
        (output / name).mkdir()
    (output / ".last.lock").touch()
    train_linear(config, resume=True)
    assert not [path for path in output.iterdir() if path.name.startswith((".s", ".b", ".last"))]
    assert same(weights(output / "best"), best)


def test_a_training_that_has_ended_is_not_repeated(output):
    """Its states take the most space, and whoever wants the checkpoint only removes them."""
    config = linear_config(output, max_steps=4)
    result = train_linear(config)
    for state in output.glob("state-*"):
        shutil.rmtree(state)
    before = contents(output)
    assert train_linear(config, resume=True) == result
    assert contents(output) == before


def test_another_configuration_or_other_data_is_refused(output):
    config = linear_config(output, max_steps=2)
    train_linear(config)
    said = (output / "config.json").read_bytes()
    other = replace(config, optimiser=replace(config.optimiser, learning_rate=0.1))
    with pytest.raises(InputError, match="another configuration"):
        train_linear(other, resume=True)
    with pytest.raises(InputError, match="other data"):
        train_linear(config, resume=True, data=["one more"])
    assert (output / "config.json").read_bytes() == said  # where the message sends the reader


def test_another_precision_is_another_run(output, monkeypatch):
    """What "auto" is depends on the machine."""
    config = linear_config(output, max_steps=2, precision="auto")
    features = frozenset()
    monkeypatch.setattr(precision_module, "cpu_features", lambda: features)
    train_linear(config)
    features = frozenset({"avx512_bf16"})
    with pytest.raises(InputError, match="another configuration"):
        train_linear(config, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"identity"', "not readable JSON"), ('{"identity": "x"}', "missing required field `processes`")],
)
def test_a_damaged_state_is_named(output, content, message):
    config = linear_config(output, max_steps=2)
    train_linear(config)
    (output / "result.json").write_text("[]")  # damaged, too: the state says where the run is
    (state,) = output.glob("state-*/state.json")
    state.write_text(content)
    with pytest.raises(InputError, match=rf"state\.json.*{message}.*remove .*start again"):
        train_linear(config, resume=True)


def test_time_and_throughput_are_those_of_all_tries(output):
    config = linear_config(output, max_steps=5, checkpoint_every=1)
    train_linear_until(4, config)  # three steps are kept
    result = train_linear(config, resume=True)
    assert result.seconds * result.rows_per_second == pytest.approx(5 * 8)
    assert len(steps_of(output)) == 5
    (output / "result.json").unlink()  # killed before it was written
    again = train_linear(config, resume=True)
    assert (again.steps, again.seconds, again.best) == (5, result.seconds, result.best)
    assert json.loads((output / "result.json").read_text())["seconds"] == result.seconds


def test_the_rate_that_is_logged_is_the_one_that_was_used(output):
    config = linear_config(output, max_steps=4)
    train_linear(replace(config, optimiser=replace(config.optimiser, learning_rate=1e-3, warmup=0.5)))
    rates = [line["learning_rate"] for line in steps_of(output)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])  # half a cosine from step 2 on


def test_a_loss_that_is_not_finite_stops_and_spares_the_checkpoint(output, monkeypatch):
    config = linear_config(output, checkpoint_every=3)
    original, calls = LinearObjective.loss, []

    def loss(self, batch, device):
        calls.append(1)
        value, statistics = original(self, batch, device)
        return (value * float("nan") if len(calls) == 5 else value), statistics

    monkeypatch.setattr(LinearObjective, "loss", loss)
    with pytest.raises(TrainingError, match=r"step 5: loss nan.*checkpoint of step 3 is intact"):
        train_linear(config)
    monkeypatch.setattr(LinearObjective, "loss", original)
    assert train_linear(config, resume=True).steps == 10


def test_a_full_disk_spares_the_checkpoint(output, monkeypatch):
    config = linear_config(output, checkpoint_every=3)
    original, calls = checkpoint_module.save_file, []

    def full(tensors, path):
        calls.append(1)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        train_linear(config)
    names = sorted(path.name for path in output.iterdir())
    assert [name for name in names if name.startswith("state")] == ["state-00000003"]
    monkeypatch.setattr(checkpoint_module, "save_file", original)
    assert train_linear(config, resume=True).steps == 10


def test_a_second_process_is_refused_and_changes_nothing(output):
    config = linear_config(output)
    train_linear(config)
    before = contents(output)
    code = "import sys; from relsdk_training.engine.lock import lock_run; from pathlib import Path; "
    code += "lock = lock_run(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="in use by another process"):
            train_linear(config, resume=True)
        other.kill()
    assert contents(output) == before
    assert train_linear(config, resume=True).steps == 10  # it died: free again


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


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptAfterStep():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


PROGRAM = """
import sys
import time
from tests.training.linear_objective import linear_config, train_linear

print("ready", flush=True)
config = linear_config(sys.argv[1], max_steps=400, checkpoint_every=1, evaluate_every=1000)
result = train_linear(config, resume=True, on_step=lambda step, steps, statistics: time.sleep(0.02))
print(result.stopped, result.steps, flush=True)
"""


@pytest.mark.slow
def test_kill_9_and_ctrl_c_lose_at_most_the_steps_since_the_checkpoint(output):
    for signal_number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [*WITH_DEFAULT_SIGNALS, sys.executable, "-c", PROGRAM, str(output)],
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        log = output / "log.jsonl"
        before = sum(1 for _ in read_log(log)) if log.exists() else 0
        deadline = time.monotonic() + 120
        while not log.exists() or sum(1 for _ in read_log(log)) < before + 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal_number)
        out, _ = process.communicate(timeout=120)
        assert signal_number != signal.SIGTERM or out.startswith("terminated")
        steps = [line["step"] for line in steps_of(output)]
        states = sorted(output.glob("state-????????"))
        assert states
        assert int(states[-1].name[-8:]) >= steps[-1] - 1
        assert all((state / "state.json").exists() for state in states)
    assert out.startswith("interrupted")
    assert weights(output / "last")  # what a user exports is whole, too
