import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.calibration import (
    CumulativeLink,
    Isotonic,
    Temperature,
    calibration_from_dict,
    cross_validated_probabilities,
    fit_calibration,
    method_name,
)
from relsdk.calibration.fitting import fit_cumulative_link, fit_isotonic, fit_temperature
from relsdk.errors import CalibrationError, InputError

BIASED = {"method": "bias_corrected_temperature", "temperature": 1.0, "ordinal": False}
TRUE = CumulativeLink(20.0, (15.0, 16.5, 17.5))
CURVES = {"method": "isotonic", "scores": [[0.0, 1.0]] * 3, "values": [[0.2, 0.9]] * 3}
POOL = {
    "method": "log_linear_pool",
    "scorer": Temperature().to_dict(),
    "encoder": TRUE.to_dict(),
    "weights": [1.0, 1.0],
}


def draw(model, n, seed, low=0.6, high=1.0):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(low, high, n)
    cumulative = model.probabilities(scores).cumsum(axis=1)
    labels = (rng.random((n, 1)) > cumulative[:, :3]).sum(axis=1)
    return scores, labels, [f"q{i // 8}" for i in range(n)]


def test_the_cumulative_link_recovers_its_parameters():
    scores, labels, _ = draw(TRUE, 40_000, 0)
    found = fit_cumulative_link(scores, labels)
    assert found.slope == pytest.approx(TRUE.slope, rel=0.03)
    np.testing.assert_allclose(found.cuts, TRUE.cuts, rtol=0.03)


def test_the_cumulative_link_reaches_the_likelihood_of_an_independent_optimiser():
    optimize = pytest.importorskip("scipy.optimize")
    scores, labels, _ = draw(TRUE, 800, 1)

    def loss(p):
        cuts = np.sort(p[1:])
        at_least = 1 / (1 + np.exp(-(p[0] * scores[:, None] - cuts)))
        bounds = np.hstack([np.ones((800, 1)), at_least, np.zeros((800, 1))])
        return -np.log(np.maximum((bounds[:, :-1] - bounds[:, 1:])[np.arange(800), labels], 1e-12)).mean()

    found = fit_cumulative_link(scores, labels)
    start = [10.0, 8.0, 9.0, 10.0]
    best = optimize.minimize(loss, start, method="Nelder-Mead", options={"maxiter": 20_000, "xatol": 1e-6})
    assert loss([found.slope, *found.cuts]) <= best.fun + 1e-5


def test_isotonic_equals_scikit_learn():
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(2)
    scores = np.round(rng.uniform(0, 1, 500), 2)  # many ties
    labels = np.clip(np.round(scores * 3 + rng.normal(0, 0.7, 500)), 0, 3).astype(int)
    found = fit_isotonic(scores, labels)
    at = rng.uniform(-0.1, 1.1, 300)
    for k in (1, 2, 3):
        oracle = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, labels >= k)
        np.testing.assert_allclose(
            np.interp(at, found.scores[k - 1], found.values[k - 1]), oracle.predict(at)
        )


def test_how_many_likelihoods_are_computed_at_once_changes_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    scores = rng.normal(size=300)
    labels = np.digitize(scores + rng.logistic(size=300), [-1, 0, 1])
    whole = fit_cumulative_link(scores, labels)
    for at_once in (1, 1000):
        monkeypatch.setattr("relsdk.calibration.fitting._AT_ONCE", at_once)
        assert fit_cumulative_link(scores, labels) == whole


