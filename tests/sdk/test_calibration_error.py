"""Debiased calibration errors: toys computed by hand, and simulations whose truth is known."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from relsdk import metrics
from relsdk.cli._calibration_error import echo_calibration_errors
from relsdk.cli.evaluate import echo_evaluations
from relsdk.errors import InputError
from relsdk.metrics import debiased_ece, reliability_curve

CUTS = np.array([-1.0, 0.5, 2.0])


def simulate(rng, queries, sure=1.0, clustered=0.3):
    """Draw queries of 8 pairs. Probabilities are true for `sure` = 1, and too sure above.

    Each label is a draw from its pair's probabilities; with probability `clustered` the pair takes the
    uniform number of its query for it, which leaves the probability of each label as it is.
    """
    scores = 2.0 * (0.7 * rng.normal(size=(queries, 1)) + rng.normal(size=(queries, 8)))
    at_least = 1.0 / (1.0 + np.exp(CUTS - scores[..., None]))  # (Q, 8, 3)
    shared = rng.random((queries, 8)) < clustered
    uniform = np.where(shared, rng.random((queries, 1)), rng.random((queries, 8)))
    labels = (uniform[..., None] < at_least).sum(axis=-1).ravel()
    told = 1.0 / (1.0 + np.exp(sure * (CUTS - scores[..., None])))
    edges = np.concatenate([np.ones((*scores.shape, 1)), told, np.zeros((*scores.shape, 1))], axis=-1)
    probabilities = -np.diff(edges, axis=-1).reshape(-1, 4)
    return labels, probabilities, np.repeat(np.arange(queries), 8)


def every_error(report):
    return [report.debiased_ece, *report.debiased_ece_at_least]


class TestByHand:
    # One bin of confidence 0.5; queries a: two right, b: one wrong, c: one right of two.
    queries = ("a", "a", "b", "c", "c")
    outcomes = (1, 1, 0, 1, 0)

    def test_one_bin(self):
        found = debiased_ece([0.5] * 5, self.outcomes, self.queries, bins=1)
        gap = 3 / 5 - 0.5
        # sums of residuals outcome - 0.5 - gap: a 2 * 0.4, b -0.6, c -0.2
        variance = (0.8**2 + 0.6**2 + 0.2**2) * 3 / 2 / 25
        assert variance > 5 * 0.25 / 25  # more than that of independent labels, so it counts
        s = math.sqrt(variance)
        folded = s * math.sqrt(2 / math.pi) * math.exp(-(gap**2) / 2 / variance)
        folded += gap * math.erf(gap / s / math.sqrt(2))
        assert found.ece == pytest.approx(gap)
        assert found.value == pytest.approx(max(2 * gap - folded, 0.0)) == 0.0

    def test_independent_labels_are_the_least_noise(self):
        # a gap of 0.5 in a bin whose labels are all alike: between the queries there is no variance
        found = debiased_ece([0.5] * 40, [1] * 40, range(40))
        s = math.sqrt(0.25 / 40)
        folded = s * math.sqrt(2 / math.pi) * math.exp(-(0.5**2) / 2 / s**2)
        folded += 0.5 * math.erf(0.5 / s / math.sqrt(2))
        assert found.value == pytest.approx(1.0 - folded)
        assert found.value == pytest.approx(0.5, abs=1e-3)
        assert (found.low, found.high) == pytest.approx((found.value, found.value))
        assert found.is_distinguishable

    def test_the_folded_mean_against_draws(self):
        draws = np.abs(np.random.default_rng(1).normal(0.3, 0.5, 400_000)).mean()
        found = metrics.calibration_error._folded_normal_mean(np.array([0.3, 0.3]), np.array([0.5, 0.0]))
        assert found == pytest.approx([draws, 0.3], abs=3e-3)

    def test_bins_are_those_of_the_plain_error(self):
        labels, probabilities, queries = simulate(np.random.default_rng(3), 30)
        report = metrics.grade_report(labels, probabilities, queries)
        assert report.debiased_ece.ece == pytest.approx(report.ece)
        assert report.ece == pytest.approx(metrics.expected_calibration_error(labels, probabilities))

    def test_a_curve(self):
        low, high = reliability_curve([0.1, 0.1, 0.1, 0.9], [0, 1, 0, 1], "abcd", bins=2)
        assert (low.pairs, low.confidence, low.share) == (3, pytest.approx(0.1), pytest.approx(1 / 3))
        assert (high.pairs, high.confidence, high.share) == (1, pytest.approx(0.9), pytest.approx(1.0))
        assert low.low < 1 / 3 < low.high
        assert high.high == 1.0
        assert high.low == pytest.approx(1 / (1 + 1.959964**2))  # Wilson, one of one

    def test_curves_of_a_report_add_up_to_its_errors(self):
        labels, probabilities, queries = simulate(np.random.default_rng(4), 30)
        report = metrics.grade_report(labels, probabilities, queries)
        curves = metrics.reliability_curves(labels, probabilities, queries)
        for curve, error in zip(curves, every_error(report), strict=True):
            assert sum(one.pairs for one in curve) == 240
            gap = sum(one.pairs * abs(one.share - one.confidence) for one in curve) / 240
            assert gap == pytest.approx(error.ece)


def test_an_interval_above_0_does_not_look_as_if_it_began_there(capsys):
    report = metrics.grade_report(*simulate(np.random.default_rng(4), 30))
    for low, shown in ((0.0004, "<0.001 to 0.036"), (0.0006, "0.001 to 0.036"), (0.0, "0.000 to 0.036")):
        error = metrics.DebiasedEce(0.03, 0.02, low, 0.036)
        echo_calibration_errors([("fp32", replace(report, debiased_ece=error))])
        (row,) = [row for row in capsys.readouterr().out.splitlines() if "most probable level" in row]
        assert shown in row
        assert ("not distinguishable" in row) == (low == 0.0)


def test_a_figure_that_does_not_exist_is_a_dash(capsys):
    ranking = metrics.ranking_report(["q"], [1.0], [0])
    grading = metrics.grade_report([0], [[1.0, 0.0, 0.0, 0.0]])
    echo_evaluations([SimpleNamespace(variant="fp32", dimension=None, ranking=ranking, grading=grading)])
    out = capsys.readouterr().out
    assert "nan" not in out
    assert out.splitlines()[-1].split()[7] == "-"  # nDCG@10


class TestSimulations:
    def test_a_perfect_calibration_is_not_distinguishable_from_0(self):
        rng = np.random.default_rng(5)
        errors = [every_error(metrics.grade_report(*simulate(rng, 120))) for _ in range(30)]
        for k in range(4):
            plain = np.mean([one[k].ece for one in errors])
            assert plain > 0.02  # of noise alone
            assert np.mean([one[k].value for one in errors]) < 0.65 * plain
        told = np.mean([[one.is_distinguishable for one in row] for row in errors])
        assert told <= 0.13  # 7 % of 1,000 such tables

    @pytest.mark.parametrize("clustered", [0.0, 0.3])
    def test_a_known_error_is_found_where_the_plain_one_is_too_large(self, clustered):
        rng = np.random.default_rng(6)
        truth = metrics.expected_calibration_error(*simulate(rng, 40_000, 1.5, 0.0)[:2])
        assert 0.07 < truth < 0.1
        reports = [metrics.grade_report(*simulate(rng, 80, 1.5, clustered)) for _ in range(30)]
        plain = np.mean([report.ece for report in reports])
        debiased = np.mean([report.debiased_ece.value for report in reports])
        assert plain > truth + 0.003
        assert debiased == pytest.approx(truth, abs=0.008)
        covered = [report.debiased_ece.low <= truth <= report.debiased_ece.high for report in reports]
        assert np.mean(covered) > 0.8

    @pytest.mark.parametrize("sure", [1.0, 1.2])
    def test_the_upper_end_is_not_below_a_small_error(self, sure):
        rng = np.random.default_rng(8)
        labels, probabilities, _ = simulate(rng, 40_000, sure, 0.0)
        truth = debiased_ece(probabilities[:, 1:].sum(axis=1), labels >= 1, range(len(labels)), resamples=1)
        above = []
        for _ in range(60):
            labels, probabilities, queries = simulate(rng, 50, sure)
            found = debiased_ece(probabilities[:, 1:].sum(axis=1), labels >= 1, queries, resamples=200)
            above.append(found.high < truth.ece)
        assert truth.ece < 0.05
        assert np.mean(above) <= 0.1  # of a pivotal bootstrap alone a fifth and more

    def test_pairs_of_one_query_are_worth_less(self):
        rng = np.random.default_rng(7)
        labels, probabilities, queries = simulate(rng, 150, clustered=0.9)
        by_query = reliability_curve(probabilities[:, 2:].sum(axis=1), labels >= 2, queries)
        by_pair = reliability_curve(probabilities[:, 2:].sum(axis=1), labels >= 2, range(1200))
        wide, narrow = (np.mean([one.high - one.low for one in c]) for c in (by_query, by_pair))
        assert wide > 1.1 * narrow

    def test_many_queries_are_put_into_blocks(self, monkeypatch):
        labels, probabilities, queries = simulate(np.random.default_rng(8), 400, 1.5)
        every = metrics.grade_report(labels, probabilities, queries).debiased_ece
        monkeypatch.setattr("relsdk.metrics.calibration_error._MOST_BLOCKS", 100)
        blocks = metrics.grade_report(labels, probabilities, queries).debiased_ece
        assert blocks.ece == pytest.approx(every.ece)
        assert blocks.value == pytest.approx(every.value, abs=3e-3)
        assert blocks.high - blocks.low == pytest.approx(every.high - every.low, rel=0.3)


class TestReport:
    def test_only_where_queries_are_given(self):
        labels, probabilities, queries = simulate(np.random.default_rng(9), 20)
        plain = metrics.grade_report(labels, probabilities)
        assert plain.debiased_ece is plain.debiased_ece_at_least is None
        assert "debiased_ece" not in plain.to_dict()
        content = json.loads(json.dumps(metrics.grade_report(labels, probabilities, queries).to_dict()))
        assert list(content["debiased_ece"]) == ["ece", "value", "low", "high", "is_distinguishable"]
        assert len(content["debiased_ece_at_least"]) == 3
        assert {name: content[name] for name in plain.to_dict()} == plain.to_dict()

    def test_the_order_of_pairs_and_the_names_of_queries_do_not_matter_to_the_value(self):
        labels, probabilities, queries = simulate(np.random.default_rng(10), 20)
        order = np.random.default_rng(0).permutation(len(labels))
        names = [f"q{one}" for one in queries[order]]
        one = metrics.grade_report(labels, probabilities, queries).debiased_ece
        other = metrics.grade_report(labels[order], probabilities[order], names).debiased_ece
        assert other.value == pytest.approx(one.value)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (([0.5, 1.5], [0, 1], "ab"), "allowed are 0 to 1"),
            (([0.5], [0, 1], "ab"), "1 confidences but 2 outcomes"),
            (([0.5, 0.5], [0, 1], "a"), "2 confidences but 1 queries"),
            (([], [], ""), "no rows"),
        ],
    )
    def test_wrong_input(self, arguments, reason):
        with pytest.raises(InputError, match=reason):
            debiased_ece(*arguments)

    def test_bad_bins_and_resamples(self):
        with pytest.raises(InputError, match="bins is 0"):
            debiased_ece([0.5], [1], "a", bins=0)
        with pytest.raises(InputError, match="resamples is 0"):
            debiased_ece([0.5], [1], "a", resamples=0)


@pytest.mark.parametrize(("queries", "told"), [(4, False), (5, True)])
def test_an_interval_needs_five_queries(queries, told):
    """Of one query a bootstrap has no width, and would call any error 0 or certain."""
    probabilities = np.tile([0.4, 0.3, 0.2, 0.1], (20, 1))
    report = metrics.grade_report(np.zeros(20, dtype=int), probabilities, [n % queries for n in range(20)])
    assert report.ece == pytest.approx(0.6)
    assert (report.debiased_ece is not None) == (report.debiased_ece_at_least is not None) == told
    assert ("debiased_ece" in report.to_dict()) == told
