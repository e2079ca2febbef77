"""Every metric against an independent implementation, toys worked out by hand, and its properties."""

from __future__ import annotations

import itertools
import json
import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from relsdk import metrics
from relsdk.errors import InputError
from relsdk.metrics import UndefinedMetricError

LEVELS = [0, 1, 2, 3]


def random_levels(rng, n):
    """Levels with every one present."""
    return rng.permutation(np.concatenate([LEVELS, rng.integers(0, 4, n - 4)]))


def random_probabilities(rng, n):
    return rng.dirichlet([0.7] * 4, n)  # (n, 4)


# Few distinct scores, so that ties are common; at least one label above 0.
@st.composite
def lists(draw):
    n = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    scores = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    labels[draw(st.integers(0, n - 1))] = draw(st.integers(1, 3))
    return np.array(labels), np.array(scores, dtype=float)


RANKING = {
    "ndcg": lambda y, s: metrics.ndcg(y, s, 5),
    "ndcg_linear": lambda y, s: metrics.ndcg(y, s, None, "linear"),
    "average_precision": lambda y, s: metrics.average_precision(y >= 1, s),
    "precision_at_k": lambda y, s: metrics.precision_at_k(y, s, 4),
    "recall_at_k": lambda y, s: metrics.recall_at_k(y, s, 3),
    "reciprocal_rank": lambda y, s: metrics.reciprocal_rank(y, s, 6),
}


class TestRankingProperties:
    @pytest.mark.parametrize("name", RANKING)
    @given(data=lists())
    def test_lies_between_0_and_1(self, name, data):
        assert 0.0 <= RANKING[name](*data) <= 1.0

    @pytest.mark.parametrize("name", RANKING)
    @given(data=lists(), steps=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6))
    def test_depends_on_the_order_of_scores_only(self, name, data, steps):
        labels, scores = data
        rising = np.cumsum(steps) - 500.0  # any increasing map of 0..5
        mapped = rising[scores.astype(int)]
        assert RANKING[name](labels, mapped) == pytest.approx(RANKING[name](labels, scores))

    @pytest.mark.parametrize("name", RANKING)
    @given(data=lists(), seed=st.integers(0, 1000))
    def test_does_not_depend_on_the_order_of_the_input_even_with_ties(self, name, data, seed):
        labels, scores = data
        order = np.random.default_rng(seed).permutation(len(labels))
        assert RANKING[name](labels[order], scores[order]) == pytest.approx(RANKING[name](labels, scores))

    @pytest.mark.parametrize("name", sorted(RANKING.keys() - {"average_precision"}))
    @settings(max_examples=40)
    @given(data=lists().filter(lambda data: len(data[0]) <= 5))
    def test_a_tie_is_the_mean_over_all_its_orders(self, name, data):
        labels, scores = data
        # Over all permutations, ties broken by place: each order of a tie is equally frequent.
        values = []
        for order in itertools.permutations(range(len(labels))):
            broken = scores[list(order)] - np.arange(len(labels)) * 1e-6
            values.append(RANKING[name](labels[list(order)], broken))
        assert RANKING[name](labels, scores) == pytest.approx(np.mean(values))

    @given(data=lists())
    def test_perfect_order_is_1(self, data):
        labels, _ = data
        assert metrics.ndcg(labels, labels) == pytest.approx(1.0)
        assert metrics.average_precision(labels >= 1, labels) == pytest.approx(1.0)
        assert metrics.reciprocal_rank(labels, labels) == pytest.approx(1.0)


