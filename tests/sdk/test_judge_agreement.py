"""A judge's grades beside people's labels: counted by hand, and measured by independent libraries."""

import json

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.records import Document, LabelledPair
from relsdk.tools.judge_agreement import judge_report


def pair(query, title, level, **metadata):
    return LabelledPair(query, Document("", title, "", metadata), level)


GRADES = [
    pair("甲", "一", 3),
    pair("甲", "二", 1),
    pair("乙", "一", 2),
    pair("乙", "二", 0),
    pair("丙", "一", 3),
]
LABELS = [
    pair("甲", "一", 3),
    pair("甲", "二", 0),
    pair("乙", "一", 3),
    pair("乙", "二", 0),
    pair("丁", "一", 3),
]


def test_counted_by_hand():
    report = judge_report(GRADES, LABELS)
    assert (report.grades, report.pairs, report.queries) == (5, 4, 2)
    assert report.counts == ((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 1))
    assert report.probabilities() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    measures = report.measures
    assert (measures["accuracy"], measures["higher"], measures["lower"]) == (0.5, 0.25, 0.25)
    assert measures["ap_1"] == measures["ap_3"] == 1
    # Weights (i - j)^2: observed 0 + 1 + 1 + 0; by chance two rows of (0, 1, 2, 3) and (0, 0, 3, 3).
    assert measures["qwk"] == pytest.approx(1 - (2 / 4) / ((0 + 9 + 1 + 4 + 4 + 1 + 9 + 0) / 8))
    assert (report.wrong_order, report.equal_order) == (0, 0)


def test_the_order_of_two_pairs():
    """Three pairs of level 2, 1, 0 are graded 1, 1, 3: one is alike, two are the wrong way round."""
    grades = [pair("甲", str(n), level) for n, level in enumerate((1, 1, 3))]
    report = judge_report(grades, [pair("甲", str(n), level) for n, level in enumerate((2, 1, 0))])
    assert report.equal_order == pytest.approx(1 / 3)
    assert report.wrong_order == pytest.approx(2 / 3)
    alike = judge_report(grades, [pair("甲", str(n), 2) for n in range(3)])
    assert (alike.wrong_order, alike.equal_order) == (None, None)
    assert alike.measures["ap_1"] == 1
    assert alike.measures["ap_3"] is None
    json.dumps(alike.to_dict(), allow_nan=False)


def test_which_pairs_are_the_same():
    """Queries up to case, width and spaces; documents by title and text, whatever their ids."""
    same = [LabelledPair("ＡＢ  c", Document("x", "题", "文"), 2)]
    assert judge_report(same, [LabelledPair("ab C", Document("y", "题", "文"), 2)]).pairs == 1
    for other in (Document("x", "题", "文 "), Document("x", "题 文", "")):
        with pytest.raises(InputError, match="none of the 1 grades is of a labelled pair"):
            judge_report(same, [LabelledPair("ab c", other, 2)])
    twice = judge_report([*GRADES, *GRADES], [*LABELS, pair("甲", "一", 2)])
    assert (twice.grades, twice.pairs) == (10, 5)  # a grade counts once, each human label counts


@pytest.fixture(scope="module")
def annotated():
    """300 pairs of 60 queries; the judge is right in 60 % and else one level off."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 300)
    off = np.where(rng.random(300) < 0.6, 0, rng.choice([-1, 1], 300))
    opinions = np.clip(labels + off, 0, 3)
    names = [(f"查询{row % 60}", f"标题{row}") for row in range(300)]
    grades = [pair(*name, int(level)) for name, level in zip(names, opinions, strict=True)]
    human = [pair(*name, int(level)) for name, level in zip(names, labels, strict=True)]
    return labels, opinions, judge_report(grades, human)


def test_measures_are_those_of_other_libraries(annotated):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, opinions, report = annotated
    measures = report.measures
    assert measures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, opinions))
    assert measures["qwk"] == pytest.approx(metrics.cohen_kappa_score(labels, opinions, weights="quadratic"))
    for level in (1, 2, 3):
        expected = metrics.average_precision_score(labels >= level, opinions)
        assert measures[f"ap_{level}"] == pytest.approx(expected)
    assert np.array_equal(report.counts, metrics.confusion_matrix(opinions, labels))


def test_wrong_order_is_what_kendall_counts(annotated):
    """Goodman and Kruskal's gamma counts the same: (right - wrong) over pairs with human levels apart."""
    labels, opinions, report = annotated
    apart = np.sign(labels[:, None] - labels[None, :])
    graded = np.sign(opinions[:, None] - opinions[None, :])
    above = apart > 0
    assert report.wrong_order == pytest.approx((graded[above] < 0).mean())
    assert report.equal_order == pytest.approx((graded[above] == 0).mean())
    stats = pytest.importorskip("scipy.stats")
    somers = stats.somersd(labels, opinions).statistic
    assert 1 - 2 * report.wrong_order - report.equal_order == pytest.approx(somers)


def test_intervals_are_over_queries(annotated):
    labels, opinions, report = annotated
    right = (labels == opinions).reshape(5, 60).mean(axis=0)  # of each query
    spread = right.std(ddof=1) / np.sqrt(60)
    low, high = report.intervals["accuracy"]
    assert low < report.measures["accuracy"] < high
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    for name, interval in report.intervals.items():
        assert interval[0] <= report.measures[name] <= interval[1]


def test_one_query_has_no_interval():
    report = judge_report(GRADES[:2], LABELS[:2])
    assert report.measures["accuracy"] == 0.5
    assert set(report.intervals.values()) == {None}


