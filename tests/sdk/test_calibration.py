import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.calibration import (
    SplineLink,
    Temperature,
    calibration_from_dict,
    cross_validated_probabilities,
    fit_calibration,
    method_name,
)
from relsdk.calibration._models import CumulativeLink
from relsdk.calibration._newton import LinkLoss, minimise
from relsdk.calibration.fitting import (
    BEND,
    _PoolLoss,
    _SplineLoss,
    _TemperatureLoss,
    fit_spline_link,
    fit_temperature,
)
from relsdk.errors import CalibrationError, InputError

BIASED = {"method": "bias_corrected_temperature", "temperature": 1.0, "ordinal": False}
TRUE = CumulativeLink(20.0, (15.0, 16.5, 17.5))
CURVES = {"method": "isotonic", "scores": [[0.0, 1.0]] * 3, "values": [[0.2, 0.9]] * 3}
SPLINE = SplineLink((0.0, 1.0, 3.0), (0.0, 1.0, 1.5), (-1.0, 0.5, 1.25)).to_dict()
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


def test_a_spline_goes_through_its_knots_and_on_beyond():
    spline = calibration_from_dict(SPLINE)
    x = [-2.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0]
    f = np.array([-2.0, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0])  # slopes 1 and 1/4, also outside
    at_least = 1 / (1 + np.exp(-(f[:, None] - [-1.0, 0.5, 1.25])))
    found = spline.probabilities(x)
    np.testing.assert_allclose(found[:, ::-1].cumsum(axis=1)[:, 2::-1], at_least, atol=2e-4)
    crowded = calibration_from_dict({**SPLINE, "transform": "log_distance"})
    np.testing.assert_allclose(
        crowded.probabilities(1.001 - np.exp(-np.array(x[2:6]))), found[2:6], atol=1e-9
    )


def test_of_logits_a_spline_takes_the_expected_level():
    spline = calibration_from_dict(SPLINE)
    shares = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    expected = spline.probabilities(shares @ [0, 1, 2, 3])
    np.testing.assert_allclose(spline.probabilities(np.log(shares) + 5), expected, atol=1e-3)
    at_least = shares[:, ::-1].cumsum(axis=1)[:, 2::-1]
    np.testing.assert_allclose(spline.probabilities(np.log(at_least / (1 - at_least))), expected, atol=1e-3)


def test_a_straight_link_is_found_again():
    scores, labels, _ = draw(TRUE, 40_000, 0)
    at = np.linspace(0.6, 1.0, 50)
    for transform in ("identity", "log_distance"):
        found = fit_spline_link(scores, labels, transform)
        np.testing.assert_allclose(found.probabilities(at), TRUE.probabilities(at), atol=0.03)


def test_a_spline_reaches_the_posterior_of_an_independent_optimiser():
    optimize, special = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.special")
    scores, labels, _ = draw(TRUE, 800, 1)
    found = fit_spline_link(scores, labels)
    knots = np.quantile(scores, np.linspace(0, 1, 13))
    np.testing.assert_allclose(found.knots, knots)

    def loss(slopes, cuts):
        values = np.concatenate([[0.0], np.cumsum(np.exp(slopes) * np.diff(knots))])
        at_least = special.expit(np.interp(scores, knots, values)[:, None] - cuts)
        bounds = np.hstack([np.ones((800, 1)), at_least, np.zeros((800, 1))])
        likelihood = (bounds[:, :-1] - bounds[:, 1:])[np.arange(800), labels]
        prior = special.pseudo_huber(1.0, np.diff(slopes) / 0.3).sum() / 800
        return prior - np.log(np.maximum(likelihood, 1e-12)).mean()

    start = [*np.full(12, np.log(10.0)), 8.0, 9.0, 10.0]
    best = optimize.minimize(lambda p: loss(p[:12], np.sort(p[12:])), start, method="BFGS")
    own = loss(np.log(np.diff(found.values) / np.diff(found.knots)), np.array(found.cuts))
    assert own <= best.fun + 1e-5


def test_few_pairs_do_not_bend_a_spline():
    """Of few pairs of a straight link the prior keeps the fit near to it."""
    at = np.linspace(0.6, 1.0, 200)

    def divergence(bend):
        drawn = [draw(TRUE, 80, seed)[:2] for seed in range(10)]
        found = [fit_spline_link(*one, bend=bend).probabilities(at) for one in drawn]
        true = TRUE.probabilities(at)
        return np.mean([(true * np.log(true / one)).sum(axis=1).mean() for one in found])

    assert divergence(BEND) < 0.8 * divergence(1e3)


def test_many_pairs_bend_a_spline():
    """A plateau that no straight link has."""
    rng = np.random.default_rng(4)
    scores = rng.uniform(0.6, 1.0, 4000)
    labels = np.where(scores < 0.8, 0, np.where(rng.random(4000) < 0.5, 1, np.where(scores < 0.95, 2, 3)))
    found = fit_spline_link(scores, labels).probabilities([0.7, 0.86, 0.89, 0.92])
    np.testing.assert_allclose(found[0, 0], 1.0, atol=0.02)
    np.testing.assert_allclose(found[1:, 1], 0.5, atol=0.07)
    straight = fit_spline_link(scores, labels, bend=1e-3).probabilities([0.86, 0.89, 0.92])
    assert np.abs(straight[:, 1] - 0.5).max() > 0.1


def ordered(logits):
    return -np.sort(-logits, axis=1)