class TestRankingAgainstReferences:
    @pytest.mark.parametrize("k", [1, 3, 10, None])
    @pytest.mark.parametrize("ties", [False, True])
    def test_ndcg_is_scikit_learns(self, k, ties):
        rng = np.random.default_rng(0)
        for n in (4, 5, 17, 60):
            labels = random_levels(rng, n)
            scores = rng.integers(0, 4, n).astype(float) if ties else rng.standard_normal(n)
            assert metrics.ndcg(labels, scores, k, "linear") == pytest.approx(
                reference.ndcg_score([labels], [scores], k=k)
            )
            assert metrics.ndcg(labels, scores, k) == pytest.approx(
                reference.ndcg_score([2**labels - 1], [scores], k=k)
            )

    @pytest.mark.parametrize("ties", [False, True])
    def test_average_precision_is_scikit_learns(self, ties):
        rng = np.random.default_rng(1)
        labels = random_levels(rng, 400)
        scores = labels + (rng.integers(-2, 3, 400) if ties else rng.standard_normal(400))
        result = metrics.mean_ap_over_levels(labels, scores)
        expected = [reference.average_precision_score(labels >= k, scores) for k in (1, 2, 3)]
        assert (result.ap_1, result.ap_2, result.ap_3) == pytest.approx(expected)
        assert result.mean_ap == pytest.approx(np.mean(expected))
        assert list(result.to_dict()) == ["ap_1", "ap_2", "ap_3", "mean_ap"]

    def test_retrieval_metrics_are_trec_evals(self):
        rng = np.random.default_rng(2)
        qrels, run = {}, {}
        for query in range(30):
            documents = [f"d{i}" for i in range(40)]
            judged, found = rng.choice(documents, 15, replace=False), rng.choice(documents, 20, replace=False)
            qrels[f"q{query}"] = {d: int(rng.integers(0, 4)) for d in judged} | {"d0": 3}
            run[f"q{query}"] = {d: float(rng.standard_normal()) for d in found}
        wanted = {
            ir_measures.nDCG @ 10: lambda y, s: metrics.ndcg(y, s, 10, "linear"),
            ir_measures.RR: metrics.reciprocal_rank,
            ir_measures.RR(rel=3): lambda y, s: metrics.reciprocal_rank(y, s, min_level=3),
            ir_measures.R @ 5: lambda y, s: metrics.recall_at_k(y, s, 5),
            ir_measures.R(rel=2) @ 50: lambda y, s: metrics.recall_at_k(y, s, 50, min_level=2),
            ir_measures.P @ 5: lambda y, s: metrics.precision_at_k(y, s, 5),
            ir_measures.P(rel=2) @ 50: lambda y, s: metrics.precision_at_k(y, s, 50, min_level=2),
            ir_measures.AP: lambda y, s: metrics.average_precision(y >= 1, s),
        }
        answers = list(ir_measures.iter_calc(list(wanted), qrels, run))
        assert len(answers) == len(wanted) * 30
        for answer in answers:
            labels, scores = metrics.align_run(qrels[answer.query_id], run[answer.query_id])
            assert wanted[answer.measure](labels, scores) == pytest.approx(answer.value), answer

    def test_spearman_is_scipys(self):
        rng = np.random.default_rng(3)
        labels, scores = random_levels(rng, 200), rng.standard_normal(200)
        assert metrics.spearman(labels, scores) == pytest.approx(stats.spearmanr(labels, scores).statistic)


