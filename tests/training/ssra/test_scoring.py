"""A trained model as the one that gives pairs a level: its order, and levels read from dev."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_sample import generate
from relsdk_training.config.settings import ModelConfig
from relsdk_training.data.pairs import pair_arrays
from relsdk_training.ssra.scoring import PairScorer, _adjust, fit_levels

PRIOR = np.array([0.1, 0.2, 0.3, 0.4])


def test_adjusted_by_hand():
    rows = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    # 4, 1.5, 2/3, 1/4 sum to 77/12; what only repeats the prior says nothing.
    np.testing.assert_allclose(_adjust(rows, PRIOR, 1.0), [np.array([48, 18, 8, 3]) / 77, [0.25] * 4])
    np.testing.assert_allclose(_adjust(rows, PRIOR, 0.0), rows)
    root = np.sqrt(PRIOR)
    np.testing.assert_allclose(_adjust(rows, PRIOR, 0.5)[1], root / root.sum())


def test_at_full_strength_levels_count_as_equally_frequent():
    """Bayes with the labels' prior, corrected, is Bayes with a flat one."""
    evidence = np.random.default_rng(2).uniform(0.01, 1.0, (50, 4))  # p(x | level)
    skewed, flat = (evidence * prior for prior in (PRIOR, np.full(4, 0.25)))
    skewed, flat = (rows / rows.sum(axis=1, keepdims=True) for rows in (skewed, flat))
    np.testing.assert_allclose(_adjust(skewed, PRIOR, 1.0), flat)
    assert (skewed.argmax(axis=1) != flat.argmax(axis=1)).any()


@given(
    arrays(np.float64, (3, 4), elements=st.floats(0.001, 1.0)),
    arrays(np.float64, 4, elements=st.floats(0.01, 1.0)),
    st.floats(0.0, 2.0),
)
def test_adjusted_rows_are_probabilities(raw, prior, strength):
    found = _adjust(raw / raw.sum(axis=1, keepdims=True), prior / prior.sum(), strength)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found > 0).all()


def score_run(checkpoint, folder, head):
    torch.manual_seed(3)
    model = ScoreModel.load(checkpoint, head)
    torch.nn.init.normal_(model.transformer.classifier.weight)
    (folder / "best").mkdir()
    model.save(folder / "best")
    return folder


def dev_pairs(score):
    """Return pairs whose labels mostly follow what `score` says of them, and the scores (N,)."""
    pairs = pair_arrays(generate(seed=5, n_documents=100, n_queries=16, pairs_per_query=8).pairs)
    scores = score(pairs.texts())
    noisy = scores + np.random.default_rng(0).normal(scale=scores.std(), size=len(scores))
    labels = np.searchsorted(np.quantile(noisy, [0.25, 0.5, 0.75]), noisy)
    return replace(pairs, labels=labels), scores


def log_odds_by_hand(run, head, pairs):
    """log(e / (3 - e)) of the expected level e under a plain transformers model."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "best").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    found = []
    for query, document in pairs:
        with torch.inference_mode():
            tokens = tokenizer(query, document, return_tensors="pt", truncation=True, max_length=64)
            logits = model(**tokens).logits[0].double()
        if head == "categorical":
            expected = float((logits.softmax(0) * torch.arange(4)).sum())
        else:
            expected = float(np.minimum.accumulate(1 / (1 + np.exp(-logits.numpy()))).sum())
        found.append(np.log(expected / (3 - expected)))
    return np.array(found)


@pytest.mark.parametrize("head", ["categorical", "ordinal"])
def test_a_cross_encoders_levels_are_read_from_its_order(toy_checkpoint, corpus, tmp_path, head):
    config = ModelConfig(head=head, max_tokens=64)
    run = score_run(toy_checkpoint, tmp_path, head)
    dev, on_dev = dev_pairs(lambda pairs: log_odds_by_hand(run, head, pairs))
    told = fit_levels(run, "cross_encoder", config, dev)
    assert 0 <= told["accuracy"] <= 1
    pairs = [(query, document) for query in corpus[:3] for document in corpus[2:6]]
    calibration, _ = fit_calibration(on_dev, dev.labels, [str(query) for query in dev.query_of])
    wanted = calibration.probabilities(log_odds_by_hand(run, head, pairs))
    scorer = PairScorer(run, "cross_encoder", config, adjust=0.0)
    found = scorer.probabilities(pairs)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    order = np.random.default_rng(0).permutation(len(pairs))
    np.testing.assert_allclose(scorer.probabilities([pairs[row] for row in order]), found[order], atol=1e-6)
    prior = np.bincount(dev.labels, minlength=4) / len(dev)
    corrected = PairScorer(run, "cross_encoder", config, adjust=1.0).probabilities(pairs)
    np.testing.assert_allclose(corrected, _adjust(found, prior, 1.0), atol=1e-6)
    assert scorer.probabilities([]).shape == (0, 4)


def test_an_encoders_levels_are_read_from_its_cosine(toy_checkpoint, corpus, tmp_path):
    (tmp_path / "best").symlink_to(toy_checkpoint)
    config = ModelConfig(max_tokens=64)
    pairs = [(query, document) for query in corpus[:3] for document in corpus[2:6]]
    encoder = TextEncoder.load(toy_checkpoint, max_tokens=64).eval()
    tokenizer = AutoTokenizer.from_pretrained(toy_checkpoint)

    def cosines(some):
        sides = []
        for prompt, texts in zip(("query: ", "passage: "), zip(*some, strict=True), strict=True):
            rows = []
            for text in texts:
                tokens = tokenizer(prompt + text, return_tensors="pt", truncation=True, max_length=64)
                with torch.inference_mode():
                    rows.append(encoder(tokens)[0])
            sides.append(torch.nn.functional.normalize(torch.stack(rows), dim=1))
        return (sides[0] * sides[1]).sum(dim=1).double().numpy()

    dev, on_dev = dev_pairs(cosines)
    fit_levels(tmp_path, "encoder", config, dev)
    calibration, _ = fit_calibration(on_dev, dev.labels, [str(query) for query in dev.query_of])
    found = PairScorer(tmp_path, "encoder", config, adjust=0.0).probabilities(pairs)
    np.testing.assert_allclose(found, calibration.probabilities(cosines(pairs)), atol=2e-3)


def test_a_folder_without_levels_is_told(tmp_path):
    with pytest.raises(InputError, match=r"levels\.json is missing; fit levels on dev again"):
        PairScorer(tmp_path, "encoder", ModelConfig(), adjust=0.0)
