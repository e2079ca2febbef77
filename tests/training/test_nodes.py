"""Two nodes of torchrun, each in a folder of its own, train what two processes of one node train."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk_sample import generate
from relsdk_sample.annotator import annotate
from relsdk_training.data.node_files import read_rows
from relsdk_training.data.pairs import load_pairs
from relsdk_training.engine.processes import take_tensors, together, value_of
from relsdk_training.runs.run import _check_equal

CUT = 100  # of the training pairs, where the file of node 0 ends: nodes may have files of any length
LIMIT = 900  # seconds, on a machine that is busy


@pytest.fixture(scope="module")
def nodes(toy_checkpoint, tmp_path_factory):
    """Three folders: `one` has all data, `node-0` and `node-1` have their part, as disks of two machines."""
    root = tmp_path_factory.mktemp("nodes")
    world = generate(seed=5, n_documents=200, n_queries=40)
    dev = world.split("test")
    train, more = world.split("train")[:-40], world.split("train")[-40:]
    for name in ("one", "node-0", "node-1"):
        (root / name).mkdir()
        shutil.copytree(toy_checkpoint, root / name / "toy")
        write_pairs(root / name / "dev.jsonl", dev)
        write_pairs(root / name / "weak.jsonl", annotate([*dev, *more]))
    write_pairs(root / "one/train.jsonl", train)
    write_pairs(root / "node-0/train-0.jsonl", train[:CUT])
    write_pairs(root / "node-1/train-1.jsonl", train[CUT:])
    return root


SETTINGS = {
    "model.checkpoint": "toy",
    "data.dev": "dev.jsonl",
    "run.batch_size": 16,
    "run.max_steps": 6,
    "run.checkpoint_every": 2,
    "run.precision": "fp32",
    "run.threads": 1,
    "run.timeout": 60,
}
COMMANDS = {
    "embed": {
        "loss.hard_negatives": 2,
        "loss.cosent": 1.0,
        "loss.wasserstein": 1.0,
        "data.weak": "['weak.jsonl']",
        "data.weak_weight": 0.5,
        "data.human_last": 0.3,
    },
    "score": {"teacher.checkpoints": "['toy']", "teacher.pairs": "['{pairs}']"},
    "distill": {"model.layers": "[0]", "distill.pairs": "['{pairs}']"},
}
# Trains one after the other; a process may end or fall silent after the third step.
SCRIPT = """
import json, os, signal, sys
from importlib import import_module
from relsdk.errors import RelsdkError
from relsdk_training.config import settings
from relsdk_training.config.files import load_config

def stop(step, steps, statistics):
    if step == 3 and how and os.environ["RANK"] == "1":
        open("pid", "w").write(str(os.getpid()))
        os.kill(os.getpid(), getattr(signal, how))

for command, overrides, how, resume in json.loads(sys.argv[1]):
    config = load_config(getattr(settings, f"{command.title()}Config"), None, overrides)
    train = getattr(import_module(f"relsdk_training.runs.{command}"), f"train_{command}")
    try:
        print("DONE", train(config, resume=resume, on_step=stop).steps, flush=True)
    except RelsdkError as error:
        print("ENDED", type(error).__name__, error, flush=True)
        if "lost another one" in str(error):
            sys.exit(2)
"""


def one_training(command, output, pairs, *, how="", resume=False, **changes):
    """A training for `SCRIPT`."""
    values = {**SETTINGS, **COMMANDS[command], "run.output": output, **changes}
    if command != "distill":
        values["data.train"] = pairs
    return command, [f"{key}={value}".replace("{pairs}", pairs) for key, value in values.items()], how, resume


def torchrun(folder, options, trainings):
    """Start an agent of torchrun in a folder."""
    (folder / "train.py").write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", *options, "train.py", json.dumps(trainings)]
    with (folder / "out.txt").open("w") as out:
        return subprocess.Popen(start, cwd=folder, stdout=out, stderr=subprocess.STDOUT)


def train_on_two(root, *trainings, ends=lambda: None):
    """Run one agent in each node's folder: exit codes and what they wrote, node by node."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=localhost", f"--master-port={port}"]
    agents = []
    try:
        for number in range(2):
            of_node = [*options, f"--node-rank={number}"]
            agents.append(torchrun(root / f"node-{number}", of_node, trainings))
        try:
            codes = [agents[0].wait(LIMIT)]
        finally:
            ends()
        codes.append(agents[1].wait(LIMIT))
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    return codes, [(root / f"node-{number}/out.txt").read_text() for number in range(2)]