class TestPopulationStability:
    @given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
    def test_is_the_symmetric_divergence_of_scipy(self, pairs):
        before, now = np.array(pairs, dtype=float).T
        if not before.sum() or not now.sum():
            return
        both = [(counts + 0.5) / (counts + 0.5).sum() for counts in (before, now)]
        expected = stats.entropy(both[0], both[1]) + stats.entropy(both[1], both[0])
        found = metrics.population_stability_index(before, now)
        assert found == pytest.approx(expected, abs=1e-12)
        assert found == pytest.approx(metrics.population_stability_index(now, before))

    def test_by_hand(self):
        """Shares of 3/4 and 1/4 against halves: (1/4) ln(3/2) - (1/4) ln(1/2) = (1/4) ln 3."""
        large = 10**9
        assert metrics.population_stability_index([large, large], [3 * large, large]) == pytest.approx(
            math.log(3) / 4
        )
        assert metrics.population_stability_index([700, 300, 0], [7000, 3000, 0]) < 0.002

    def test_without_a_change_it_is_a_chi_squared_variable(self):
        """Of (1/n + 1/m) times B - 1 degrees of freedom: mean and 99 % quantile."""
        rng = np.random.default_rng(0)
        shares = rng.dirichlet(np.full(10, 20.0))
        n, m = 2000, 1000
        found = [
            metrics.population_stability_index(rng.multinomial(n, shares), rng.multinomial(m, shares))
            for _ in range(4000)
        ]
        scaled = np.array(found) / (1 / n + 1 / m)
        assert scaled.mean() == pytest.approx(9, rel=0.03)
        assert np.quantile(scaled, 0.99) == pytest.approx(stats.chi2.ppf(0.99, 9), rel=0.07)

    @pytest.mark.parametrize("moved", [0.0, 0.05, 0.15])
    def test_its_interval_holds_the_true_index(self, moved):
        """In 95 % of cases; without a change its lower end is 0 in 97.5 %."""
        rng = np.random.default_rng(1)
        before = rng.dirichlet(np.full(10, 20.0))
        now = before * np.where(np.arange(10) < 5, 1 + 2 * moved, 1 - 2 * moved)
        now /= now.sum()
        true = float(((now - before) * np.log(now / before)).sum())
        intervals = [
            metrics.population_stability_interval(rng.multinomial(2000, before), rng.multinomial(1000, now))
            for _ in range(1000)
        ]
        held = np.mean([one.low <= true <= one.high + 1e-12 for one in intervals])
        assert held == pytest.approx(0.975 if moved == 0 else 0.95, abs=0.02)
        told = np.mean([one.low > 0 for one in intervals])
        assert told <= 0.04 if moved == 0 else told > (0.2 if moved == 0.05 else 0.99)

    def test_the_ends_of_its_interval_are_scipys(self):
        before, now = [100, 200, 300, 400], [130, 180, 320, 250]
        found = metrics.population_stability_interval(before, now, 0.9)
        assert found.mean == metrics.population_stability_index(before, now)
        scale = 1 / sum(before) + 1 / sum(now)
        for end, share in ((found.low, 0.95), (found.high, 0.05)):
            seen = stats.ncx2.cdf(found.mean / scale, 3, end / scale)
            assert seen == pytest.approx(share, abs=0.003)
        assert metrics.population_stability_interval([5, 9], [5, 9]).low == 0
        one_group = metrics.population_stability_interval([5, 0], [9, 0])
        assert (one_group.low, one_group.high) == (0, 0)
        with pytest.raises(metrics.UndefinedMetricError):
            metrics.population_stability_interval([0, 0], [1, 2])


class TestRankingByHand:
    def test_ndcg_of_what_is_in_the_wrong_order(self):
        assert metrics.ndcg([0, 3, 1], [3, 2, 1]) == pytest.approx(
            (7 / math.log2(3) + 1 / 2) / (7 + 1 / math.log2(3))
        )
        assert metrics.ndcg([0, 3, 1], [3, 2, 1], 2, "linear") == pytest.approx(
            (3 / math.log2(3)) / (3 + 1 / math.log2(3))
        )

    def test_ndcg_of_a_tie(self):
        # One relevant document tied with one other: at rank 1 or 2, each half of the time.
        assert metrics.ndcg([1, 0], [5, 5]) == pytest.approx((1 + 1 / math.log2(3)) / 2)

    def test_reciprocal_rank_of_a_tie(self):
        # Rank 1 is a miss; two of the next three are relevant: first one at rank 2 (2/3) or rank 3 (1/3).
        assert metrics.reciprocal_rank([0, 1, 1, 0], [9, 5, 5, 5]) == pytest.approx(2 / 3 / 2 + 1 / 3 / 3)

    def test_what_was_not_retrieved_counts_as_missed(self):
        labels, scores = metrics.align_run({"a": 3, "b": 1, "spam": -2}, {"b": 0.5, "new": 0.9})
        assert labels.tolist() == [3, 1, 0, 0]
        assert scores.tolist() == [-math.inf, 0.5, -math.inf, 0.9]
        assert metrics.recall_at_k(labels, scores, 100) == 0.5
        assert metrics.average_precision(labels >= 1, scores) == pytest.approx(0.5 / 2)
        assert metrics.reciprocal_rank(labels, scores, min_level=2) == 0.0
        assert metrics.ndcg(labels, scores, 100) == pytest.approx((1 / math.log2(3)) / (7 + 1 / math.log2(3)))

    def test_everything_missed_is_0(self):
        assert metrics.ndcg([1, 0], [-math.inf, -math.inf]) == 0.0
        assert metrics.average_precision([1, 0], [-math.inf, -math.inf]) == 0.0

    def test_the_run_is_not_changed(self):
        scores = np.array([1.0, -math.inf])
        metrics.ndcg([1, 0], scores)
        assert scores.tolist() == [1.0, -math.inf]


