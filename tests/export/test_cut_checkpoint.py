"""A checkpoint cut to a corpus is the same encoder for the texts of that corpus."""

import json

import numpy as np
import pytest
import torch

from relsdk.bundle import tokenizer_path
from relsdk.errors import InputError
from relsdk.formats import write_documents
from relsdk.records import Document
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import embed_tokens
from relsdk_export.cuts.checkpoint import cut_checkpoint

TEXTS = ["红烧肉怎么做", "大理三天旅游", "感冒吃什么药好"]


def vectors(folder, texts):
    encoder = TextEncoder.load(folder).eval()
    settings = encoder.settings
    tokenizer = TextTokenizer(
        tokenizer_path(folder), max_tokens=settings.max_tokens, pad_token=settings.pad_token
    )
    prompted = [prompt + text for text in texts for prompt in settings.prompts.values()]
    with torch.inference_mode():
        return embed_tokens(encoder, tokenizer, tokenizer.tokenize(prompted), device=torch.device("cpu"))


def test_vectors_of_the_corpus_stay(toy_checkpoint, tmp_path):
    told = cut_checkpoint(toy_checkpoint, tmp_path / "cut", TEXTS)
    assert told["pieces"] < told["pieces_before"]
    content = json.loads((tmp_path / "cut/tokenizer.json").read_text(encoding="utf-8"))
    assert len(content["model"]["vocab"]) == told["pieces"]
    np.testing.assert_allclose(
        vectors(tmp_path / "cut", TEXTS), vectors(toy_checkpoint, TEXTS), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(InputError, match="not empty"):
        cut_checkpoint(toy_checkpoint, tmp_path / "cut", TEXTS)
    cut_checkpoint(toy_checkpoint, tmp_path / "cut", TEXTS[:1], overwrite=True)
    assert len(vectors(tmp_path / "cut", TEXTS)) == len(TEXTS) * 2


def test_the_folder_of_a_training_is_not_replaced(toy_checkpoint, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "log.jsonl"):
        (run / name).write_text("{}")
    with pytest.raises(InputError, match="nothing was touched"):
        cut_checkpoint(toy_checkpoint, run, TEXTS, overwrite=True)
    assert {path.name for path in run.iterdir()} == {"config.json", "log.jsonl"}


def test_the_command(relsdk, toy_checkpoint, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [Document("1", TEXTS[0], TEXTS[1])])
    (tmp_path / "queries.txt").write_text(TEXTS[2] + "\n", encoding="utf-8")
    files = [word for name in ("docs.jsonl", "queries.txt") for word in ("--corpus", str(tmp_path / name))]
    code, out, err = relsdk("model", "cut", str(toy_checkpoint), str(tmp_path / "cut"), *files)
    assert code == 0, err
    assert "pieces" in out
    np.testing.assert_allclose(
        vectors(tmp_path / "cut", TEXTS), vectors(toy_checkpoint, TEXTS), rtol=1e-5, atol=1e-5
    )
    code, _, err = relsdk("model", "cut", str(tmp_path), str(tmp_path / "other"), *files)
    assert code == 2
    code, _, err = relsdk("model", "cut", str(tmp_path / "none"), str(tmp_path / "other"), *files)
    assert (code, "does not exist" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_weights_that_cannot_be_written_are_told_in_a_line(relsdk_on_small_disk, toy_checkpoint, tmp_path):
    (tmp_path / "queries.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    folders = [str(toy_checkpoint), str(tmp_path / "cut")]
    corpus = ["--corpus", str(tmp_path / "queries.txt")]
    code, _, err = relsdk_on_small_disk(60_000, "model", "cut", *folders, *corpus)
    assert code == 2, err
    assert "Traceback" not in err
    told = err.splitlines()[-1]
    assert f"cannot write {tmp_path / 'cut'}: " in told
    assert told.endswith("free some space")  # the weights, and not a smaller file before them
    assert [path.name for path in tmp_path.iterdir()] == ["queries.txt"]
