"""Shares of levels among pairs without labels, and calibrations corrected for them."""

import json

import numpy as np
import pytest

from relsdk.bundle import read_bundle
from relsdk.calibration import (
    LogLinearPool,
    PriorShift,
    Temperature,
    calibration_from_dict,
    estimate_level_shares,
    fit_calibration,
    shift_prior,
)
from relsdk.calibration._models import CumulativeLink
from relsdk.errors import CalibrationError, InputError
from relsdk.metrics import expected_calibration_error, grade_report
from relsdk.records import Document, LabelledPair
from relsdk.tools.random_negatives import random_negatives
from relsdk_sample import generate, write

CENTRES = np.array([0.70, 0.78, 0.84, 0.90])
LABELLED = np.array([0.2, 0.3, 0.2, 0.3])
TRAFFIC = np.array([0.6, 0.2, 0.1, 0.1])
LINK = CumulativeLink(20.0, (15.0, 16.5, 17.5))


def draw(rng, shares, pairs):
    """Scores that depend on the level alone, so that only the shares differ between two draws."""
    labels = rng.choice(4, size=pairs, p=shares)
    return np.minimum(CENTRES[labels] + 0.05 * rng.normal(size=pairs), 0.999), labels


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(
        generate(seed=3, n_documents=200, n_queries=60, pairs_per_query=8),
        tmp_path_factory.mktemp("world") / "w",
    )


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(1)
    scores, labels = draw(rng, LABELLED, 4000)
    calibration, _ = fit_calibration(scores, labels, [f"q{one // 8}" for one in range(4000)])
    traffic, truth = draw(rng, TRAFFIC, 3000)
    shares = estimate_level_shares(
        calibration.probabilities(traffic),
        [one // 8 for one in range(3000)],
        calibration.probabilities(scores).mean(axis=0),
    )
    return calibration, shares, traffic, truth


def test_the_shares_of_the_traffic_are_found(fitted):
    _, shares, _, truth = fitted
    assert (shares.pairs, shares.queries) == (3000, 375)
    np.testing.assert_allclose(shares.labelled, LABELLED, atol=0.02)
    real = np.bincount(truth) / len(truth)
    np.testing.assert_allclose(shares.after, real, atol=0.03)
    assert np.abs(np.array(shares.before) - real).max() > 0.05  # uncorrected, they are not
    assert (np.abs(np.array(shares.after) - real) < 4 * np.array(shares.errors) + 0.01).all()
    assert not shares.warnings()


def test_the_correction_halves_the_calibration_error(fitted):
    calibration, shares, traffic, truth = fitted
    corrected = shift_prior(calibration, shares)
    before = expected_calibration_error(truth, calibration.probabilities(traffic))
    after = expected_calibration_error(truth, corrected.probabilities(traffic))
    assert before > 0.05
    assert after <= before / 2
    np.testing.assert_allclose(corrected.probabilities(traffic).mean(axis=0), shares.after, atol=2e-3)


def test_errors_are_those_of_repeated_draws():
    rng = np.random.default_rng(2)
    seen = np.eye(4) * 0.7 + 0.075  # P(outcome | level): mostly the level's own
    prior = np.full(4, 0.25)
    told = seen * prior[:, None] / (prior @ seen)  # (level, outcome): P(level | outcome)
    estimates, errors = [], []
    for _ in range(200):
        levels = rng.choice(4, size=400, p=TRAFFIC)
        outcomes = (rng.random((400, 1)) > np.cumsum(seen[levels], axis=1)).sum(axis=1)
        found = estimate_level_shares(told.T[outcomes], range(400), prior)
        estimates.append(found.after)
        errors.append(found.errors)
    np.testing.assert_allclose(np.mean(estimates, axis=0), TRAFFIC, atol=0.01)
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(estimates, axis=0), rtol=0.15)