def test_samples_order_pairs_of_one_level():
    labels = [pair("甲", str(n), level) for n, level in enumerate((3, 2, 0))]
    grades = [
        pair("甲", "0", 2, probabilities=[0, 0, 0.6, 0.4]),
        pair("甲", "1", 2, probabilities=[0, 0.3, 0.7, 0]),
        pair("甲", "2", 2, probabilities="broken"),
    ]
    assert judge_report(grades, labels).measures["ap_3"] == 1
    assert judge_report([pair("甲", str(n), 2) for n in range(3)], labels).measures["ap_3"] == pytest.approx(
        1 / 3
    )


def test_what_a_judge_is_good_for(annotated):
    uses = "\n".join(annotated[2].uses())
    assert "weak labels: yes, corrected: GRADES in data.weak, these 300 labels" in uses
    assert "filter of written queries (filter.judge): only if more of what is written is out of order" in uses
    assert "test set: no" in uses
    assert "pairs in common: 300; 85 more are needed" in uses
    few = "\n".join(judge_report(GRADES, LABELS).uses())
    assert "with care: pairs in common are 4, too few to show its habits; label 40 or more" in few
    rng = np.random.default_rng(1)
    names = [(f"查询{row}", "标题") for row in range(400)]
    guesses, labels = ([pair(*name, int(rng.integers(4))) for name in names] for _ in range(2))
    guessed = "\n".join(judge_report(guesses, labels).uses())
    assert "weak labels: no: its agreement with people cannot be told from chance" in guessed
    assert "filter of written queries (filter.judge): no" in guessed
    assert "pairs in common: 400; enough" in guessed


def test_a_training_corrects_from_as_many_pairs_on():
    opinions = pytest.importorskip("relsdk_training.data.opinions")
    from relsdk.tools import judge_agreement

    assert judge_agreement._NEEDED == opinions._NEEDED


@pytest.fixture
def grades_and_pairs(tmp_path):
    for name, rows in (("grades", GRADES), ("pairs", LABELS)):
        lines = [{"query": p.query, "title": p.document.title, "label": p.level} for p in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "grades.jsonl", tmp_path / "pairs.jsonl"


def test_the_command(relsdk, fails, grades_and_pairs, tmp_path):
    grades, pairs = grades_and_pairs
    code, out, err = relsdk("eval", "--judge", grades, pairs, "-o", tmp_path / "report.json")
    assert code == 0, err
    assert out.startswith("4 pairs graded by both the judge and people (queries: 2; grades: 5)")
    rows = [line.split() for line in out.splitlines()]
    assert ["accuracy", "50.00", "50.00", "to", "50.00"] in rows
    assert ["1", "1", "1", "0", "0", "0", "100.00", "0.00", "0.00", "0.00"] in rows
    assert "- test set: no" in out
    code, out, _ = relsdk("eval", "--judge", grades, pairs, "--json")
    content = json.loads(out)
    assert content == json.loads((tmp_path / "report.json").read_text())
    assert content["accuracy"] == 0.5
    assert content["accuracy_interval"] == [0.5, 0.5]
    assert content["counts"][2] == [0, 0, 0, 1]
    assert "leave out --variant" in fails("eval", "--judge", grades, pairs, "--variant", "fp32")
    assert "one at a time" in fails("eval", "--judge", grades, pairs, "--run", "run.txt")
    assert "write relsdk eval --judge GRADES [PAIRS]" in fails("eval", "--judge", grades, pairs, pairs)


def test_grades_that_know_what_people_said(relsdk, fails, grades_and_pairs):
    grades, pairs = grades_and_pairs
    assert "no row has a human_label; name the PAIRS" in fails("eval", "--judge", grades)
    rows = [json.loads(line) for line in grades.read_text().splitlines()]
    for row, human in zip(rows, LABELS[:4], strict=False):
        row["human_label"] = int(human.level)
    other = grades.with_name("both.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert relsdk("eval", "--judge", other)[1] == relsdk("eval", "--judge", grades, pairs)[1]
    rows[0]["human_label"] = 5
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "both.jsonl: human_label: label 5 is not a relevance level" in fails("eval", "--judge", other)


def test_the_other_way_round_is_refused(fails, grades_and_pairs, tmp_path):
    """A judge's grades are no labels to measure a judge by."""
    _, pairs = grades_and_pairs
    row = {"query": "甲", "title": "一", "label": 3}
    for name, value in (("probabilities", [0, 0, 0, 1]), ("human_label", 3)):
        graded = tmp_path / "judge.jsonl"
        graded.write_text(json.dumps({**row, "metadata": {name: value}}))
        message = fails("eval", "--judge", pairs, graded)
        assert f"judge.jsonl has '{name}' in a row: its labels are a judge's" in message
        assert "relsdk eval --judge GRADES PAIRS" in message


@pytest.mark.shared
def test_the_language_model_that_was_recorded(shared):
    grades, dev = shared / "data/llm/kuake_grades_dev.jsonl", shared / "data/kuake_qtr/dev.jsonl"
    if not grades.is_file():
        pytest.skip("no recorded grades beside the project")
    report = judge_report(read_pairs(grades), read_pairs(dev))
    assert report.pairs == 480
    rounded = {name: round(value, 3) for name, value in report.measures.items()}
    assert rounded == {
        "accuracy": 0.602,
        "qwk": 0.725,
        "ap_1": 0.964,
        "ap_2": 0.866,
        "ap_3": 0.719,
        "higher": 0.269,
        "lower": 0.129,
    }