@pytest.fixture
def graded():
    rng = np.random.default_rng(4)
    return random_levels(rng, 500), random_probabilities(rng, 500)


class TestGrading:
    def test_references(self, graded):
        labels, probabilities = graded
        predicted = probabilities.argmax(axis=1)
        assert metrics.accuracy(labels, predicted) == reference.accuracy_score(labels, predicted)
        assert metrics.quadratic_weighted_kappa(labels, predicted) == pytest.approx(
            reference.cohen_kappa_score(labels, predicted, weights="quadratic", labels=LEVELS)
        )
        assert metrics.log_loss(labels, probabilities) == pytest.approx(
            reference.log_loss(labels, probabilities, labels=LEVELS)
        )
        assert metrics.brier_score(labels, probabilities) == pytest.approx(
            reference.brier_score_loss(labels, probabilities, labels=LEVELS, scale_by_half=False)
        )
        at_least = 1.0 - np.cumsum(probabilities, axis=1)
        binary = [reference.brier_score_loss(labels >= k, at_least[:, k - 1].clip(0, 1)) for k in (1, 2, 3)]
        assert metrics.ranked_probability_score(labels, probabilities) == pytest.approx(np.mean(binary))

    def test_kappa_when_a_level_never_occurs(self):
        labels, predicted = [0, 3, 3, 0, 2], [0, 3, 2, 2, 2]
        assert metrics.quadratic_weighted_kappa(labels, predicted) == pytest.approx(
            reference.cohen_kappa_score(labels, predicted, weights="quadratic", labels=LEVELS)
        )

    def test_calibration_error_by_hand(self):
        # Confidences 0.9 (right), 0.9 (wrong) share a bin: |0.9 - 0.5|; 0.6 (right) has its own: |0.6 - 1|.
        probabilities = [[0.9, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.6, 0.2, 0]]
        assert metrics.expected_calibration_error([0, 1, 1], probabilities, bins=10) == pytest.approx(
            2 / 3 * 0.4 + 1 / 3 * 0.4
        )

    def test_calibration_error_over_bins_against_a_plain_loop(self, graded):
        labels, probabilities = graded
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        total = 0.0
        for i in range(15):
            inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
            if inside.any():
                total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
        assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(total)

    def test_ordinal_score_prefers_the_nearer_level(self):
        near, far = [[0, 0, 1, 0]], [[1, 0, 0, 0]]
        assert metrics.brier_score([3], near) == metrics.brier_score([3], far) == 2.0
        assert metrics.ranked_probability_score([3], near) == pytest.approx(1 / 3)
        assert metrics.ranked_probability_score([3], far) == 1.0

    def test_a_level_ruled_out_wrongly_costs_a_finite_loss(self):
        assert metrics.log_loss([1], [[1.0, 0, 0, 0]]) == pytest.approx(36.04, abs=0.01)

    @given(seed=st.integers(0, 10_000), n=st.integers(4, 30))
    def test_bounds_and_permutation(self, seed, n):
        rng = np.random.default_rng(seed)
        labels, probabilities = random_levels(rng, n), random_probabilities(rng, n)
        report, order = metrics.grade_report(labels, probabilities), rng.permutation(n)
        shuffled = metrics.grade_report(labels[order], probabilities[order])
        assert 0 <= report.accuracy <= 1
        assert -1 <= report.qwk <= 1
        assert 0 <= report.ece <= 1
        assert 0 <= report.brier <= 2
        assert 0 <= report.rps <= 1
        assert report.log_loss >= 0
        assert shuffled.to_dict() == pytest.approx(report.to_dict())