def test_pairs_of_one_query_are_worth_less():
    rng = np.random.default_rng(3)
    probabilities = np.repeat(LINK.probabilities(rng.uniform(0.6, 1.0, 50)), 8, axis=0)
    prior = probabilities.mean(axis=0)
    apart = estimate_level_shares(probabilities, range(400), prior)
    together = estimate_level_shares(probabilities, [one // 8 for one in range(400)], prior)
    assert together.after == apart.after
    np.testing.assert_allclose(together.errors, np.sqrt(8) * np.array(apart.errors), rtol=1e-6)


def test_the_same_population_is_not_corrected(fitted):
    calibration = fitted[0]
    scores, _ = draw(np.random.default_rng(4), LABELLED, 3000)
    probabilities = calibration.probabilities(scores)
    found = estimate_level_shares(probabilities, range(3000), probabilities.mean(axis=0))
    np.testing.assert_allclose(found.after, found.before, atol=1e-5)
    np.testing.assert_allclose(shift_prior(calibration, found).ratios, 1.0, rtol=1e-4)


def test_what_cannot_be_relied_on_is_said():
    rng = np.random.default_rng(5)
    scores = 0.6 + 0.03 * rng.random(40)  # nothing relevant
    prior = LINK.probabilities(np.linspace(0.6, 1.0, 500)).mean(axis=0)
    found = estimate_level_shares(LINK.probabilities(scores), range(40), prior)
    told = found.warnings()
    assert told[0] == "40 pairs without labels are few; take 200 or more"
    assert any("the share of level 3 is" in one and "hardly a pair" in one for one in told)
    assert min(found.after) > 0
    assert json.loads(json.dumps(found.to_dict()))["warnings"] == list(told)
    alike = np.tile(prior, (300, 1)) + 0.01 * rng.dirichlet([1, 1, 1, 1], 300)
    alike /= alike.sum(axis=1, keepdims=True)
    unknown = estimate_level_shares(alike, range(300), prior)
    assert any("standard error" in one for one in unknown.warnings())
    assert "these pairs do not tell how frequent level 0 is: nothing is corrected" in unknown.warnings()
    assert unknown.after == pytest.approx(unknown.labelled)
    assert max(unknown.errors) <= 0.5


def test_levels_that_cannot_be_told_apart_keep_their_proportions():
    rng = np.random.default_rng(6)
    flat = CumulativeLink(6.0, (3.6, 4.8, 6.0))  # a weak score: levels overlap

    def weak(pairs):
        scores = rng.normal(0.8, 0.25, pairs)
        at_least = np.cumsum(flat.probabilities(scores), axis=1)[:, :3]
        return scores, (rng.random((pairs, 1)) > at_least).sum(axis=1)

    scores, labels = weak(20_000)
    prior = flat.probabilities(scores).mean(axis=0)
    zero, rest = np.flatnonzero(labels == 0), np.flatnonzero(labels > 0)
    kept = np.concatenate([zero[:420], rest[:280]])  # level 0 is 60 %, as 18 % or so among all
    probabilities = flat.probabilities(scores[kept])
    found = estimate_level_shares(probabilities, range(700), prior)
    assert not found.each
    assert found.after[0] == pytest.approx(0.6, abs=0.1)
    np.testing.assert_allclose(found.after[1:] / prior[1:], (1 - found.after[0]) / (1 - prior[0]), rtol=1e-6)
    assert any("do not tell levels 1 to 3 apart" in one for one in found.warnings())
    corrected = shift_prior(flat, found).probabilities(scores[kept])
    before, after = (
        grade_report(labels[kept], one, range(700)).debiased_ece_at_least[0]
        for one in (probabilities, corrected)
    )
    assert before.value > 0.1
    assert after.value <= before.value / 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((np.zeros((0, 4)), [], LABELLED), "at least one pair"),
        ((np.full((2, 4), 0.25), ["a"], LABELLED), "2 pairs and 1 queries"),
        ((np.full((2, 3), 0.3), "ab", LABELLED), "at least one pair"),
    ],
)
def test_wrong_input(arguments, reason):
    with pytest.raises(InputError, match=reason):
        estimate_level_shares(*arguments)


class TestStored:
    POOL = LogLinearPool(Temperature(), LINK, (0.5, 0.5))

    def test_by_hand(self):
        shifted = PriorShift(LINK, (2.0, 1.0, 1.0, 0.5))
        (own,) = LINK.probabilities([0.8])
        wanted = own * [2.0, 1.0, 1.0, 0.5]
        np.testing.assert_allclose(shifted.probabilities([0.8])[0], wanted / wanted.sum(), atol=4e-4)

    @pytest.mark.parametrize("base", [LINK, POOL, Temperature()])
    def test_it_is_read_back(self, base):
        shifted = PriorShift(base, (3.0, 1.0, 0.5, 1 / 3))
        content = json.loads(json.dumps(shifted.to_dict()))
        assert calibration_from_dict(content) == shifted
        assert calibration_from_dict(content).to_dict() == content

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"ratios": [1.0, 1.0, 1.0]}, "ratios"),
            ({"ratios": [1.0, 1.0, 1.0, 0.0]}, r"ratios\[3\]"),
            ({"ratios": [1.0, 1.0, 1.0, 1e9]}, r"ratios\[3\]"),
            ({"ratios": [1.0, 1.0, 1.0, "x"]}, r"ratios\[3\]"),
            ({"calibration": {"method": "magic"}}, "calibration.method = 'magic'; known are cumulative_link"),
            ({"calibration": {"method": "prior_shift"}}, "calibration.method = 'prior_shift'"),
            ({"calibration": 3}, "calibration"),
            ({"calibration": None}, "calibration"),
        ],
    )
    def test_damaged(self, change, reason):
        with pytest.raises(CalibrationError, match=reason):
            calibration_from_dict({**PriorShift(LINK, (1.0, 1.0, 1.0, 1.0)).to_dict(), **change})

    def test_no_correction_inside_a_pool(self):
        content = self.POOL.to_dict()
        content["scorer"] = PriorShift(LINK, (1.0, 1.0, 1.0, 1.0)).to_dict()
        with pytest.raises(CalibrationError, match=r"scorer.method = 'prior_shift'"):
            calibration_from_dict(content)


