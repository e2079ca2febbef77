"""What counts as the same training."""

import shutil

import pytest

from relsdk.files.folders import json_sha256
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import DistillConfig, EmbedConfig, QueryConfig, ScoreConfig
from relsdk_training.engine.identity import checkpoint_hash, training_identity


def identity(kind, *settings):
    return training_identity(load_config(kind, None, list(settings)))


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (EmbedConfig, "run.output=elsewhere"),
        (EmbedConfig, "run.threads=2"),
        (EmbedConfig, "data.train=moved.jsonl"),  # what it holds is compared, not what it is called
        (DistillConfig, "distill.queries=['moved.txt']"),
        (QueryConfig, "model.temperature=0.5"),
        (QueryConfig, "model.guidance=3"),
        (QueryConfig, "data.texts=['moved.jsonl']"),
        (ScoreConfig, "data.weak=['moved.jsonl']"),
        (ScoreConfig, "data.written=['moved.jsonl']"),
    ],
)
def test_places_and_later_sampling_do_not_count(kind, setting):
    assert identity(kind, setting) == identity(kind)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (EmbedConfig, "run.seed=1"),
        (EmbedConfig, "data.limit=5"),
        (EmbedConfig, "loss.cosent=1"),
        (EmbedConfig, "loss.wasserstein=1"),
        (EmbedConfig, "data.weak_weight=0.5"),
        (EmbedConfig, "data.written_weight=0.5"),
        (EmbedConfig, "data.human_last=0.5"),
        (DistillConfig, "distill.pieces=2"),
        (QueryConfig, "model.contrast=0.5"),
    ],
)
def test_what_changes_the_result_counts(kind, setting):
    assert identity(kind, setting) != identity(kind)


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        (EmbedConfig, "fd418c1acf03e93964e5543cb75e1fd7f33a1aa03478c7e01a7cf8fac195ca03"),
        (ScoreConfig, "6f2cbd38c18bee7be566596f4c11df61b4436bf5c595190011b4f038714ea88b"),
        (QueryConfig, "0b99802c9d4982764bc6871babc7ef85630b7ce49c31c90427754be4141c0b41"),
        (DistillConfig, "d515c2dc62c6f1fef81aa838e591f1fb50aded1add9b11a6515e5fe7c26a7f0d"),
    ],
)
def test_trainings_of_before_are_resumed(kind, identity):
    """What came later counts where it is set: folders that were made before go on."""
    assert json_sha256(training_identity(kind())) == identity


def test_a_checkpoint_counts_by_its_content(toy_checkpoint, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(toy_checkpoint, moved)
    (moved / "README.md").write_text("for people")
    settings = [f"model.checkpoint={folder}" for folder in (toy_checkpoint, moved)]
    assert identity(EmbedConfig, settings[0]) == identity(EmbedConfig, settings[1])
    before = checkpoint_hash(moved)
    prompts = "config_sentence_transformers.json"
    for name in ("model.safetensors", "tokenizer.json", prompts, "1_Pooling/config.json"):
        path = moved / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert checkpoint_hash(moved) != before, name
        path.write_bytes(content)
    assert checkpoint_hash(moved) == before
    assert checkpoint_hash("") == ""
