import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk import RelevanceLevel
from relsdk.errors import InputError
from relsdk.levels import (
    cumulative_to_probabilities,
    expected_level,
    most_probable_level,
    parse_level,
)


@pytest.mark.parametrize(("value", "level"), [(0, 0), (3, 3), ("2", 2), (1.0, 1), (" 3 ", 3)])
def test_labels_that_are_levels(value, level):
    assert parse_level(value) is RelevanceLevel(level)


@pytest.mark.parametrize("value", [7, -1, 1.5, "x", None, True, float("nan"), float("inf"), [1]])
def test_labels_that_are_not(value):
    with pytest.raises(InputError, match="allowed are 0, 1, 2 and 3"):
        parse_level(value)


def test_by_hand():
    probabilities = cumulative_to_probabilities([[0.9, 0.5, 0.2], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(probabilities, [[0.1, 0.4, 0.3, 0.2], [1.0, 0.0, 0.0, 0.0]])
    assert most_probable_level(probabilities).tolist() == [1, 0]
    np.testing.assert_allclose(expected_level(probabilities), [0.4 + 0.6 + 0.6, 0.0])


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=20))
def test_round_trip(rows):
    cumulative = np.sort(np.array(rows), axis=1)[:, ::-1]
    probabilities = cumulative_to_probabilities(cumulative)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    again = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]
    np.testing.assert_allclose(again, cumulative, atol=1e-12)
