import numpy as np
import pytest
import torch

from relsdk.bundle import tokenizer_path
from relsdk.errors import InputError
from relsdk.formats import write_pairs
from relsdk.records import Document, LabelledPair
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk_checkpoint.pair_scores import token_tensors
from relsdk_training.config.settings import DataConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.pairs import (
    _thin_out,
    check_leaks,
    load_pairs,
    pair_arrays,
)
from relsdk_training.data.text import document_text


def pair(query, title, level, text=""):
    return LabelledPair(query, Document(title, title, text), level)


def test_arrays_by_hand():
    arrays = pair_arrays([pair("a", "x", 3), pair("b", "x", 0), pair("a", "y", 1, "body"), pair("b", "y", 2)])
    assert arrays.queries == ["a", "b"]
    assert arrays.documents == ["x", "y body", "y"]  # equal texts share a number, not equal titles
    assert arrays.query_of.tolist() == [0, 1, 0, 1]
    assert arrays.document_of.tolist() == [0, 0, 1, 2]
    assert arrays.labels.tolist() == [3, 0, 1, 2]
    assert arrays.describe() == "4 pairs (levels 0: 1, 1: 1, 2: 1, 3: 1), 2 queries, 3 documents"


def test_the_document_text_is_the_bundles(toy_bundle):
    from relsdk import Embedder

    embedder = Embedder(toy_bundle)
    for one in (pair("q", "title", 0, "text"), pair("q", "title", 0), pair("q", "", 0, "text")):
        assert document_text(one.document) == embedder.document_text(one.document)


def test_leaks_are_found_up_to_case_width_and_spaces():
    train, dev = [pair("ＡＢＣ  红烧肉", "x", 1)], [pair("abc 红烧肉 ", "y", 1), pair("other", "z", 1)]
    with pytest.raises(InputError, match=r"1 queries are both in train and in dev .*abc 红烧肉"):
        check_leaks("train", train, "dev", dev)
    check_leaks("train", train, "dev", dev[1:])


def test_thinning_reaches_the_share_and_spares_the_others():
    pairs = [pair(str(i), str(i), i % 4) for i in range(4000)]
    kept = _thin_out(pairs, (1, 2), 0.045, seed=1)
    counts = np.bincount([int(p.level) for p in kept])
    assert counts[0] == counts[3] == 1000
    assert (counts[1] + counts[2]) / counts.sum() == pytest.approx(0.045, abs=0.001)
    assert kept == _thin_out(pairs, (1, 2), 0.045, seed=1)
    assert kept != _thin_out(pairs, (1, 2), 0.045, seed=2)
    assert [p.query for p in kept] == sorted((p.query for p in kept), key=int)
    assert len(_thin_out(pairs, (1,), 0.9, seed=0)) == 4000  # rarer already
    with pytest.raises(InputError, match="between 0 and 1"):
        _thin_out(pairs, (1,), 1.0, seed=0)


def test_splits_are_read_mapped_checked_and_named(tmp_path):
    for name in ("train", "dev"):
        write_pairs(tmp_path / f"{name}.jsonl", [pair(f"{name} {i}", f"{i}", i % 3) for i in range(30)])
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "dev")}
    splits = load_splits(DataConfig(**files, label_map=(0, 1, 3)), seed=0)
    assert set(splits.train.pairs.labels.tolist()) == {0, 1, 3}
    assert len(load_splits(DataConfig(**files, limit=7), seed=0).train) == 7
    with pytest.raises(InputError, match="names no file"):
        load_splits(DataConfig(train=files["train"]), seed=0)
    with pytest.raises(InputError, match=r"both in train and in dev"):
        load_splits(DataConfig(train=files["train"], dev=files["train"]), seed=0)
    with pytest.raises(InputError, match=r"both in train and in test"):
        load_splits(DataConfig(**files, test=files["train"]), seed=0)
    (tmp_path / "bad.jsonl").write_text('{"query": "a", "title": "b", "label": 1}\n{"query": "a"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl.*2"):
        load_pairs(str(tmp_path / "bad.jsonl"))


def test_batches_are_padded_to_their_own_longest(toy_checkpoint, corpus):
    tokenizer = TextTokenizer(tokenizer_path(toy_checkpoint), max_tokens=64, pad_token="<pad>")
    tokens = tokenizer.tokenize(corpus)
    rows = np.argsort(tokens.lengths)[:3]
    tensors = token_tensors(tokenizer, tokens, rows, torch.device("cpu"))
    assert tensors["input_ids"].shape == (3, max(tokens.lengths[row] for row in rows))
    assert tensors["attention_mask"].sum(dim=1).tolist() == [tokens.lengths[row] for row in rows]
    assert tensors["input_ids"].dtype == torch.int64
