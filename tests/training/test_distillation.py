"""A one-layer student comes closer to its two-layer teacher, alone and as a query tower."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.records import Document
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_sample import generate
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig, DistillLossConfig
from relsdk_training.engine._log import read_log
from relsdk_training.objectives.distillation import distillation_texts
from relsdk_training.runs import distill
from relsdk_training.runs.distill import train_distill


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    world = generate(seed=12, n_documents=150, n_queries=40)
    folder = tmp_path_factory.mktemp("texts")
    write_pairs(folder / "pairs.jsonl", world.split("train"))
    write_pairs(folder / "dev.jsonl", world.split("test"))
    (folder / "queries.txt").write_text("".join(f"{query.text} 问\n" for query in world.queries))
    return folder


@pytest.fixture
def settings(files, toy_checkpoint, tmp_path):
    return [
        f"model.checkpoint={toy_checkpoint}",
        "model.layers=[1]",
        f"data.dev={files / 'dev.jsonl'}",
        f"distill.pairs=['{files / 'pairs.jsonl'}']",
        f"run.output={tmp_path / 'run'}",
        "run.batch_size=32",
        "run.max_steps=40",
        "run.precision=fp32",
        "optimiser.learning_rate=3e-3",
    ]


@pytest.mark.parametrize("student", ["encoder", "query"])
def test_a_student_comes_closer_to_its_teacher(settings, tmp_path, student):
    result = train_distill(load_config(DistillConfig, None, [*settings, f"distill.student={student}"]))
    log = list(read_log(tmp_path / "run" / "log.jsonl"))
    steps = [line for line in log if line["kind"] == "step"]
    before, after = (np.mean([s["cosine_distance"] for s in part]) for part in (steps[:3], steps[-3:]))
    assert after < 0.6 * before
    assert result.steps == 40
    kept = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert not any("layer.1." in name for name in kept)


def test_the_teacher_of_a_run_that_has_ended_reads_nothing_again(settings, monkeypatch, tmp_path):
    config = load_config(DistillConfig, None, [*settings, "run.max_steps=2"])
    ended = train_distill(config)

    monkeypatch.delattr(distill, "DistillationObjective")  # whoever asks teachers now, fails
    assert train_distill(config, resume=True) == ended
    with pytest.raises(NameError, match="DistillationObjective"):
        train_distill(replace(config, run=replace(config.run, seed=7)), resume=True)
    dev = [
        replace(pair, document=Document(id=str(number), title=f"另一个{number}"))
        for number, pair in enumerate(read_pairs(config.data.dev))
    ]
    write_pairs(tmp_path / "dev.jsonl", dev)
    other = replace(config, data=replace(config.data, dev=str(tmp_path / "dev.jsonl")))
    with pytest.raises(NameError, match="DistillationObjective"):  # the same queries and labels
        train_distill(other, resume=True)


def test_layers_are_also_counted_from_the_end(toy_checkpoint):
    """A recipe's last layer is that of any encoder."""
    assert load_config(DistillConfig, RECIPES / "distill.toml").model.layers == (0, -1)
    whole = TextEncoder.load(toy_checkpoint).state_dict()
    for layers in ([0, -1], [0, 1], [-2, -1]):
        found = TextEncoder.load(toy_checkpoint, layers=layers).state_dict()
        assert all(torch.equal(found[name], whole[name]) for name in whole)
    last, named = (TextEncoder.load(toy_checkpoint, layers=layers).state_dict() for layers in ([-1], [1]))
    assert len(last) < len(whole)
    assert all(torch.equal(last[name], named[name]) for name in named)


def test_texts_carry_the_prompt_they_are_served_with(files):
    prompts = {"query": "q: ", "document": "d: "}
    pairs, queries = (str(files / "pairs.jsonl"),), (str(files / "queries.txt"),)
    both = distillation_texts(DistillLossConfig(pairs=pairs, queries=queries), prompts)
    assert len(both) == len(set(both))
    assert {text[:3] for text in both} == {"q: ", "d: "}
    tower = distillation_texts(DistillLossConfig(student="query", pairs=pairs, queries=queries), prompts)
    assert {text[:3] for text in tower} == {"q: "}
    limited = distillation_texts(DistillLossConfig(pairs=pairs, limit=5), prompts)
    assert len(limited) == 5
    assert {text[:3] for text in limited} == {"q: ", "d: "}
    with pytest.raises(InputError, match="at least one is needed"):
        distillation_texts(DistillLossConfig(), prompts)


def test_pieces_are_of_the_texts_alone_or_joined_in_twos(tmp_path):
    texts = ["abcdefghijklmnopqrstuvwxyz", "0123456789", "一二三"]
    (tmp_path / "queries.txt").write_text("".join(f"{text}\n" for text in texts))
    config = DistillLossConfig(student="query", queries=(str(tmp_path / "queries.txt"),), pieces=40)
    found = distillation_texts(config, {"query": "q: "}, seed=1)
    assert found[:3] == ["q: " + text for text in texts]
    assert len(found) == len(set(found)) > 40
    joined = 0
    for made in (text.removeprefix("q: ") for text in found[3:]):
        assert 1 < len(made) <= 16
        whole = any(made in text for text in texts)
        halves = any(
            any(made[:cut] in text for text in texts) and any(made[cut:] in text for text in texts)
            for cut in range(1, len(made))
        )
        assert whole or halves
        joined += not whole
    assert joined > 20
    assert found == distillation_texts(config, {"query": "q: "}, seed=1)
    assert found != distillation_texts(config, {"query": "q: "}, seed=2)


def test_pieces_are_those_of_every_version(tmp_path):
    """Other draws, or the same in another order, would make other texts: a run could not go on."""
    (tmp_path / "queries.txt").write_text("红烧肉怎么做才不腻\nHow to make bread at home\n", encoding="utf-8")
    config = DistillLossConfig(student="query", queries=(str(tmp_path / "queries.txt"),), pieces=2)
    pieces = distillation_texts(config, {}, seed=0)[2:]
    assert pieces == ["make bread a", "肉怎么红烧", "at ke bread"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.layers=[]", "names no layers"),
        ("data.dev=''", "names no file"),
        ("model.layers=[7]", "out of 0 to 1"),
        ("model.layers=[-3]", "out of 0 to 1"),
        ("model.layers=[1, -1]", "out of 0 to 1"),
    ],
)
def test_mistakes(settings, change, message):
    with pytest.raises(InputError, match=message):
        train_distill(load_config(DistillConfig, None, [*settings, change]))
