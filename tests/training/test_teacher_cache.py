"""What a teacher gives is computed once, shard by shard, whatever stops the run."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk.bundle import tokenizer_path
from relsdk.errors import LockedError, TrainingError
from relsdk.formats import write_pairs
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import embed_tokens
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import DistillConfig
from relsdk_training.engine.lock import lock_run
from relsdk_training.runs.distill import train_distill
from relsdk_training.teachers import cache
from relsdk_training.teachers.cache import TEACHER_FOLDER, teacher_outputs


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "_SHARD", 10)


@pytest.fixture
def embedded():
    """How many texts each call of the encoder embeds."""
    return []


@pytest.fixture
def call(toy_checkpoint, tmp_path, embedded):
    """Embed 25 texts with the toy encoder, keeping shards under tmp_path."""
    teacher = TextEncoder.load(toy_checkpoint).eval()
    settings = teacher.settings
    tokenizer = TextTokenizer(
        tokenizer_path(toy_checkpoint), max_tokens=settings.max_tokens, pad_token=settings.pad_token
    )
    tokens = tokenizer.tokenize([f"第{number}个 text" for number in range(25)])

    def make(shard):
        embedded.append(len(shard.ids))
        return embed_tokens(teacher, tokenizer, shard, device=torch.device("cpu"))

    @torch.inference_mode()
    def embed(identity="a", notes=None):
        on_note = [].append if notes is None else notes.append
        return teacher_outputs(
            make, settings.dimension, tokens, tmp_path / "shards", identity, on_note=on_note
        )

    with torch.inference_mode():
        embed.plain = embed_tokens(teacher, tokenizer, tokens, device=torch.device("cpu"))
    return embed


def test_shards_are_read_instead_of_computed_again(call, embedded, tmp_path):
    notes = []
    np.testing.assert_allclose(call(notes=notes), call.plain, atol=1e-6)
    assert notes == [f"teacher: {done} of 25 texts" for done in (10, 20, 25)]
    assert embedded == [10, 10, 5]
    np.testing.assert_allclose(call(), call.plain, atol=1e-6)
    assert embedded == [10, 10, 5]
    call("another teacher")
    assert embedded == [10, 10, 5] * 2
    assert len(list((tmp_path / "shards").iterdir())) == 6


def test_a_damaged_shard_is_computed_again(call, embedded, tmp_path):
    call()
    empty, foreign, short = sorted((tmp_path / "shards").iterdir())
    empty.write_bytes(b"")
    foreign.write_bytes(b"\x93NUMPY what")
    short.write_bytes(short.read_bytes()[:-4])
    np.testing.assert_allclose(call(), call.plain, atol=1e-6)
    assert len(embedded) == 6


def test_a_full_disk_is_one_clear_error(call, monkeypatch, tmp_path):
    def full(stream, vectors):
        stream.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(TrainingError, match="No space left on device; make room"):
        call()
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_run_that_was_stopped_while_the_teacher_embedded_goes_on(toy_checkpoint, tmp_path, monkeypatch):
    world = generate(seed=12, n_documents=300, n_queries=60)
    for name, split in (("pairs", "train"), ("dev", "test")):
        write_pairs(tmp_path / f"{name}.jsonl", world.split(split))

    def config(folder):
        return load_config(
            DistillConfig,
            None,
            [
                f"model.checkpoint={toy_checkpoint}",
                "model.layers=[1]",
                f"data.dev={tmp_path / 'dev.jsonl'}",
                f"distill.pairs=['{tmp_path / 'pairs.jsonl'}']",
                f"run.output={tmp_path / folder}",
                "run.max_steps=3",
                "run.precision=fp32",
            ],
        )

    written, write = [], cache._write

    def counted(path, outputs):
        write(path, outputs)
        written.append(path.name)

    def stopped(path, outputs):
        with pytest.raises(LockedError, match="another process"):  # the folder is nobody else's by now
            lock_run(tmp_path / "stopped")
        if len(written) == shards + 2:
            raise KeyboardInterrupt
        counted(path, outputs)

    monkeypatch.setattr(cache, "_write", counted)
    train_distill(config("whole"))
    shards = len(written)
    assert not (tmp_path / "whole" / TEACHER_FOLDER).exists()
    monkeypatch.setattr(cache, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_distill(config("stopped"))
    monkeypatch.setattr(cache, "_write", counted)
    train_distill(config("stopped"), resume=True)
    assert written[:shards] == written[shards:]
    one, other = (load_file(tmp_path / run / "best/model.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