class TestOverQueries:
    ids: tuple[str, ...] = ("b", "a", "b", "a", "b", "a", "c", "c", "c", "d", "d", "e")
    labels = (3, 0, 1, 2, 0, 1, 2, 2, 2, 3, 0, 0)
    scores = (0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.1, 0.2, 0.3)

    def test_mean_ndcg_skips_and_counts(self):
        result = metrics.mean_ndcg(self.ids, self.labels, self.scores, 10, min_documents=3)
        assert result.query_ids == ("b", "a")  # c has one level, d two documents, e one
        assert (result.queries_used, result.queries_skipped) == (2, 3)
        a = metrics.ndcg([0, 2, 1], [0.8, 0.1, 0.3])
        assert result.values == pytest.approx((1.0, a))
        assert result.value == pytest.approx((1.0 + a) / 2)
        assert result.to_dict() == {"value": result.value, "queries_used": 2, "queries_skipped": 3}

    def test_mean_ndcg_of_every_query_that_has_one(self):
        result = metrics.mean_ndcg(self.ids, self.labels, self.scores, several_levels=False)
        assert result.query_ids == ("b", "a", "c", "d")  # e has nothing relevant

    def test_ranking_report(self):
        report = metrics.ranking_report(self.ids, self.labels, self.scores)
        assert (report.pairs, report.queries, report.queries_used, report.mrr_queries_used) == (12, 5, 2, 3)
        ap_2 = reference.average_precision_score(np.array(self.labels) >= 2, self.scores)
        assert report.ap_2 == pytest.approx(ap_2)
        assert report.mean_ap == pytest.approx((report.ap_1 + report.ap_2 + report.ap_3) / 3)
        exponential = metrics.mean_ndcg(self.ids, self.labels, self.scores, min_documents=3)
        assert report.ndcg_at_10 == exponential.value
        linear = metrics.mean_ndcg(self.ids, self.labels, self.scores, gain="linear", min_documents=3)
        assert report.ndcg_at_10_linear == linear.value
        assert report.mrr == pytest.approx((1 + 1 / 2 + 1) / 3)
        strict = metrics.ranking_report(self.ids, self.labels, self.scores, mrr_min_level=3)
        assert (strict.mrr, strict.mrr_queries_used, strict.mrr_min_level) == (1.0, 1, 3)

    def test_reports_hold_nan_and_their_dicts_none_where_there_is_no_value(self):
        report = metrics.ranking_report(["q", "r"], [0, 2], [0.1, 0.2])
        assert math.isnan(report.ap_3)
        assert math.isnan(report.mean_ap)
        assert math.isnan(report.ndcg_at_10)
        assert (report.ap_2, report.queries_used) == (1.0, 0)
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["mean_ap"] is None
        assert metrics.grade_report([1], [[0, 1, 0, 0]]).to_dict()["qwk"] is None

    def test_integer_and_numpy_query_ids(self):
        ids = np.array([1, 1, 1])
        assert metrics.ranking_report(ids, [0, 1, 3], [0.1, 0.2, 0.3]).queries == 1


class TestBootstrap:
    def test_the_same_seed_gives_the_same_interval(self):
        values = np.random.default_rng(5).random(50)
        assert metrics.bootstrap_interval(values, 7) == metrics.bootstrap_interval(values, 7)
        assert metrics.bootstrap_interval(values, 7) != metrics.bootstrap_interval(values, 8)

    def test_agrees_with_scipy(self):
        values = np.random.default_rng(6).random(200)
        ours = metrics.bootstrap_interval(values, 0, n=20_000)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)
        assert ours.mean == pytest.approx(values.mean())
        assert list(ours.to_dict()) == ["mean", "low", "high", "level"]

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        values = np.random.default_rng(7).random(40)
        whole = metrics.bootstrap_interval(values, 3, n=101)
        monkeypatch.setattr("relsdk.metrics.statistics._BOOTSTRAP_BLOCK", 400)
        assert metrics.bootstrap_interval(values, 3, n=101) == whole

    def test_pairing_sees_a_small_steady_difference(self):
        hard_and_easy = np.random.default_rng(8).random(100)
        difference = metrics.paired_bootstrap(hard_and_easy + 0.01, hard_and_easy, seed=0)
        assert difference.mean == pytest.approx(0.01)
        assert difference.low == pytest.approx(0.01)
        assert difference.high == pytest.approx(0.01)


