"""Pairwise consistency: contradictions, what stays, and who is asked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relsdk.errors import TrainingError
from relsdk_training.ssra.judges import (
    EndpointJudge,
    Group,
    ModelJudge,
    _chosen_letter,
    consistent,
    contradictions,
)
from tests.training.ssra.table_scorer import TableScorer


def test_contradictions_by_hand():
    #                          0 > 1: 0.5 <= 2.0; 0 > 2: 0.5 <= 0.8; 1 > 2: 2.0 > 0.8; 3 is level with 0
    found = contradictions([3, 2, 1, 3], np.array([0.5, 2.0, 0.8, 2.0]))
    assert np.argwhere(found).tolist() == [[0, 1], [0, 2], [3, 1]]  # equal is not more
    assert not contradictions([1, 1], np.array([0.0, 3.0])).any()


@pytest.mark.parametrize(
    ("pairs", "count", "kept"),
    [
        ([], 3, [0, 1, 2]),
        ([(0, 1), (0, 2), (0, 3)], 4, [1, 2, 3]),
        ([(1, 0)], 2, [0]),
        ([(0, 1), (0, 2), (3, 1)], 4, [0, 3]),  # 0 and 1 clash twice each: 1 goes; then of 0 and 2 the later
        ([(0, 1), (1, 2), (2, 3)], 4, [0, 3]),  # 2 goes of 1 and 2; then 1 of 0 and 1
        ([(0, 1), (1, 0)], 2, [0]),
    ],
)
def test_the_most_contradicted_go_first(pairs, count, kept):
    wrong = np.zeros((count, count), dtype=bool)
    for pair in pairs:
        wrong[pair] = True
    assert np.flatnonzero(consistent(wrong)).tolist() == kept


@given(
    st.integers(0, 8).flatmap(
        lambda n: st.tuples(
            arrays(np.int64, n, elements=st.integers(0, 3)),
            arrays(np.float64, n, elements=st.floats(0, 3).map(lambda x: round(x, 1))),
        )
    )
)
def test_what_stays_is_in_order(of_document):
    wanted, expected = of_document
    wrong = contradictions(wanted, expected)
    keep = consistent(wrong)
    assert not contradictions(wanted[keep], expected[keep]).any()
    assert (keep | wrong.any(axis=0) | wrong.any(axis=1)).all()  # nobody goes without a contradiction
    assert keep.any() or not len(keep)


def test_a_model_judges_by_expected_levels():
    scorer = TableScorer(甲=[0, 0, 0, 1], 乙=[0.5, 0, 0, 0.5], 丙=[0, 0, 1, 0])  # 3, 1.5, 2
    groups = [
        Group("一", ["丙", "甲"], [2, 2]),
        Group("二", ["甲", "乙", "丙"], [3, 2, 1]),
        Group("三", ["乙"], [1]),
        Group("四", ["丙", "甲"], [3, 0]),
    ]
    found = ModelJudge(scorer).contradictions(groups)
    assert [np.argwhere(wrong).tolist() for wrong in found] == [[], [[1, 2]], [], [[0, 1]]]
    assert [len(wrong) for wrong in found] == [2, 3, 1, 2]
    assert scorer.asked == [("甲", "二"), ("乙", "二"), ("丙", "二"), ("丙", "四"), ("甲", "四")]
    assert [wrong.shape for wrong in ModelJudge(scorer).contradictions(groups[:1])] == [(2, 2)]


class Endpoint:
    model = "toy"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask(self, messages, *, temperature, seed, samples=1):
        assert (temperature, samples) == (0.0, 1)
        self.asked.append(messages)
        return [self.answers.pop(0)]

    def each(self, work, items):
        yield from (work(item) for item in items)


def test_an_endpoint_is_asked_about_pairs_of_different_levels():
    # 乙 before 甲; 丙 before 乙, both ways round; always the letter B, which says nothing.
    endpoint = Endpoint("A", " b。", "a", "B", "B")
    groups = [Group("红烧肉", ["甲", "乙", "丙"], [1, 3, 1]), Group("面包", ["丁", "戊"], [0, 2])]
    found = EndpointJudge(endpoint).contradictions(groups)
    assert [np.argwhere(wrong).tolist() for wrong in found] == [[[1, 2]], []]
    assert endpoint.answers == []
    questions = [messages[-1]["content"] for messages in endpoint.asked]
    documents = ["红烧肉"] * 3 + ["面包"] * 2
    for question, document, one, other in zip(questions, documents, "乙乙丙戊丁", "甲丙乙丁戊", strict=True):
        assert f"文档：{document}\nA：{one}\nB：{other}\n" in question
    assert EndpointJudge(endpoint).contradictions([Group("面包", ["丁"], [1])])[0].tolist() == [[False]]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" b。", "B"),
        ("**B**", "B"),
        ("答案：B", "B"),
        ("选B", "B"),
        ("<think>\nA or B? A is…\n</think>\nB", "B"),
        ("Both are equally good", ""),
        ("A 和 B 都可以", ""),
        ("I'm sorry, as a language model I cannot compare these.", ""),
        ("It is not a question of taste: B", "B"),
        ("", ""),
        ("<think>B", ""),
    ],
)
def test_the_letter_of_an_answer(answer, letter):
    assert _chosen_letter(answer) == letter


def test_a_judge_that_never_names_one_is_no_judge():
    group = Group("红烧肉", ["甲", "乙"], [1, 3])
    lost = EndpointJudge(Endpoint(*["都好"] * 20))
    with pytest.raises(
        TrainingError, match=r"hardly any answer of toy names A or B.*'都好'.*filter\.endpoint\.name"
    ):
        lost.contradictions([group] * 20)
    found = EndpointJudge(Endpoint("A", *["都好"] * 98)).contradictions([group] * 99)
    assert not np.any(found)


@pytest.mark.parametrize(("clear", "stops"), [(0, True), (1, True), (4, True), (5, False), (100, False)])
def test_a_judge_that_falls_silent_is_told(clear, stops):
    """After a hundred clear answers, of the next hundred so many are."""
    answers = [*["A"] * 100, *["A"] * clear, *["抱歉，我无法比较"] * (100 - clear)]
    judge = EndpointJudge(Endpoint(*answers))
    groups = [Group("红烧肉", ["甲", "乙"], [1, 3])] * 200
    if stops:
        with pytest.raises(TrainingError, match="无法比较"):
            judge.contradictions(groups)
    else:
        judge.contradictions(groups)
