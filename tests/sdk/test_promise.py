"""A precision that is promised: its test against scipy, by hand, and in populations whose truth is known."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from relsdk.calibration import Promise, promise_precision
from relsdk.calibration._beta import regularised_incomplete_beta, student_quantile
from relsdk.calibration._promise import _first_count, _pairs_to_show
from relsdk.errors import CalibrationError, InputError
from relsdk.typed_json import convert_json


@given(st.floats(0.05, 5000), st.floats(0.05, 5000), st.floats(0, 1))
def test_the_incomplete_beta_is_scipys(a, b, x):
    assert regularised_incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), abs=1e-10)


@pytest.mark.parametrize("share", [0.6, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("freedom", [4, 9, 40, 1000])
def test_the_quantile_is_scipys(share, freedom):
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=5e-3)


def names(numbers):
    return [f"查询{number}" for number in numbers]


def promise(shares, right, queries, **wanted):
    """Promise for level >= 1, with labels of 0 and 1."""
    return promise_precision(shares, np.asarray(right, dtype=int), names(queries), level=1, **wanted)


@pytest.mark.parametrize(("pairs", "error"), [(700, 0.025), (2000, 0.05)])
def test_how_many_pairs_a_promise_of_090_needs(pairs, error):
    """As docs/concepts.md has it: with so many errors in the best eighth it passes, a tenth less fails."""
    needed = _pairs_to_show(error, 0.9, 0.95)
    assert _first_count(0.9, 0.95, pairs) >= needed
    assert pairs / 8 >= needed > 0.9 * pairs / 8


def test_a_promise_by_hand():
    """Without a wrong pair the test is 0.9^n <= 0.05: n = 29, and some more as a few queries say less."""
    found = promise(np.linspace(0.99, 0.6, 40), np.ones(40), range(40), precision=0.9)
    assert (found.level, found.precision, found.confidence) == (1, 0.9, 0.95)
    assert (found.pairs, found.queries, found.reached, found.recall) == (40, 40, 1.0, 1.0)
    assert found.threshold == pytest.approx(0.6)
    assert convert_json(found.to_dict(), Promise, where="x", error=InputError, remedy="") == found
    # 0.9^28 = 0.052 is too much, and so are 29 pairs of 29 queries: 29 * (1.645 / 1.701)^2 = 27.1
    for pairs in (28, 29):
        with pytest.raises(CalibrationError, match=f"{pairs} labelled pairs cannot show a precision of 0"):
            promise(np.linspace(0.99, 0.6, pairs), np.ones(pairs), range(pairs), precision=0.9)


def test_the_last_threshold_before_the_first_that_fails():
    """1,000 independent pairs, of which the first 400 are right: scipy's binomial test says where it ends."""
    shares, right = np.linspace(1, 0, 1000), np.arange(1000) < 400
    found = promise(shares, right, range(1000), precision=0.9)

    def p_value(n):  # independent: the design effect is that of a sample, n / (n - 1)
        rate = min(400 / n, 1)
        effect = max(1.0, n / (n - 1)) if rate < 1 else 1.0
        size = n / effect * (stats.norm.ppf(0.95) / stats.t.ppf(0.95, n - 1)) ** 2
        return special.betainc(rate * size, size - rate * size + 1, 0.9)

    counts = [125]  # an eighth of the pairs
    while counts[-1] < 1000:
        counts.append(int(np.ceil(counts[-1] * 1.05)))
    expected = next(before for before, n in pairwise(counts) if p_value(n) > 0.05)
    assert (found.pairs, found.queries) == (expected, expected)
    assert found.threshold == shares[expected - 1]
    assert found.recall == 1.0
    assert found.reached == 400 / expected


def test_a_tie_is_whole():
    shares = np.repeat([0.9, 0.8, 0.2], [300, 200, 500])
    right = np.arange(1000) < 500
    found = promise(shares, right, range(1000), precision=0.9)
    assert (found.threshold, found.pairs) == (0.8, 500)
    with pytest.raises(CalibrationError, match=r"1,000 pairs .* reach 0\.500"):
        promise(np.full(1000, 0.5), right, range(1000), precision=0.9)


