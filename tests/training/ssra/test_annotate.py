"""Stage 1, annotate: existing queries get a level."""

from relsdk_training.ssra.pair_records import pair_key
from relsdk_training.ssra.stages.annotate import annotate
from tests.training.ssra.table_scorer import BREAD, MEAT, TABLE, TableScorer, fates


def test_existing_queries_get_their_likeliest_level():
    lines = [
        {"document": MEAT, "queries": ["红烧肉做法", "感冒药", "红烧肉窍门"]},
        {"document": BREAD, "queries": ["红烧肉做法", "bread"]},
    ]
    known = {("感冒药", "红烧肉怎么做 先焯水"), ("bread", "how to make bread"), ("红烧肉做法", "another")}
    assert known == {pair_key(*pair) for pair in known}
    records = annotate(lines, TableScorer(**TABLE), [0.4, 0.4, 0.4, 0.36], known)
    assert fates(records) == [("红烧肉做法", None), ("红烧肉窍门", "score"), ("红烧肉做法", None)]
    assert [record["document"]["id"] for record in records] == ["1", "1", "2"]
    assert [record["predicted"] for record in records] == [3, 3, 3]
    assert {(record["wanted"], record["source"], record["round"]) for record in records} == {
        (None, "annotated", 0)
    }
    assert annotate(lines, TableScorer(**TABLE), [0.4, 0.4, 0.4, 0.34], known)[1]["kept"]


def test_a_pair_that_has_a_label_in_another_case_is_left_out():
    known = {pair_key("IPHONE 15", "手机")}
    lines = [{"document": {"id": "1", "title": "手机", "text": ""}, "queries": ["iphone 15"]}]
    assert annotate(lines, TableScorer(), [0.4] * 4, known) == []