class TestUndefined:
    @pytest.mark.parametrize(
        "call",
        [
            lambda: metrics.ndcg([0, 0], [1, 2]),
            lambda: metrics.ndcg([], []),
            lambda: metrics.average_precision([0, 0], [1, 2]),
            lambda: metrics.mean_ap_over_levels([0, 1, 2], [1, 2, 3]),
            lambda: metrics.recall_at_k([1], [1], 1, min_level=2),
            lambda: metrics.precision_at_k([], [], 1),
            lambda: metrics.reciprocal_rank([0], [1]),
            lambda: metrics.spearman([1, 1], [1, 2]),
            lambda: metrics.spearman([], []),
            lambda: metrics.population_stability_index([0, 0], [1, 2]),
            lambda: metrics.population_stability_index([], []),
            lambda: metrics.quadratic_weighted_kappa([2, 2], [2, 2]),
            lambda: metrics.accuracy([], []),
            lambda: metrics.log_loss([], []),
            lambda: metrics.bootstrap_interval([], 0),
            lambda: metrics.mean_ndcg([], [], []),
            lambda: metrics.mean_ndcg(["q"], [1], [1]),
            lambda: metrics.grade_report([], np.zeros((0, 4))),
            lambda: metrics.ranking_report([], [], []),
        ],
    )
    def test_no_value(self, call):
        with pytest.raises(UndefinedMetricError):
            call()


class TestWrongInput:
    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            (lambda: metrics.ndcg([1, 0], [1, math.nan]), "scores hold NaN"),
            (lambda: metrics.ndcg([1, 0], [1, math.inf]), "scores hold NaN or infinity"),
            (lambda: metrics.ndcg([1, 0], [1]), "2 labels but 1 scores"),
            (lambda: metrics.ndcg([[1, 0]], [1]), r"shape \(1, 2\)"),
            (lambda: metrics.ndcg(["x"], [1]), "labels are not all numbers"),
            (lambda: metrics.ndcg([1], ["x"]), "scores are not all numbers"),
            (lambda: metrics.ndcg([-1, 1], [1, 2]), "labels go down to -1"),
            (lambda: metrics.ndcg([1], [1], 0), "k is 0"),
            (lambda: metrics.ndcg([1], [1], gain="log"), "allowed are 'exponential' and 'linear'"),
            (lambda: metrics.ndcg([1000], [1]), "label 1000 is too large"),
            (lambda: metrics.average_precision([2, 1], [1, 2]), "labels of 0 and 1"),
            (lambda: metrics.recall_at_k([1], [1], True), "k is True"),
            (lambda: metrics.accuracy([4], [1]), "label 4 is not a level"),
            (lambda: metrics.accuracy([1], [1.5]), "label 1.5 is not a level"),
            (lambda: metrics.accuracy([1, 2], [1]), "2 labels but 1 predictions"),
            (lambda: metrics.brier_score([1], [[0.5, 0.6, 0, 0]]), "row 0"),
            (lambda: metrics.brier_score([1], [[math.nan, 1, 0, 0]]), "sum to 1"),
            (lambda: metrics.brier_score([1], [0.5, 0.5]), r"shape \(2,\)"),
            (lambda: metrics.brier_score([1, 2], [[1, 0, 0, 0]]), "2 labels but 1 rows"),
            (lambda: metrics.brier_score([3], [[0.5, 0.5]]), "integers 0 to 1"),
            (lambda: metrics.brier_score([1], [["a", "b"]]), "not a matrix of numbers"),
            (lambda: metrics.expected_calibration_error([1], [[1, 0, 0, 0]], bins=0), "bins is 0"),
            (lambda: metrics.bootstrap_interval([1], 0, level=95), "level 95"),
            (lambda: metrics.paired_bootstrap([1, 2], [1], 0), "2 values of a but 1"),
            (lambda: metrics.mean_ndcg(["q"], [1, 0], [1, 2]), "1 query ids but 2 labels"),
            (lambda: metrics.ranking_report(["q"], [1], [math.nan]), "scores hold NaN"),
            (lambda: metrics.population_stability_index([1, 2], [1]), "2 counts of the reference but 1"),
            (lambda: metrics.population_stability_index([1, -2], [1, 2]), "below 0"),
        ],
    )
    def test_says_what_is_wrong(self, call, reason):
        with pytest.raises(InputError, match=reason) as caught:
            call()
        assert not isinstance(caught.value, UndefinedMetricError)
        assert "\n" not in str(caught.value)