@pytest.fixture(scope="module")
def whole(nodes):
    """What two processes of one node train with all data in one file, by command."""
    trainings = [one_training(command, command, "train.jsonl") for command in COMMANDS]
    agent = torchrun(nodes / "one", ["--nproc-per-node=2", "--standalone"], trainings)
    assert agent.wait(LIMIT) == 0, (nodes / "one/out.txt").read_text()
    return {command: weights(nodes / "one" / command) for command in COMMANDS}


def weights(folder):
    return load_file(folder / "last/model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_nodes_with_files_of_their_own_train_what_one_node_does(nodes, whole):
    """And only the first of them needs a place for the output."""
    trainings = [one_training(command, command, "train-{node}.jsonl") for command in COMMANDS]
    codes, outputs = train_on_two(nodes, *trainings)
    assert codes == [0, 0], outputs
    for command in COMMANDS:
        assert same(whole[command], weights(nodes / "node-0" / command))
        assert not (nodes / "node-1" / command).exists()


@pytest.mark.slow
def test_a_killed_node_ends_the_others_and_a_resume_is_exact(nodes, whole):
    first = one_training("embed", "killed", "train-{node}.jsonl", how="SIGKILL")
    codes, outputs = train_on_two(nodes, first)
    assert 0 not in codes
    assert "ENDED TrainingError process 0 of 2 lost another one" in outputs[0]
    assert (nodes / "node-0/killed/state-00000002").is_dir()
    then = one_training("embed", "killed", "train-{node}.jsonl", resume=True)
    codes, outputs = train_on_two(nodes, then, then)  # the second finds that all is done
    assert codes == [0, 0], outputs
    assert [output.count("DONE 6") for output in outputs] == [2, 2]
    assert same(whole["embed"], weights(nodes / "node-0/killed"))
    assert not (nodes / "node-1/killed").exists()


@pytest.mark.slow
def test_a_silent_node_ends_the_others(nodes):
    """As behind a cut cable: nothing says that it is gone."""
    changes = {"run.timeout": 15}
    training = one_training("embed", "silent", "train-{node}.jsonl", how="SIGSTOP", **changes)

    def end():
        os.kill(int((nodes / "node-1/pid").read_text()), signal.SIGKILL)

    codes, outputs = train_on_two(nodes, training, ends=end)
    assert 0 not in codes
    assert "ENDED TrainingError process 0 of 2 lost another one" in outputs[0]


@pytest.mark.slow
def test_nodes_that_differ_or_lack_a_file_say_so_on_each(nodes):
    pairs = list(read_pairs(nodes / "one/train.jsonl"))
    for number in range(2):
        write_pairs(nodes / f"node-{number}/mine.jsonl", pairs[number:])
    files = ["mine.jsonl", "train-0.jsonl"]
    codes, outputs = train_on_two(nodes, *(one_training("embed", "none", name) for name in files))
    assert codes == [0, 0], outputs  # every process has ended both
    differ = "ENDED InputError process 1 of 2 differs from process 0 in data; give all nodes the same files"
    assert all(differ in output for output in outputs)
    assert "ENDED TrainingError process 1 of 2 cannot go on: train-0.jsonl" in outputs[0]
    assert "ENDED InputError train-0.jsonl" in outputs[1]
    assert not (nodes / "node-0/none").exists()


def test_a_process_alone_is_node_0(tmp_path):
    pairs = list(generate(seed=5, n_documents=100, n_queries=10).split("train"))
    write_pairs(tmp_path / "pairs-0.jsonl", pairs)
    assert load_pairs(str(tmp_path / "pairs-{node}.jsonl")) == pairs
    with pytest.raises(InputError, match=r"none-0\.jsonl"):
        read_rows(str(tmp_path / "none-{node}.jsonl"), lambda path: list(read_pairs(path)))
    with pytest.raises(InputError, match="wrong"), together():
        raise InputError("wrong")
    assert (value_of(0, 3), take_tensors({"a": torch.ones(2)})["a"].tolist()) == (3, [1, 1])


def test_processes_that_differ_are_told_what_to_do():
    about = {"settings": {"run": 1}, "precision": "fp32", "data": "a", "relsdk": "1"}
    _check_equal([about, dict(about)])
    for name, remedy in (("precision", r"run\.precision"), ("data", r"\{node\}"), ("relsdk", "one version")):
        with pytest.raises(InputError, match=f"process 2 of 3 differs from process 0 in {name}; .*{remedy}"):
            _check_equal([about, about, {**about, name: "other"}])
    rate = {"optimiser": {"learning_rate": 1e-5, "betas": [0.9]}, "run": {"seed": 1}}
    other = {**rate, "optimiser": {"learning_rate": 2e-5, "betas": [0.9]}}
    with pytest.raises(InputError, match=r"in optimiser.learning_rate \(2e-05, there 1e-05\); give"):
        _check_equal([{**about, "settings": rate}, {**about, "settings": other}])
