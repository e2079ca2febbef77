"""Budgets by a clock that the test turns."""

import math

import pytest

from relsdk.errors import InputError
from relsdk.search.time_budget import CostEstimate, Deadline


def test_a_deadline_counts_from_when_it_is_made():
    now = 5.0
    deadline = Deadline(20, lambda: now)
    assert deadline.is_set
    now = 5.015
    assert deadline.elapsed == pytest.approx(0.015)
    assert deadline.left == pytest.approx(0.005)
    now = 5.1
    assert deadline.left < 0
    assert Deadline(None).left == Deadline(math.inf).left == math.inf
    assert not Deadline(None).is_set


@pytest.mark.parametrize("budget", [0, -1, 0.0, math.nan, -math.inf, True, "20"])
def test_a_wrong_budget_is_an_error(budget):
    with pytest.raises(InputError, match=r"budget_ms=.*above 0"):
        Deadline(budget)


def test_an_estimate_by_hand():
    cost = CostEstimate()
    assert cost.seconds is None
    assert cost.fitting(1.0, 8) == 1  # the one that is measured
    cost.note(1, 99.0)  # loading: thrown away
    assert cost.seconds is None
    cost.note(4, 0.4)  # mean 0.1, deviation 0.05
    assert cost.seconds == pytest.approx(0.3)
    cost.note(1, 0.18)  # error 0.08: mean 0.11, deviation 0.05 + (0.08 - 0.05) / 4
    assert cost.seconds == pytest.approx(0.11 + 4 * 0.0575)


def test_what_fits():
    cost = CostEstimate()
    cost.note(1, 1.0)
    cost.note(1, 0.1)  # upper estimate 0.3
    fitting = [cost.fitting(left, 8) for left in (-1.0, 0.0, 0.29, 0.31, 1.0, 2.5, math.inf)]
    assert fitting == [0, 0, 0, 1, 3, 8, 8]
    assert cost.fitting(1.0, 0) == 0


def test_a_steady_cost_is_believed_more_and_more_and_a_refusal_is_not_for_ever():
    cost = CostEstimate()
    for _ in range(40):
        cost.note(8, 0.08)
    assert cost.seconds == pytest.approx(0.01, rel=0.01)
    cost.note(1, 5.0)  # one slow moment
    refusals = 0
    while not cost.fitting(0.02, 8):
        cost.relax()
        refusals += 1
    assert 0 < refusals < 1000


def test_a_clock_that_stands_still_is_no_error():
    cost = CostEstimate()
    for _ in range(3):
        cost.note(2, 0.0)
    assert cost.fitting(0.001, 8) == 8