def outcome(shares, labels, queries):
    """Return the promise, or what it says instead."""
    try:
        return promise(shares, labels, queries, precision=0.8)
    except CalibrationError as error:
        return str(error)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_only_the_order_of_the_shares_matters(seed):
    rng = np.random.default_rng(seed)
    shares = np.round(rng.random(600), 2)
    labels, queries = (rng.random(600) < shares**0.2).astype(int), rng.integers(0, 80, 600)
    places = rng.permutation(600)
    found = outcome(shares, labels, queries)
    cubed = outcome(shares[places] ** 3, labels[places], queries[places])
    if isinstance(found, str):
        assert cubed == found
        return
    above = shares >= found.threshold
    assert cubed.threshold == pytest.approx(found.threshold**3)
    assert cubed.pairs == found.pairs == above.sum()
    assert found.reached == pytest.approx(labels[above].mean())
    assert found.recall == pytest.approx(labels[above].sum() / labels.sum())


def test_a_confidence_of_a_half():
    """Few queries say as much as many then: Student's t and the normal have one median."""
    right = np.arange(40) < 38
    found = promise(np.linspace(0.99, 0.6, 40), right, range(40), precision=0.9, confidence=0.5)
    assert found.pairs == 40


def test_the_first_threshold_is_of_enough_queries():
    """A query whose pairs are the best is no reason to give up: which queries they are of is no label."""
    queries = np.concatenate([np.zeros(60, dtype=int), np.arange(1, 441)])
    found = promise(np.linspace(0.99, 0.1, 500), np.ones(500), queries, precision=0.8)
    assert found.pairs == 500
    with pytest.raises(CalibrationError):
        promise(np.linspace(0.99, 0.1, 500), np.ones(500), np.arange(500) // 125, precision=0.8)


def test_pairs_of_one_query_count_once():
    """Each pair five times, all of one query, says as much as each once; 2,500 of their own say more."""
    rng = np.random.default_rng(1)
    shares = rng.random(500)
    right = rng.random(500) < 0.7 + 0.3 * shares
    times = [np.repeat(one, 5) for one in (shares, right, np.arange(500))]
    one = promise(shares, right, range(500), precision=0.85)
    five = promise(*times, precision=0.85)
    assert five.queries == five.pairs / 5
    assert abs(five.queries - one.queries) < 0.1 * one.queries  # other steps
    apart = promise(*times[:2], range(2500), precision=0.85)
    assert apart.pairs > 1.1 * five.pairs


def test_equal_weights_change_nothing_and_others_do():
    rng = np.random.default_rng(2)
    shares = rng.random(800)
    right = rng.random(800) < shares**0.15
    plain = promise(shares, right, range(800), precision=0.9)
    assert promise(shares, right, range(800), precision=0.9, weights=np.full(800, 7.0)) == plain
    # wrong pairs that stand for four others each
    heavy = promise(shares, right, range(800), precision=0.8, weights=np.where(right, 1.0, 4.0))
    light = promise(shares, right, range(800), precision=0.8)
    assert heavy.pairs < light.pairs
    above = shares >= heavy.threshold
    weight = np.where(right, 1.0, 4.0)[above]
    assert heavy.reached == pytest.approx((weight * right[above]).sum() / weight.sum())


class Population:
    """Pairs whose query shifts all of its labels: P(right) = sigmoid(10 score - 4 + shift of the query)."""

    def __init__(self, spread):
        self.spread = spread
        scores, rates = self._pairs(np.random.default_rng(0), 100_000)[:2]
        order = np.argsort(-scores)
        self.scores, self.precision = scores[order], np.cumsum(rates[order]) / np.arange(1, len(order) + 1)

    def _pairs(self, rng, queries):
        query = np.repeat(np.arange(queries), rng.integers(1, 9, queries))
        scores = rng.random(len(query))
        rates = 1 / (1 + np.exp(4 - 10 * scores - rng.normal(0, self.spread, queries)[query]))
        return scores, rates, query

    def sample(self, rng, queries):
        scores, rates, query = self._pairs(rng, queries)
        return scores, rng.random(len(rates)) < rates, names(query)

    def precision_from(self, threshold):
        return self.precision[(self.scores >= threshold).sum() - 1]


@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize("confidence", [0.9, 0.7])
def test_promises_are_kept(spread, confidence):
    """Broken in at most 1 - confidence of the draws, with the luck of 120 of them, and not far above it."""
    population, rng = Population(spread), np.random.default_rng(3)
    given_away = []
    for _ in range(120):
        scores, right, query = population.sample(rng, 220)
        try:
            found = promise_precision(
                scores, right.astype(int), query, level=1, precision=0.9, confidence=confidence
            )
        except CalibrationError:
            continue
        given_away.append(population.precision_from(found.threshold) - 0.9)
    assert len(given_away) > 80
    broken = (np.array(given_away) < 0).sum()
    assert broken <= stats.binom.ppf(0.999, 120, 1 - confidence)
    assert np.median(given_away) < 0.04


def test_weights_make_up_for_how_pairs_were_chosen():
    """Wrong pairs were labelled a third as often: without weights the promise is broken, with them not."""
    population, rng = Population(1.0), np.random.default_rng(4)
    broken = {"plain": 0, "weighted": 0}
    for _ in range(40):
        scores, right, query = population.sample(rng, 500)
        kept = right | (rng.random(len(right)) < 1 / 3)
        weights = {"plain": None, "weighted": np.where(right, 1.0, 3.0)[kept]}
        for name, weight in weights.items():
            try:
                found = promise_precision(
                    scores[kept],
                    right[kept].astype(int),
                    np.array(query)[kept].tolist(),
                    level=1,
                    precision=0.85,
                    weights=weight,
                )
            except CalibrationError:
                continue
            broken[name] += population.precision_from(found.threshold) < 0.85
    assert broken["plain"] > 20
    assert broken["weighted"] <= stats.binom.ppf(0.999, 40, 0.05)


def test_what_it_would_take():
    """So many pairs as it says are enough in most cases, and the message says when none would be."""
    population, rng = Population(1.0), np.random.default_rng(5)

    def ask(queries):
        scores, right, query = population.sample(rng, queries)
        shares = 1 / (1 + np.exp((4 - 10 * scores) / 1.16))  # over the shifts of queries
        return promise_precision(shares, right.astype(int), query, level=1, precision=0.95)

    needed = []
    for _ in range(5):
        with pytest.raises(CalibrationError, match="it would take about") as error:
            ask(30)
        needed.append(int(str(error.value).split("about ")[1].split(" pairs")[0].replace(",", "")))
    assert 300 < min(needed) <= max(needed) < 5000
    made = 0
    for _ in range(20):
        try:
            made += ask(int(np.median(needed) / 4.5)).pairs > 0
        except CalibrationError:
            continue
    assert made >= 12
    noise = rng.random(2000) < 0.5
    with pytest.raises(CalibrationError, match="more pairs would hardly do: ask for a lower precision"):
        promise(0.4 + 0.2 * rng.random(2000), noise, range(2000), precision=0.8)
    with pytest.raises(CalibrationError):  # four queries do not tell how queries differ
        promise(np.linspace(0, 1, 400), np.ones(400), np.arange(400) % 4, precision=0.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 0}, "1, 2 or 3"),
        ({"precision": 1.0}, "between 0 and 1"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"confidence": 0.3}, "confidence=0.3"),
        ({"weights": [1.0, 0.0]}, "above 0"),
        ({"weights": [1.0]}, "same number"),
        ({"shares": [0.5, 1.5]}, "from 0 to 1"),
        ({"labels": [1]}, "same number"),
        ({"shares": [], "labels": [], "queries": []}, "at least one"),
    ],
)
def test_what_is_refused(change, message):
    wanted = {"level": 1, "precision": 0.9, "shares": [0.9, 0.1], "labels": [3, 0], "queries": ["a", "b"]}
    wanted |= change
    three = [wanted.pop(name) for name in ("shares", "labels", "queries")]
    with pytest.raises(InputError, match=message):
        promise_precision(*three, **wanted)
