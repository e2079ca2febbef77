import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk_export.int8._rounding import _DAMPING, pass_errors, round_columns, round_rows


def product_error(weights, rounded, scale, covariance):
    wrong = weights - rounded * scale
    return np.trace(wrong.T @ covariance @ wrong)


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 127]))
@settings(max_examples=20, deadline=None)
def test_rows_and_columns_stay_in_range_and_within_half_a_step(seed, largest):
    weights = np.random.default_rng(seed).normal(size=(9, 5)).astype(np.float32)
    for rounded, scale in (round_rows(weights, largest), round_columns(weights, largest)):
        assert np.abs(rounded).max() == largest
        assert (np.abs(rounded * scale - weights) <= 0.5001 * scale).all()


def test_correlated_channels_share_their_errors():
    """Two equal channels of weight 0.6 and 0.6: one rounds up and the other down, so the sum is near 1.2."""
    weights = np.array([[0.6], [0.6], [127.0]], dtype=np.float32)  # the last sets the scale to 1
    covariance = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=np.float32)
    nearest, scale = round_columns(weights, 127)
    together, _ = round_columns(weights, 127, pass_errors(covariance))
    assert scale == pytest.approx(1.0)
    assert nearest[:2, 0].tolist() == [1, 1]
    assert sorted(together[:2, 0].tolist()) == [0, 1]
    assert together[2, 0] == 127


@pytest.mark.parametrize("width", [20, 300])  # one block and several
def test_the_error_of_the_product_falls(width):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(width, 16)).astype(np.float32)
    causes = rng.normal(size=(width, width // 4))
    covariance = (causes @ causes.T / width + 0.01 * np.eye(width)).astype(np.float32)
    errors = [
        product_error(weights, *round_columns(weights, 64, passing), covariance)
        for passing in (pass_errors(covariance), None)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(40, 8)).astype(np.float32)
    causes = rng.normal(size=(40, 10))
    covariance = (causes @ causes.T).astype(np.float32)
    whole, _ = round_columns(weights, 127, pass_errors(covariance))
    monkeypatch.setattr("relsdk_export.int8._rounding._BLOCK", 7)
    np.testing.assert_array_equal(round_columns(weights, 127, pass_errors(covariance))[0], whole)


def test_each_row_is_the_exact_least_squares_step():
    """Against Frantar et al.'s equation 3, with the inverse of the remaining channels computed anew."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(6, 3)).astype(np.float32)
    causes = rng.normal(size=(6, 6))
    covariance = (causes @ causes.T).astype(np.float32)
    rounded, scale = round_columns(weights, 127, pass_errors(covariance))
    order = np.argsort(-np.diagonal(covariance))
    damped = covariance.astype(np.float64) + _DAMPING * np.diagonal(covariance).mean() * np.eye(6)
    damped = damped[np.ix_(order, order)]
    rest, expected = (weights / scale).astype(np.float64)[order], np.empty((6, 3))
    for row in range(6):
        inverse = np.linalg.inv(damped[row:, row:])
        expected[row] = np.clip(np.rint(rest[row]), -127, 127)
        rest[row:] -= np.outer(inverse[:, 0], (rest[row] - expected[row]) / inverse[0, 0])
    np.testing.assert_array_equal(rounded[order], expected)


def test_channels_that_never_vary_are_rounded_to_the_nearest():
    weights = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    nearest, _ = round_columns(weights, 127)
    for varies in (np.zeros(5), np.array([1.0, 0.0, 2.0, 0.0, 1.0])):
        passing = pass_errors(np.diag(varies).astype(np.float32))
        np.testing.assert_array_equal(round_columns(weights, 127, passing)[0], nearest)
