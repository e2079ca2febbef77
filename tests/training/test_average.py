"""Averages of checkpoints: the mean of their weights, and nothing where they do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from relsdk.errors import BundleError, InputError, TrainingError
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_training.runs import average
from relsdk_training.runs.average import average_checkpoints


@pytest.fixture(scope="module")
def pair(checkpoint_factory, tmp_path_factory):
    """Two encoders of one kind."""
    folder = tmp_path_factory.mktemp("pair")
    return [checkpoint_factory(folder / str(seed), seed=seed) for seed in (0, 1)]


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_mean_by_shares(pair, tmp_path):
    average_checkpoints(pair, tmp_path / "mixed", shares=[1, 3])
    one, other, mixed = (weights(folder) for folder in (*pair, tmp_path / "mixed"))
    assert mixed.keys() == one.keys()
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.25 * one[name] + 0.75 * other[name])
    made, first = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "mixed", pair[0]))
    assert made == {*first, "training.json"}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=4))
def test_a_mean_of_equals_is_the_same(pair, shares):
    target = pair[0].parent / "same"
    average_checkpoints([pair[0]] * len(shares), target, shares=shares, overwrite=True)
    for name, tensor in weights(target).items():
        torch.testing.assert_close(tensor, weights(pair[0])[name])


def test_a_mixed_encoder_embeds(pair, tmp_path):
    average_checkpoints(pair, tmp_path / "mixed")
    found = [TextEmbedder(folder).queries(["搜索"]) for folder in (*pair, tmp_path / "mixed")]
    np.testing.assert_allclose(np.linalg.norm(found[2]), 1, rtol=1e-5)
    assert not np.allclose(found[2], found[0])
    assert not np.allclose(found[2], found[1])


def test_a_pooler_that_nothing_uses_is_no_difference(pair, tmp_path):
    """Pretrained encoders often have one; training drops it."""
    start = shutil.copytree(pair[1], tmp_path / "start")
    content = weights(start) | {"pooler.dense.bias": torch.ones(32)}
    save_file(content, start / "model.safetensors", metadata={"format": "pt"})
    for number, order in enumerate(([pair[0], start], [start, pair[0]])):
        average_checkpoints(order, tmp_path / f"mixed{number}")
        assert weights(tmp_path / f"mixed{number}").keys() == weights(pair[0]).keys()


def test_score_models_keep_their_head(pair, tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        ScoreModel.load(pair[seed], "categorical").save(folder)
    average_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "mixed")
    mixed = ScoreModel.load(tmp_path / "mixed", "categorical").state_dict()
    parts = [ScoreModel.load(tmp_path / name, "categorical").state_dict() for name in "01"]
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2)


def test_what_does_not_fit_is_told_and_nothing_is_written(pair, checkpoint_factory, tmp_path):
    wide = checkpoint_factory(tmp_path / "wide", hidden=64)
    other = checkpoint_factory(tmp_path / "other", pad_token="[PAD]")
    deep = shutil.copytree(pair[0], tmp_path / "deep")
    content = weights(deep)
    content = {name: tensor for name, tensor in content.items() if "layer.1." not in name}
    save_file(content, deep / "model.safetensors", metadata={"format": "pt"})
    empty = shutil.copytree(pair[0], tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    torn = shutil.copytree(pair[0], tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-100])
    unread = shutil.copytree(pair[0], tmp_path / "unread")
    (unread / "tokenizer.json").write_text("{}")
    scorer = tmp_path / "scorer"
    scorer.mkdir()
    ScoreModel.load(pair[0], "ordinal").save(scorer)
    first = pair[0]
    for folders, shares, message in (
        ([first], [], "1 checkpoint to average; name at least two"),
        (pair, [1e308, 1e308], "one number above 0 each"),
        (pair, [1], r"shares \[1\] for 2 checkpoints"),
        (pair, [1, 0], "one number above 0 each"),
        (pair, [1, float("nan")], "one number above 0 each"),
        ([first, wide], [], "32 dimensions .*64 dimensions"),
        ([first, other], [], "different vocabularies"),
        ([first, deep], [], r"differ in architecture: encoder\.layer\.1\..* none in the other"),
        ([first, torn], [], "weights in .*torn cannot be read"),
        ([first, unread], [], "not a readable tokenizer"),
        ([first, scorer], [], "score model with a head that is ordinal"),
        ([first, tmp_path / "nowhere"], [], "nowhere does not exist; name a checkpoint folder"),
        ([first, empty], [], "no safetensors weights"),
    ):
        with pytest.raises(InputError, match=message):
            average_checkpoints(folders, tmp_path / "mixed", shares=shares)
        assert not (tmp_path / "mixed").exists()
        assert not list(tmp_path.glob(".mixed*"))


def test_weights_of_other_formats_are_not_carried_along(pair, tmp_path):
    first = shutil.copytree(pair[0], tmp_path / "first")
    (first / "onnx").mkdir()
    for name in ("pytorch_model.bin", "onnx/model.onnx", "model.safetensors.index.json"):
        (first / name).write_text("{}")
    average_checkpoints([first, pair[1]], tmp_path / "mixed")
    made = {path.relative_to(tmp_path / "mixed") for path in (tmp_path / "mixed").rglob("*")}
    assert made == {path.relative_to(pair[0]) for path in pair[0].rglob("*")} | {Path("training.json")}


def test_a_mean_says_what_it_is_of(pair, tmp_path):
    """And not what the first of them was trained with."""
    trained = shutil.copytree(pair[0], tmp_path / "trained")
    (trained / "training.json").write_text('{"task": "embed"}')
    average_checkpoints([trained, pair[1]], tmp_path / "mixed", shares=[3, 1])
    said = json.loads((tmp_path / "mixed/training.json").read_text())
    assert said["task"] == "mix"
    assert [(part["share"], part["training"]) for part in said["mixed"]] == [
        (0.75, {"task": "embed"}),
        (0.25, {}),
    ]
    assert str(tmp_path) not in json.dumps(said)
    (trained / "training.json").write_text("{")
    with pytest.raises(BundleError, match=r"training\.json is not readable JSON"):
        average_checkpoints([trained, pair[1]], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_told(pair, tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(average, "save_file", full)
    with pytest.raises(TrainingError, match=r"mixed cannot be written .*No space left"):
        average_checkpoints(pair, tmp_path / "mixed")
    assert not list(tmp_path.glob("*mixed*"))


def test_overwriting_spares_what_is_read_and_what_is_no_checkpoint(pair, tmp_path):
    one, other = (shutil.copytree(folder, tmp_path / str(n)) for n, folder in enumerate(pair))
    before = (other / "model.safetensors").read_bytes()
    for target in (one, other):
        with pytest.raises(InputError, match="which is read; name another folder"):
            average_checkpoints([one, other], target, overwrite=True)
    run = tmp_path / "run"  # of a training: it has a config.json, too
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(InputError, match="nothing was touched"):
        average_checkpoints([one, other], run, overwrite=True)
    assert (other / "model.safetensors").read_bytes() == before
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_the_command(pair, relsdk, tmp_path):
    mixed = tmp_path / "mixed"
    code, out, err = relsdk("train", "mix", *pair, mixed, "--share", 1, "--share", 1)
    assert (code, err) == (0, "")
    assert f"next: relsdk export encoder {mixed} BUNDLE" in out
    assert json.loads((mixed / "config.json").read_text())["hidden_size"] == 32
    code, _, err = relsdk("train", "mix", *pair, mixed)
    assert code == 2
    assert "--overwrite" in err
    assert relsdk("train", "mix", *pair, mixed, "--overwrite")[0] == 0
