import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.calibration import HybridLink, cross_validated_probabilities, fit_hybrid, hybrid_features
from relsdk.calibration._hybrid import fit_hybrid_link
from relsdk.errors import CalibrationError, IndexFolderError, InputError
from relsdk.typed_json import convert_json

TRUE = HybridLink(30.0, 6.0, (24.0, 26.0, 28.0))


def draw(model, n, seed):
    """Features of pairs, and labels drawn from the model's probabilities."""
    rng = np.random.default_rng(seed)
    features = np.stack([rng.uniform(0.6, 1.0, n), rng.uniform(0.0, 1.0, n) ** 4], axis=1)
    cumulative = model.probabilities(features).cumsum(axis=1)
    labels = (rng.random((n, 1)) > cumulative[:, :3]).sum(axis=1)
    return features, labels, [f"q{i // 8}" for i in range(n)]


def read(content):
    return convert_json(content, HybridLink, where="hybrid.json", error=IndexFolderError, remedy="again")


def test_the_words_count_by_the_square_of_their_share():
    found = hybrid_features([0.8, 0.7, 0.9], [0.0, 5.0, 10.0], 10.0)
    np.testing.assert_allclose(found, [[0.8, 0.0], [0.7, 0.25], [0.9, 1.0]])
    each = hybrid_features([0.8, 0.7], [0.0, 3.0], [0.0, 6.0])  # a query without words has no evidence
    np.testing.assert_allclose(each, [[0.8, 0.0], [0.7, 0.25]])


@pytest.mark.parametrize(
    ("cosines", "bm25", "best"),
    [
        ([0.1], [1.0, 2.0], 3.0),
        ([0.1, 0.2], [1.0, 2.0], [3.0]),
        ([np.nan], [1.0], 3.0),
        ([0.1], [np.inf], 3.0),
        ([0.1], [-1.0], 3.0),
        ([0.1], [1.0], -3.0),
        ([0.1], [1.0], np.nan),
    ],
)
def test_features_of_wrong_numbers_are_refused(cosines, bm25, best):
    with pytest.raises(InputError):
        hybrid_features(cosines, bm25, best)


def test_without_common_words_the_score_is_the_cosine():
    np.testing.assert_array_equal(TRUE.scores([[0.75, 0.0], [0.5, 1.0]]), [0.75, 0.5 + 6 / 30])


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_probabilities_are_proper_and_rise_with_each_feature(seed):
    features, labels, _ = draw(TRUE, 300, seed)
    model = fit_hybrid_link(features, labels)
    probabilities = model.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (probabilities > 0).all()
    for step in ([0.05, 0.0], [0.0, 0.05]):
        assert (model.scores(features + step) >= model.scores(features)).all()
        more = model.probabilities(features + step)
        assert (more[:, ::-1].cumsum(axis=1) >= probabilities[:, ::-1].cumsum(axis=1) - 1e-12).all()


def test_the_fit_recovers_the_parameters():
    features, labels, _ = draw(TRUE, 40_000, 0)
    found = fit_hybrid_link(features, labels)
    assert found.cosine_weight == pytest.approx(TRUE.cosine_weight, rel=0.03)
    assert found.words_weight == pytest.approx(TRUE.words_weight, rel=0.03)
    np.testing.assert_allclose(found.cuts, TRUE.cuts, rtol=0.03)
    assert fit_hybrid_link(features, labels) == found


@pytest.mark.parametrize("case", ["plain", "words against", "cosine against", "no level 2", "levels 0 and 3"])
def test_the_fit_reaches_the_likelihood_of_an_independent_optimiser(case):
    optimize = pytest.importorskip("scipy.optimize")
    features, labels, _ = draw(TRUE, 800, 1)
    if case == "words against":
        features[:, 1] = 1.0 - features[:, 1]
    if case == "cosine against":
        features[:, 0] = 1.6 - features[:, 0]
    if case == "no level 2":
        labels = np.where(labels == 2, 3, labels)
    if case == "levels 0 and 3":
        labels = np.where(labels >= 2, 3, 0)

    def loss(p):
        cuts = np.cumsum(p[2:])
        at_least = 1 / (1 + np.exp(-(features @ p[:2] - cuts[:, None]).T))  # (N, 3)
        bounds = np.hstack([np.ones((800, 1)), at_least, np.zeros((800, 1))])
        return -np.log(np.maximum((bounds[:, :-1] - bounds[:, 1:])[np.arange(800), labels], 1e-12)).mean()

    found = fit_hybrid_link(features, labels)
    bounds = [(0, 200), (0, 200), (-200, 200), (0, 50), (0, 50)]
    best = optimize.minimize(
        loss, [10.0, 1.0, 8.0, 1.0, 1.0], method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000}
    )
    own = [found.cosine_weight, found.words_weight, found.cuts[0], *np.diff(found.cuts)]
    assert loss(own) <= best.fun + 1e-4
    if case.endswith("against"):
        assert [found.words_weight, found.cosine_weight][case == "cosine against"] <= 1e-6


def test_levels_without_an_error_keep_the_parameters_finite():
    features = np.stack([np.linspace(0.5, 1.0, 80), np.zeros(80)], axis=1)
    found = fit_hybrid_link(features, np.repeat([0, 1, 2, 3], 20))
    assert read(json.loads(json.dumps(found.to_dict()))) == found
    assert found.probabilities(features).argmax(axis=1).tolist() == np.repeat([0, 1, 2, 3], 20).tolist()


def test_held_out_loss_shows_what_the_words_add():
    features, labels, queries = draw(TRUE, 2_000, 3)
    found, losses = fit_hybrid(features, labels, queries)
    assert losses["hybrid"] < losses["cosine"] - 0.02
    assert found == fit_hybrid_link(features, labels)
    held_out = cross_validated_probabilities(found, features, labels, queries)
    loss = -np.log(held_out[np.arange(2_000), labels]).mean()
    assert loss == pytest.approx(losses["hybrid"])


def test_too_few_pairs_and_wrong_features_are_refused():
    features, labels, queries = draw(TRUE, 40, 3)
    with pytest.raises(CalibrationError, match="too few"):
        fit_hybrid(features, labels, queries)
    with pytest.raises(InputError, match="2 columns"):
        TRUE.probabilities([0.5, 0.6])
    with pytest.raises(InputError, match="finite"):
        TRUE.scores([[0.5, np.nan]])


@pytest.mark.parametrize(
    "change",
    [
        {"cosine_weight": 0.0},
        {"cosine_weight": 1e7},
        {"words_weight": -1.0},
        {"words_weight": "6"},
        {"cuts": [24.0, 26.0]},
        {"cuts": [24.0, 26.0, 25.0]},
        {"cuts": [0.0, 0.0, 1e10]},
        {"more": 1},
    ],
)
def test_what_is_read_is_checked(change):
    assert read(TRUE.to_dict()) == TRUE
    with pytest.raises(IndexFolderError, match=r"hybrid\.json"):
        read(TRUE.to_dict() | change)
