"""What searches found, counted and compared: bins, noise that is not told, changes that are."""

import json
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from relsdk.calibration import SearchProfile
from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel
from relsdk.metrics import population_stability_index
from relsdk.records import Document, Hit, Relevance, SearchResult, Signals
from relsdk.typed_json import convert_json

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.38)  # no hit, then 0 to 3


def result(level=None, score=0.8, *, order="cosine", signals=None, candidates=1):
    relevance = None
    if level is not None:
        probabilities = tuple(np.eye(4)[level].tolist())
        relevance = Relevance(RelevanceLevel(level), probabilities, float(level), score)
    best = Hit(Document("d", "t"), score, relevance, signals=signals)
    return SearchResult([], order=order, candidates=candidates, best=best)


def bins(profile):
    """Return the bins that are not empty, by kind."""
    return {
        kind: {number: count for number, count in enumerate(getattr(profile, kind)) if count}
        for kind in profile.kinds()
        if profile.searches(kind)
    }


def test_where_each_search_is_counted():
    profile = SearchProfile()
    for level, score in ((0, -0.3), (3, 0.0), (3, 0.8049), (2, 0.8051), (1, 1.0), (1, 1.00001)):
        profile.note_search(result(level, score))
    assert bins(profile) == {"level": {1: 1, 2: 2, 3: 1, 4: 2}, "cosine": {0: 2, 160: 1, 161: 1, 199: 2}}


def test_what_is_not_known_is_not_counted():
    profile = SearchProfile()
    profile.note_search(result(None, 0.5))  # an encoder without levels
    profile.note_search(result(3, 7.25, order="scorer"))  # its score is no cosine
    profile.note_search(SearchResult([], order="scorer", candidates=9))  # no time for any
    assert bins(profile) == {"cosine": {100: 1}, "level": {4: 1}}
    profile.note_search(SearchResult([]))  # nothing is there
    profile.note_search(result(2, 7.25, order="scorer", signals=Signals(0.5, 1.0, 2.0, 1, 1)))
    assert bins(profile) == {"cosine": {100: 2}, "level": {0: 1, 3: 1, 4: 1}}


def test_lengths_and_unknown_tokens():
    profile = SearchProfile()
    for tokens, unknown in ((3, 0), (20, 2), (8, 2), (8, 4), (8, 5), (64, 64), (500, 0)):
        profile.note_query([9] * unknown + [1] * (tokens - unknown), 9)
    profile.note_query([], 9)
    profile.note_query([0, 0], None)
    assert bins(profile) == {
        "tokens": {0: 1, 2: 1, 3: 1, 8: 3, 20: 1, 64: 2},
        "unknown": {0: 4, 1: 1, 2: 1, 3: 1, 4: 2},
    }


@lru_cache
def shares(cosine, levels, tokens, unknown):
    """Distributions as an index of short titles may have them."""
    return {
        "cosine": np.diff(stats.norm(cosine, 0.03).cdf([-9, *np.arange(1, 200) / 200, 9])),
        "level": levels,
        "tokens": [*stats.poisson(tokens).pmf(np.arange(-2, 62)), stats.poisson(tokens).sf(61)],
        "unknown": (1 - unknown, *[unknown / 4] * 4),
    }


def simulated(rng, searches, *, cosine=0.86, levels=LEVELS, tokens=6.0, unknown=0.01):
    drawn = shares(cosine, levels, tokens, unknown)
    return SearchProfile(**{kind: rng.multinomial(searches, p).tolist() for kind, p in drawn.items()})


@pytest.mark.parametrize(("before", "now"), [(1000, 387), (1000, 2000), (558, 558), (100_000, 280)])
def test_chance_is_no_change(before, now):
    """Of a thousand comparisons without a change hardly one is above 0.1, and none above 0.25."""
    rng = np.random.default_rng(before + now)
    shifts = [simulated(rng, now).shifts_from(simulated(rng, before)) for _ in range(1000)]
    assert all(set(one) == set(SearchProfile.kinds()) for one in shifts)
    for kind in SearchProfile.kinds():
        values = np.array([one[kind] for one in shifts])
        assert (values >= 0.1).sum() <= 4, kind  # one is expected; five or more have a chance of 0.4 %
        assert values.max() < 0.25


@pytest.mark.parametrize(("before", "now"), [(1000, 386), (278, 10**6), (557, 557), (0, 10**6), (10**6, 0)])
def test_of_too_few_searches_nothing_is_said(before, now):
    rng = np.random.default_rng(0)
    assert simulated(rng, now).shifts_from(simulated(rng, before)) == {}


@pytest.mark.parametrize(
    ("kind", "change", "least"),
    [
        ("cosine", {"cosine": 0.83}, 0.25),
        ("cosine", {"cosine": 0.85}, 0.05),
        ("level", {"levels": (0.1, 0.25, 0.25, 0.2, 0.2)}, 0.25),
        ("tokens", {"tokens": 9.0}, 0.25),
        ("unknown", {"unknown": 0.15}, 0.25),
    ],
)
def test_a_change_is_told_and_of_nothing_else(kind, change, least):
    rng = np.random.default_rng(1)
    reference = simulated(rng, 3000)
    for _ in range(20):
        shifts = simulated(rng, 1000, **change).shifts_from(reference)
        assert shifts.pop(kind) >= least
        assert max(shifts.values()) < 0.1


def test_the_index_of_ten_equal_groups():
    """An independent way to it: quantiles of the values themselves, and scipy's divergence."""
    rng = np.random.default_rng(2)
    values = [np.sort(rng.uniform(0, 1, 20_000)), np.sort(rng.uniform(0.1, 1.0, 20_000))]
    edges = np.quantile(values[0], np.arange(1, 10) / 10)
    before, now = (np.bincount(np.searchsorted(edges, one), minlength=10) + 0.5 for one in values)
    expected = stats.entropy(before, now) + stats.entropy(now, before)
    profiles = [SearchProfile(), SearchProfile()]
    for profile, numbers in zip(profiles, values, strict=True):
        profile.cosine[:] = np.bincount((numbers * 200).astype(int), minlength=200).tolist()
    assert profiles[1].shifts_from(profiles[0]) == {"cosine": pytest.approx(expected, rel=0.05)}


def test_levels_are_not_joined():
    """A level of which there was hardly one is seen when it comes."""
    before, now = SearchProfile(), SearchProfile()
    before.level[:] = [0, 2, 100, 400, 500]
    now.level[:] = [60, 2, 100, 400, 440]
    assert now.shifts_from(before) == {
        "level": pytest.approx(population_stability_index(before.level, now.level))
    }
    assert now.shifts_from(before)["level"] > 0.25


def test_hours_add_up_to_a_day():
    rng = np.random.default_rng(3)
    hours = [simulated(rng, 50) for _ in range(24)]
    day = SearchProfile.sum_of(hours)
    for kind in day.kinds():
        assert getattr(day, kind) == np.sum([getattr(hour, kind) for hour in hours], axis=0).tolist()
    assert SearchProfile.sum_of([]) == SearchProfile()


def test_the_json_form():
    profile = simulated(np.random.default_rng(4), 10)
    content = json.loads(json.dumps(profile.to_dict()))

    def read(**changed):
        return convert_json({**content, **changed}, SearchProfile, where="x", error=InputError, remedy="y")

    assert read() == profile
    for changed in ({"level": [1, 2, 3]}, {"cosine": [0] * 199 + [-1]}, {"tokens": [0.5] * 65}, {"more": []}):
        with pytest.raises(InputError, match="x is damaged"):
            read(**changed)