class TestCommand:
    @pytest.fixture
    def traffic(self, world, tmp_path):
        rows = [json.loads(line) for line in (world / "pairs_train.jsonl").read_text().splitlines()]
        kept = [row for place, row in enumerate(rows) if row["label"] == 0 or place % 6 == 0]
        path = tmp_path / "traffic.jsonl"
        path.write_text("".join(json.dumps({**row, "label": 3}) + "\n" for row in kept))  # not looked at
        return path, len(kept)

    def test_unlabelled_pairs_correct_what_is_stored(self, relsdk, toy_bundle_copy, world, traffic):
        path, count = traffic
        options = [toy_bundle_copy, world / "pairs_train.jsonl", "--variant", "fp32"]
        code, out, _ = relsdk("calibrate", *options, "--unlabelled", path, "--json")
        assert code == 0
        (report,) = json.loads(out)["calibrations"]
        shares = report["level_shares"]
        assert shares["pairs"] == count
        assert sum(shares["after"]) == pytest.approx(1.0)
        assert 0 <= report["level_changes"] <= count
        variant = read_bundle(toy_bundle_copy).variant("fp32")
        (content,) = variant.calibrations.values()
        assert content["method"] == "prior_shift"
        assert content["ratios"] == pytest.approx(
            [now / fit for now, fit in zip(shares["after"], shares["labelled"], strict=True)]
        )

    def test_its_effect_is_shown_and_a_fit_without_drops_it(self, relsdk, toy_bundle_copy, world, traffic):
        options = [toy_bundle_copy, world / "pairs_train.jsonl", "--variant", "fp32"]
        _, out, _ = relsdk("calibrate", *options, "--unlabelled", traffic[0])
        assert "without labels" in out
        assert "standard error" in out
        relsdk("calibrate", *options)  # anew, without the traffic
        (content,) = read_bundle(toy_bundle_copy).variant("fp32").calibrations.values()
        assert content["method"] != "prior_shift"

    def test_random_documents_join(self, relsdk, toy_bundle_copy, world):
        pairs = world / "pairs_train.jsonl"
        options = [toy_bundle_copy, pairs, "--variant", "fp32", "--random-negatives", "2"]
        code, out, _ = relsdk("calibrate", *options, "--json")
        assert code == 0
        (report,) = json.loads(out)["calibrations"]
        rows = [json.loads(line) for line in pairs.read_text().splitlines()]
        queries = {row["query"] for row in rows}
        assert len(queries) < report["random_pairs"] <= 2 * len(queries)
        assert report["grading"]["pairs"] == len(rows) + report["random_pairs"]
        assert (
            f"with {report['random_pairs']:,} pairs of random documents" in relsdk("calibrate", *options)[1]
        )

    def test_refused(self, fails, toy_bundle_copy, world, tmp_path):
        empty = tmp_path / "empty.jsonl"
        empty.write_text("")
        pairs = world / "pairs_train.jsonl"
        assert "empty" in fails("calibrate", toy_bundle_copy, pairs, "--unlabelled", empty)
        assert "no such file" in fails(
            "calibrate", toy_bundle_copy, pairs, "--unlabelled", tmp_path / "no.jsonl"
        )


def test_random_negatives_are_not_judged():
    pairs = [
        LabelledPair(f"q{one // 5}", Document(f"d{one % 20}", f"title {one % 20}"), one % 4)
        for one in range(40)
    ]
    judged = {(pair.query, pair.document.title) for pair in pairs}
    found = random_negatives(pairs, 3)
    assert found == random_negatives(pairs, 3)
    assert 16 <= len(found) <= 24
    assert all(pair.level == 0 for pair in found)
    assert not judged & {(pair.query, pair.document.title) for pair in found}
    assert random_negatives(pairs, 0) == []
    most = {(pair.query, pair.document.title) for pair in random_negatives(pairs, 2**63)}
    assert len(most) > len(found)
    assert not judged & most