@given(st.integers(0, 10_000), st.sampled_from([fit_cumulative_link, fit_isotonic]))
@settings(max_examples=20, deadline=None)
def test_probabilities_are_proper_and_monotone(seed, fit):
    scores, labels, _ = draw(TRUE, 200, seed)
    model = fit(scores, labels)
    probabilities = model.probabilities(np.linspace(0, 1.2, 200))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (probabilities > 0).all()
    at_least = probabilities[:, ::-1].cumsum(axis=1)
    assert (np.diff(at_least, axis=0) >= -1e-9).all()
    copy = calibration_from_dict(json.loads(json.dumps(model.to_dict())))
    np.testing.assert_array_equal(copy.probabilities([0.7, 0.9]), model.probabilities([0.7, 0.9]))


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_logits_give_back_their_temperature_and_biases(ordinal, biased):
    """On labels drawn from the probabilities of a temperature (and biases), the fit finds them."""
    biases = ((0.6, -0.4, -1.5) if ordinal else (0.0, -0.5, -1.0, 0.7)) if biased else ()
    true = Temperature(2.0, ordinal, biases)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5_000, 3 if ordinal else 4)) * 3
    if ordinal:
        logits = -np.sort(-logits, axis=1)
    labels = (rng.random((5_000, 1)) > true.probabilities(logits).cumsum(axis=1)[:, :3]).sum(axis=1)
    found, losses = fit_calibration(logits, labels, [str(i // 10) for i in range(len(labels))])
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    assert found.ordinal == ordinal
    np.testing.assert_allclose(found.biases, biases, atol=0.2)
    assert losses.keys() == {"temperature", "bias_corrected_temperature"}
    assert method_name(found) == ("bias_corrected_temperature" if biased else "temperature")
    assert calibration_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_biased_temperature_reaches_the_likelihood_of_an_independent_optimiser():
    optimize, special = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.special")
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(300, 4)), rng.choice(4, size=300, p=[0.1, 0.05, 0.25, 0.6])

    def loss(p):
        logs = special.log_softmax(logits / np.exp(p[0]) + np.array([0.0, *p[1:]]), axis=1)
        return -logs[np.arange(300), labels].mean()

    found = fit_temperature(logits, labels, biased=True)
    best = optimize.minimize(loss, np.zeros(4), bounds=[(-5, 5)] * 4)
    assert loss([np.log(found.temperature), *found.biases[1:]]) <= best.fun + 1e-4


def test_a_small_gain_that_is_sure_is_taken_of_biases():
    """Less than a percent, but beyond a standard error: against a smooth map nothing speaks."""
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(5_000, 4)) * 2
    true = Temperature(1.0, False, (0.0, -0.25, 0.0, 0.0))
    labels = (rng.random((5_000, 1)) > true.probabilities(logits).cumsum(axis=1)[:, :3]).sum(axis=1)
    found, losses = fit_calibration(logits, labels, [str(i // 10) for i in range(len(labels))])
    gain = 1 - losses["bias_corrected_temperature"] / losses["temperature"]
    assert 0 < gain < 0.01
    assert method_name(found) == "bias_corrected_temperature"


def test_a_level_without_pairs_leaves_the_biases_finite():
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(size=(200, 4)), rng.choice([0, 1, 3], size=200)
    found = fit_temperature(logits, labels, biased=True)
    assert np.isfinite(found.biases).all()
    assert found.probabilities(logits)[:, 2].max() < 0.05


def test_the_better_method_is_kept_by_held_out_log_loss():
    scores, labels, groups = draw(TRUE, 600, 3)
    model, losses = fit_calibration(scores, labels, groups)
    assert isinstance(model, CumulativeLink)
    assert losses["cumulative_link"] < losses["isotonic"]
    assert set(losses) == {"cumulative_link", "cumulative_link_log_distance", "isotonic"}
    # A plateau that no logistic curve has.
    rng = np.random.default_rng(4)
    scores = rng.uniform(0.6, 1.0, 4000)
    labels = np.where(scores < 0.8, 0, np.where(rng.random(4000) < 0.5, 1, np.where(scores < 0.95, 2, 3)))
    model, losses = fit_calibration(scores, labels, [f"q{i // 8}" for i in range(4000)])
    assert isinstance(model, Isotonic)
    assert losses["isotonic"] < losses["cumulative_link"]


def test_held_out_probabilities_never_saw_the_pairs_own_group():
    """Other labels for one group change nothing about that group, and something about the others."""
    scores, labels, groups = draw(TRUE, 400, 5)
    odd = np.array(groups) == "q7"
    other = np.where(odd, 3 - labels, labels)
    for method in (TRUE, Isotonic(((0.0,),) * 3, ((0.0,),) * 3)):
        before = cross_validated_probabilities(method, scores, labels, groups)
        after = cross_validated_probabilities(method, scores, other, groups)
        np.testing.assert_array_equal(before[odd], after[odd])
        assert np.abs(before[~odd] - after[~odd]).max() > 1e-4


def test_too_little_to_calibrate_on_is_said():
    scores, labels, groups = draw(TRUE, 400, 6)
    with pytest.raises(CalibrationError, match="too few"):
        fit_calibration(scores[:10], labels[:10], groups[:10])
    with pytest.raises(CalibrationError, match="too few"):
        fit_calibration(scores, labels, ["one"] * 400)
    with pytest.raises(CalibrationError, match="level >= 3"):
        fit_calibration(scores, np.minimum(labels, 2), groups)
    with pytest.raises(InputError, match="0, 1, 2 or 3"):
        fit_calibration(scores, labels + 5, groups)
    with pytest.raises(InputError, match="finite"):
        fit_calibration(scores * np.nan, labels, groups)
    with pytest.raises(InputError, match="same number"):
        fit_calibration(scores[1:], labels, groups)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"method": "magic"},
        {"method": "isotonic", "scores": [], "values": []},
        {"method": "cumulative_link"},
        BIASED,
        {**BIASED, "biases": [0.0] * 3},
        {**BIASED, "biases": ["a"] * 4},
        {**BIASED, "biases": [float("nan")] * 4},
        {"method": "temperature", "temperature": 0.0, "ordinal": False},
        {"method": "temperature", "temperature": -1.0, "ordinal": False},
        {"method": "temperature", "temperature": float("inf"), "ordinal": False},
        {"method": "temperature", "temperature": "1", "ordinal": False},
        {"method": "temperature", "temperature": 1.0, "ordinal": 0},
        {"method": "bias_corrected_temperature", "temperature": 1.0, "ordinal": False},
        {**TRUE.to_dict(), "slope": -1.0},
        {**TRUE.to_dict(), "slope": float("nan")},
        {**TRUE.to_dict(), "cuts": [1.0, 0.0, 2.0]},
        {**TRUE.to_dict(), "cuts": [0.0, 1.0, float("inf")]},
        {**TRUE.to_dict(), "cuts": [0.0, 1.0]},
        {**TRUE.to_dict(), "transform": "__class__"},
        {**CURVES, "scores": [[0.0, 0.0]] * 3},
        {**CURVES, "scores": [[1.0, 0.0]] * 3},
        {**CURVES, "scores": [[0.0, 1.0]] * 2},
        {**CURVES, "scores": [[0.0]] * 3},
        {**CURVES, "scores": [[]] * 3, "values": [[]] * 3},
        {**CURVES, "values": [[0.5, 0.4]] * 3},
        {**CURVES, "values": [[0.5, 1.1]] * 3},
        {**CURVES, "values": [[-0.1, 0.4]] * 3},
        {**POOL, "weights": [1.0, -1.0]},
        {**POOL, "weights": [1.0, float("nan")]},
        {**POOL, "encoder": POOL},
        {**POOL, "scorer": {"method": "magic"}},
        {**POOL, "scorer": None},
    ],
)
def test_a_damaged_calibration_is_an_error(content):
    with pytest.raises(CalibrationError, match="relsdk calibrate"):
        calibration_from_dict(content)


def test_crowded_cosines_get_the_log_distance():
    """Where a step near 1 means more than one below, and only there; never for scores beyond 1."""
    rng = np.random.default_rng(7)
    scores = 1 - np.exp(rng.uniform(-6, -1, 3000))
    crowded = CumulativeLink(1.5, (2.5, 4.0, 6.0), "log_distance")
    cumulative = crowded.probabilities(scores).cumsum(axis=1)
    labels = (rng.random((3000, 1)) > cumulative[:, :3]).sum(axis=1)
    groups = [f"q{i // 8}" for i in range(3000)]
    model, losses = fit_calibration(scores, labels, groups)
    assert method_name(model) == "cumulative_link_log_distance"
    assert model.slope == pytest.approx(1.5, rel=0.1)
    assert losses["cumulative_link_log_distance"] < losses["cumulative_link"]
    copy = calibration_from_dict(json.loads(json.dumps(model.to_dict())))
    np.testing.assert_array_equal(copy.probabilities(scores), model.probabilities(scores))
    _, beyond = fit_calibration(scores * 5, labels, groups)
    assert "cumulative_link_log_distance" not in beyond


def test_a_step_function_that_is_better_by_chance_only_is_not_taken():
    chosen = set()
    for seed in range(10):
        scores, labels, groups = draw(TRUE, 400, seed)
        chosen.add(method_name(fit_calibration(scores, labels, groups)[0]))
    assert chosen == {"cumulative_link"}


def test_what_the_damaged_ones_were_made_of_is_whole():
    for content in (CURVES, POOL, TRUE.to_dict()):
        assert calibration_from_dict(content).to_dict() == content
