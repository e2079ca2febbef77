"""A cross-encoder and an encoder judge together: the pool by hand, what it gains, a search that uses it."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.calibration import (
    LogLinearPool,
    Temperature,
    calibration_from_dict,
    cross_validated_probabilities,
    fit_pool,
)
from relsdk.calibration._models import CumulativeLink
from relsdk.errors import CalibrationError, EncoderMismatchError, InputError
from relsdk.formats import write_pairs
from relsdk.metrics import log_loss
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.open import open_pair_model
from relsdk.models.pooled_scorer import PooledScorer
from relsdk.models.steps import run_flow
from relsdk.tools.evaluation import calibrate_bundle, evaluate
from relsdk_sample import generate
from tests.bundle_changes import make_foreign
from tests.toys import copy_bundle

LINK = CumulativeLink(8.0, (2.0, 4.0, 6.0))


def test_the_pool_by_hand():
    pool = LogLinearPool(Temperature(), LINK, (0.5, 2.0))
    outputs = np.array([[1.0, 0.0, -1.0, 2.0, 0.6], [0.0, 0.0, 0.0, 0.0, 0.9]])
    own, cosine = Temperature().probabilities(outputs[:, :4]), LINK.probabilities(outputs[:, 4])
    expected = np.sqrt(own) * cosine**2
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pool.probabilities(outputs), expected, atol=5e-4)  # a floor is put under it
    assert calibration_from_dict(json.loads(json.dumps(pool.to_dict()))) == pool


@given(
    outputs=arrays(np.float64, (6, 5), elements=st.floats(-30, 30)),
    weights=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
)
def test_pooled_rows_are_probabilities(outputs, weights):
    found = LogLinearPool(Temperature(), LINK, weights).probabilities(outputs)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], ["a", 1.0]])
def test_a_damaged_pool_is_told(weights):
    content = {**LogLinearPool(Temperature(), LINK, (1.0, 1.0)).to_dict(), "weights": weights}
    with pytest.raises(CalibrationError, match="damaged"):
        calibration_from_dict(content)


def views(seed, count=3000):
    """Two judges of the same pairs, each with errors of its own: outputs (N, 5), labels, queries."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=count)
    labels = np.searchsorted([-1.0, 0.0, 1.0], truth)
    seen, cosines = (truth + rng.normal(scale=0.7, size=count) for _ in range(2))
    logits = np.stack([-((seen - centre) ** 2) for centre in (-1.5, -0.5, 0.5, 1.5)], axis=1)
    outputs = np.column_stack([logits, 0.5 + 0.1 * cosines])
    return outputs, labels, [str(row // 10) for row in range(count)]


def test_what_errs_differently_is_better_together():
    outputs, labels, queries = views(0)
    pool, losses = fit_pool(outputs, labels, queries)
    assert set(losses) == {"log_linear_pool", "scorer", "encoder"}
    assert losses["log_linear_pool"] < min(losses["scorer"], losses["encoder"]) - 0.05
    held_out = cross_validated_probabilities(pool, outputs, labels, queries)
    assert log_loss(labels, held_out) == pytest.approx(losses["log_linear_pool"], abs=1e-6)
    fresh, other, _ = views(1)
    assert log_loss(other, pool.probabilities(fresh)) == pytest.approx(losses["log_linear_pool"], abs=0.05)


def test_the_weights_are_the_likeliest():
    outputs, labels, queries = views(2)
    pool, _ = fit_pool(outputs, labels, queries)
    best = log_loss(labels, pool.probabilities(outputs))
    for a in (0.9, 1.0, 1.1):
        for b in (0.9, 1.0, 1.1):
            weights = (a * pool.weights[0], b * pool.weights[1])
            moved = LogLinearPool(pool.scorer, pool.encoder, weights)
            assert log_loss(labels, moved.probabilities(outputs)) >= best - 1e-6


def test_a_judge_that_knows_nothing_has_no_say():
    outputs, labels, queries = views(3, count=2000)
    outputs[:, 4] = np.random.default_rng(0).normal(size=len(labels)) * 0.1
    pool, losses = fit_pool(outputs, labels, queries)
    assert losses["log_linear_pool"] <= losses["scorer"] + 1e-3
    low, high = outputs.copy(), outputs.copy()
    low[:, 4], high[:, 4] = -0.1, 0.1
    assert np.abs(pool.probabilities(low) - pool.probabilities(high)).max() < 0.03


@pytest.fixture(scope="module")
def world():
    return generate(seed=3, n_documents=200, n_queries=10)


@pytest.fixture(scope="module")
def made(tmp_path_factory, world, toy_bundle):
    """An encoder, an index, and a scorer's bundle that was calibrated beside the encoder."""
    folder = tmp_path_factory.mktemp("pool")
    bundle = copy_bundle("scorer-bundle-v1", folder / "scorer", variants=["fp32"])
    embedder = Embedder(toy_bundle, variant="fp32")
    (report,) = calibrate_bundle(bundle, world.pairs, encoder=embedder)
    index = Index.build(folder / "index", world.documents[:100], embedder)
    return embedder, index, bundle, report


@pytest.mark.slow
def test_a_pool_is_measured_as_it_is_served(made, world):
    embedder, _, bundle, report = made
    assert report.method == "log_linear_pool"
    model = PooledScorer(CrossEncoder(open_pair_model(bundle).bundle), embedder)
    pooled, alone = evaluate(model, world.pairs), evaluate(model.scorer, world.pairs)
    assert pooled.grading.log_loss < alone.grading.log_loss
    pairs = [(pair.query, pair.document) for pair in world.pairs[:50]]
    cosines = BiEncoder(embedder).outputs(pairs).scores
    found = RelevanceScorer(bundle, encoder=embedder).predict(pairs)
    by_hand = model.calibration.probabilities(np.column_stack([model.scorer.logits(pairs), cosines]))
    np.testing.assert_allclose(found.probabilities, by_hand, atol=1e-6)
    np.testing.assert_allclose(found.scores, by_hand @ np.arange(4), atol=1e-5)


def test_a_search_takes_the_cosines_that_it_knows(made, monkeypatch):
    embedder, index, bundle, _ = made
    scorer = RelevanceScorer(bundle, encoder=embedder)
    monkeypatch.setattr(Embedder, "encode_document", None)  # nothing is encoded again
    hits = Searcher(embedder, index, scorer).search("红烧肉", k=5)
    monkeypatch.undo()
    assert len(hits) == 5
    assert hits.scored == hits.candidates
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    direct = scorer.predict([("红烧肉", hit.document) for hit in hits])
    np.testing.assert_allclose([hit.score for hit in hits], direct.scores, atol=1e-4)
    assert [hit.level for hit in hits] == [direct[row].level for row in range(5)]


def test_what_does_not_fit_together_is_told(made, toy_bundle, tmp_path):
    embedder, index, bundle, _ = made
    with pytest.raises(InputError, match="is no scorer"):
        RelevanceScorer(toy_bundle, encoder=embedder)
    with pytest.raises(InputError, match="one each is needed"):
        run_flow(RelevanceScorer(bundle, encoder=embedder).model.flow([("a", "b")], [0.5, 0.6]))
    other = Embedder(make_foreign(copy_bundle("encoder-bundle-v1", tmp_path / "another")))
    with pytest.raises(CalibrationError, match=r"was not calibrated beside another.*--encoder"):
        RelevanceScorer(bundle, encoder=other)
    narrow = Embedder(toy_bundle, variant="fp32", truncate_dim=8)
    with pytest.raises(CalibrationError, match="was not calibrated beside"):
        RelevanceScorer(bundle, encoder=narrow)
    beside = RelevanceScorer(bundle, encoder=embedder)
    beside.model.embedder = other
    with pytest.raises(EncoderMismatchError):
        Searcher(embedder, index, beside)


def test_the_commands(made, world, toy_bundle, tmp_path, relsdk):
    _, index, bundle, _ = made
    scorer = shutil.copytree(bundle, tmp_path / "scorer")
    write_pairs(tmp_path / "pairs.jsonl", world.pairs)
    code, out, err = relsdk("calibrate", scorer, tmp_path / "pairs.jsonl", "--encoder", toy_bundle)
    assert code == 0, err
    assert "log_linear_pool" in out
    rows = {}
    for options in ([], ["--encoder", toy_bundle]):
        code, out, err = relsdk("eval", scorer, tmp_path / "pairs.jsonl", *options, "--json")
        assert code == 0, err
        rows[len(options)] = json.loads(out)[0]
    assert rows[2]["grading"]["log_loss"] < rows[0]["grading"]["log_loss"]
    code, out, err = relsdk("query", index.path, "红烧肉", "--scorer", scorer, "-m", toy_bundle, "--json")
    assert code == 0, err
    served = {hit["id"]: hit["score"] for hit in json.loads(out)["hits"]}
    pooled = RelevanceScorer(scorer, encoder=Embedder(toy_bundle))
    hits = Searcher(Embedder(toy_bundle), index, pooled).search("红烧肉")
    assert served == pytest.approx({hit.document.id: hit.score for hit in hits}, abs=1e-3)
    code, _, err = relsdk("eval", toy_bundle, tmp_path / "pairs.jsonl", "--encoder", toy_bundle)
    assert code == 2
    assert "is no scorer" in err
