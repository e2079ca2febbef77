"""Checkpoints as judges of pairs: cosines of an encoder, log-odds of a score model."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from relsdk.errors import BundleError, InputError
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.loading import load_transformer
from relsdk_checkpoint.pair_scores import PairClassifier, TextEmbedder, open_pair_scores
from relsdk_checkpoint.scorer import ScoreModel

PAIRS = [
    ("红烧肉怎么做", "红烧肉怎么做才不腻"),
    ("bread", "How to make bread at home"),
    ("红烧肉怎么做", "How to make bread at home"),
]


@pytest.fixture(scope="module")
def scorers(toy_checkpoint, tmp_path_factory):
    """A toy score model of each head, by head."""
    folders = {}
    for head in ("categorical", "ordinal"):
        torch.manual_seed(3)
        folders[head] = tmp_path_factory.mktemp(head)
        ScoreModel.load(toy_checkpoint, head).save(folders[head])
    return folders


def test_an_encoder_scores_by_the_cosine_and_embeds_each_text_once(toy_checkpoint):
    embedder = TextEmbedder(toy_checkpoint)
    rows = []
    embedder.encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    scores = open_pair_scores(toy_checkpoint, "encoder", head="categorical").scores(PAIRS)
    assert embedder.scores(PAIRS).tolist() == scores.tolist()
    assert sum(rows) == 4  # two queries, two documents
    left = np.concatenate([embedder.queries([query]) for query, _ in PAIRS])
    right = np.concatenate([embedder.documents([document]) for _, document in PAIRS])
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scores, (left * right).sum(axis=1), atol=1e-5)


def test_a_score_model_scores_by_the_log_odds_of_the_expected_level(scorers):
    for head, folder in scorers.items():
        model = PairClassifier(folder, head)
        logits = model.logits(model.tokenizer.tokenize(PAIRS)).astype(np.float64)
        if head == "ordinal":
            expected = np.minimum.accumulate(1 / (1 + np.exp(-logits)), axis=1).sum(axis=1)
        else:
            exponentials = np.exp(logits)
            expected = exponentials @ np.arange(4) / exponentials.sum(axis=1)
        scores = open_pair_scores(folder, "cross_encoder", head=head).scores(PAIRS)
        np.testing.assert_allclose(scores, np.log(expected / (3 - expected)), atol=1e-3)


def test_a_limit_shortens_what_is_read(toy_checkpoint, scorers):
    for kind, folder in (("encoder", toy_checkpoint), ("cross_encoder", scorers["ordinal"])):
        whole, short = (
            open_pair_scores(folder, kind, head="ordinal", max_tokens=limit).scores(PAIRS)
            for limit in (None, 6)
        )
        assert not np.allclose(whole, short)


def test_a_damaged_checkpoint_is_told_in_one_line(toy_checkpoint, tmp_path):
    two = shutil.copytree(toy_checkpoint, tmp_path / "two")
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    with pytest.raises(InputError, match=r"has another shape than config\.json says; they are of two"):
        TextEncoder.load(two)
    damaged = shutil.copytree(toy_checkpoint, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    with pytest.raises(InputError, match="damaged cannot be loaded") as caught:
        TextEncoder.load(damaged)
    assert "\n" not in str(caught.value)


def test_what_a_checkpoint_lacks_starts_at_random_unless_all_of_it_is_needed(toy_checkpoint):
    assert load_transformer(AutoModel, toy_checkpoint, whole=True)
    assert load_transformer(AutoModelForSequenceClassification, toy_checkpoint)
    with pytest.raises(BundleError, match="lacks 4 weights of its architecture"):
        load_transformer(AutoModelForSequenceClassification, toy_checkpoint, whole=True, error=BundleError)
