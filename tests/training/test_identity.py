"""What counts as the same training."""

import shutil

import pytest

from relsdk_training.config.files import load_config
from relsdk_training.config.settings import DistillConfig, EmbedConfig, QueryConfig
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
        (DistillConfig, "distill.pieces=2"),
        (QueryConfig, "model.contrast=0.5"),
    ],
)
def test_what_changes_the_result_counts(kind, setting):
    assert identity(kind, setting) != identity(kind)


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