LOSSES = {
    "link": lambda rng, labels: (LinkLoss(rng.normal(size=(60, 4)), labels, 0.1), 7),
    "spline": lambda rng, labels: (_SplineLoss(rng.random((60, 5)), labels), 8),
    "temperature": lambda rng, labels: (_TemperatureLoss(rng.normal(size=(60, 4)) * 3, labels), 1),
    "biases": lambda rng, labels: (_TemperatureLoss(rng.normal(size=(60, 4)) * 3, labels), 4),
    "ordinal": lambda rng, labels: (_TemperatureLoss(ordered(rng.normal(size=(60, 3)) * 3), labels), 1),
    "ordinal biases": lambda rng, labels: (_TemperatureLoss(rng.normal(size=(60, 3)) * 3, labels), 4),
    "pool": lambda rng, labels: (_PoolLoss(np.log(rng.dirichlet(np.ones(4), size=(2, 60))), labels), 2),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("levels", [(0, 1, 2, 3), (0, 1, 3)])
def test_derivatives_are_those_of_the_value(name, levels):
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        loss, size = LOSSES[name](rng, rng.choice(levels, size=60))
        theta = rng.uniform(0.1, 1.0, size)
        gradient, hessian = loss.derivatives(theta)
        np.testing.assert_allclose(gradient, optimize.approx_fprime(theta, loss.value, 1e-7), atol=1e-5)
        slopes = optimize.approx_fprime(theta, lambda point, loss=loss: loss.derivatives(point)[0], 1e-7)
        np.testing.assert_allclose(hessian, slopes.reshape(size, size), atol=1e-5)


def test_a_minimum_may_lie_on_a_bound():
    """Of x^2 + xy + y^2 - 3y, whose least value of all is at (-1, 2)."""
    curvature, pull = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([0.0, -3.0])

    class Bowl:
        def value(self, theta):
            return theta @ curvature @ theta / 2 + pull @ theta

        def derivatives(self, theta):
            return curvature @ theta + pull, curvature

    for start in ([0.0, 0.0], [0.5, 0.25], [0.0, 1.0], [9.0, -9.0]):
        for lowest, highest, least in (
            (-9, 9, [-1, 2]),
            (0, 9, [0, 1.5]),
            (-9, 1, [-0.5, 1]),
            (0, 1, [0, 1]),
        ):
            np.testing.assert_allclose(minimise(Bowl(), np.array(start), lowest, highest), least, atol=1e-7)


def test_scores_that_are_all_the_same_give_the_shares():
    labels = np.arange(80) % 4
    found = fit_spline_link(np.full(80, 0.5), labels).probabilities([0.5])
    np.testing.assert_allclose(found, [[0.25] * 4], atol=1e-3)


@given(st.integers(0, 10_000), st.sampled_from(["identity", "log_distance"]))
@settings(max_examples=20, deadline=None)
def test_probabilities_are_proper_and_monotone(seed, transform):
    scores, labels, _ = draw(TRUE, 200, seed)
    model = fit_spline_link(scores, labels, transform)
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
    assert losses.keys() == {"temperature", "bias_corrected_temperature", "spline_link"}
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


def test_a_head_that_is_too_sure_gets_a_spline():
    """Its levels rise with what it expects, but not as any temperature has them."""
    rng = np.random.default_rng(4)
    heat = rng.normal(size=2000)
    logits = np.column_stack([-4 * heat, np.full(2000, -2.0), np.full(2000, -2.0), 4 * heat])
    labels = np.digitize(2 * heat + rng.logistic(size=2000), [-1.5, 0, 1.5])
    groups = [f"q{i // 8}" for i in range(2000)]
    model, losses = fit_calibration(logits, labels, groups)
    assert isinstance(model, SplineLink)
    assert losses["spline_link"] < losses["bias_corrected_temperature"] < losses["temperature"]


def test_held_out_probabilities_never_saw_the_pairs_own_group():
    """Other labels for one group change nothing about that group, and something about the others."""
    scores, labels, groups = draw(TRUE, 400, 5)
    odd = np.array(groups) == "q7"
    other = np.where(odd, 3 - labels, labels)
    method, _ = fit_calibration(scores, labels, groups)
    before = cross_validated_probabilities(method, scores, labels, groups)
    after = cross_validated_probabilities(method, scores, other, groups)
    np.testing.assert_array_equal(before[odd], after[odd])
    assert np.abs(before[~odd] - after[~odd]).max() > 1e-4
    with pytest.raises(InputError, match=r"by cumulative_link; .* spline_link_log_distance"):
        cross_validated_probabilities(TRUE, scores, labels, groups)


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
        {**SPLINE, "knots": [0.0, 1.0, 1.0]},
        {**SPLINE, "knots": [0.0, 1.0]},
        {**SPLINE, "knots": [0.0], "values": [0.0]},
        {**SPLINE, "knots": [0.0, 1e-320, 1.0]},
        {**SPLINE, "values": [0.0, 2.0, 1.5]},
        {**SPLINE, "values": [0.0, float("nan"), 1.5]},
        {**SPLINE, "cuts": [1.0, 0.0, 2.0]},
        {**SPLINE, "transform": "log"},
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
    assert losses.keys() == {"spline_link_log_distance"}
    assert method_name(model) == "spline_link_log_distance"
    assert np.abs(model.probabilities(scores) - crowded.probabilities(scores)).mean() < 0.02
    _, beyond = fit_calibration(scores * 5, labels, groups)
    assert beyond.keys() == {"spline_link"}


def test_what_the_damaged_ones_were_made_of_is_whole():
    for content in (CURVES, POOL, SPLINE, TRUE.to_dict()):
        assert calibration_from_dict(content).to_dict() == content
