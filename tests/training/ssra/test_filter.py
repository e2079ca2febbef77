"""Stage 2, filter: what each reason drops."""

import numpy as np
import pytest

from relsdk_training.data.text import normal_form
from relsdk_training.ssra.judges import Group
from relsdk_training.ssra.stages.filter import _filter_queries, _Filters
from tests.training.ssra.table_scorer import BREAD, MEAT, TABLE, TableScorer, fates, sure


def filters(table, **changes):
    settings = {
        "thresholds": [0.4] * 4,
        "by_score": True,
        "judge": None,
        "held_out": (),
        "scripts": ("CJK", "LATIN"),
    }
    return _Filters(scorer=TableScorer(**table), **{**settings, **changes})


WRITTEN = [
    {
        "document": MEAT,
        "wanted": 3,
        "queries": [
            "“红烧肉做法”",
            "红烧肉做法。",  # the same when cleaned
            "肉",
            "红烧肉怎么做",  # its title
            "Ｉphone 截图",  # of dev
            "感冒药",  # another level
            "红烧肉窍门",  # the level, but unsure
        ],
    },
    {"document": MEAT, "wanted": 0, "queries": ["红烧肉做法", "感冒药", "感冒药"]},
    {"document": BREAD, "wanted": 3, "queries": ["红烧肉做法", "bread"]},
]


def test_each_reason_drops_its_query():
    by = filters(TABLE, held_out={normal_form("iPhone 截图")})
    records = _filter_queries(WRITTEN, by, round_number=2, model_hash="abc")
    assert fates(records) == [
        ("红烧肉做法", None),
        ("红烧肉做法", "duplicate"),
        ("肉", "cleaning"),
        ("红烧肉怎么做", "echo"),
        ("Ｉphone 截图", "held out"),
        ("感冒药", "score"),
        ("红烧肉窍门", "score"),
        ("红烧肉做法", "score"),  # of another wanted level: no duplicate
        ("感冒药", None),
        ("感冒药", "duplicate"),
        ("红烧肉做法", None),  # of another document
        ("bread", None),
    ]
    assert all(record["kept"] == (record["dropped_because"] is None) for record in records)
    assert records[0] == {
        "query": "红烧肉做法",
        "document": {"id": "1", "title": "红烧肉怎么做", "text": "先焯水"},
        "wanted": 3,
        "predicted": 3,
        "probabilities": [0.0333, 0.0333, 0.0333, 0.9],
        "judge": None,
        "kept": True,
        "dropped_because": None,
        "round": 2,
        "model": "abc",
        "source": "synthesised",
    }
    assert records[1]["predicted"] is None
    asked = [query for query, _ in by.scorer.asked]
    assert asked == ["红烧肉做法", "感冒药", "红烧肉窍门", "红烧肉做法", "感冒药", "红烧肉做法", "bread"]
    assert {document for _, document in by.scorer.asked} == {"红烧肉怎么做 先焯水", "how to make bread"}


def test_queries_from_elsewhere_are_told_apart():
    lines = [{"document": MEAT, "wanted": 3, "queries": ["红烧肉做法", "感冒药"]}]
    records = _filter_queries(lines, filters(TABLE), round_number=0, model_hash=None, source="written")
    assert [(r["source"], r["round"], r["model"], r["kept"]) for r in records] == [
        ("written", 0, None, True),
        ("written", 0, None, False),
    ]


@pytest.mark.parametrize(("threshold", "kept"), [(0.34, True), (0.36, False)])
def test_the_threshold_is_that_of_the_wanted_level(threshold, kept):
    lines = [{"document": MEAT, "wanted": 3, "queries": ["红烧肉窍门"]}]
    by = filters(TABLE, thresholds=[0.99, 0.99, 0.99, threshold])
    assert _filter_queries(lines, by, round_number=1, model_hash="")[0]["kept"] is kept


def test_without_the_score_all_that_is_clean_stays():
    by = filters({**TABLE, "Ｉphone 截图": sure(0)}, by_score=False)
    records = _filter_queries(WRITTEN, by, round_number=1, model_hash="")
    dropped = [record["dropped_because"] for record in records]
    assert [reason for reason in dropped if reason] == ["duplicate", "cleaning", "echo", "duplicate"]
    assert records[5]["predicted"] == 0  # measured all the same
    assert records[5]["kept"]


class OrderJudge:
    """Contradicts one pair of queries."""

    def __init__(self, high, low):
        self.high, self.low, self.groups = high, low, []

    def contradictions(self, groups):
        self.groups += groups
        return [
            np.array(
                [[one == self.high and other == self.low for other in g.queries] for one in g.queries],
                dtype=bool,
            )
            for g in groups
        ]


def test_the_judge_sees_what_is_left_document_by_document():
    judge = OrderJudge("红烧肉做法", "感冒药")
    lines = [
        {"document": MEAT, "wanted": 3, "queries": ["红烧肉做法", "肉"]},
        {"document": BREAD, "wanted": 3, "queries": ["bread"]},
        {"document": MEAT, "wanted": 0, "queries": ["感冒药", "红烧肉窍门"]},
        {"document": MEAT, "wanted": 2, "queries": ["家常菜"]},
    ]
    by = filters({**TABLE, "家常菜": sure(2)}, judge=judge)
    records = _filter_queries(lines, by, round_number=1, model_hash="")
    assert judge.groups == [
        Group("红烧肉怎么做 先焯水", ["红烧肉做法", "感冒药", "家常菜"], [3, 0, 2]),
        Group("how to make bread", ["bread"], [3]),
    ]
    assert fates(records) == [
        ("红烧肉做法", None),
        ("肉", "cleaning"),
        ("bread", None),
        ("感冒药", "judge"),
        ("红烧肉窍门", "score"),
        ("家常菜", None),
    ]
    verdicts = [record["judge"] and record["judge"]["verdict"] for record in records]
    assert verdicts == ["contradicts", None, "not asked", "contradicts", None, "agrees"]


def test_documents_are_told_apart_by_text_and_not_by_id():
    """Two files may both number from 1."""
    other = {**BREAD, "id": MEAT["id"]}
    judge = OrderJudge("bread", "红烧肉做法")
    lines = [
        {"document": MEAT, "wanted": 0, "queries": ["感冒药"]},
        {"document": other, "wanted": 3, "queries": ["bread"]},
        {"document": other, "wanted": 0, "queries": ["感冒药"]},
    ]
    assert fates(_filter_queries(lines, filters(TABLE, judge=judge), round_number=1, model_hash="")) == [
        ("感冒药", None),
        ("bread", None),
        ("感冒药", None),
    ]
    assert [group.document for group in judge.groups] == ["红烧肉怎么做 先焯水", "how to make bread"]


def test_nothing_usable_asks_nobody():
    by = filters({}, judge=OrderJudge("a", "b"))
    lines = [
        {"document": MEAT, "wanted": 3, "queries": ["肉", ""]},
        {"document": BREAD, "wanted": 1, "queries": []},
    ]
    assert fates(_filter_queries(lines, by, round_number=1, model_hash="")) == [
        ("肉", "cleaning"),
        ("", "cleaning"),
    ]
    assert by.scorer.asked == []
    assert by.judge.groups == []
