"""What a stage made, counted by hand and sampled."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk_training.ssra.stage_report import _sample_records, stage_report
from tests.training.ssra.run_folders import SYNTHESISED, record, write_stage


def test_a_report_has_the_numbers_counted_by_hand():
    report = stage_report(SYNTHESISED)
    assert (report["total"], report["kept"], report["without_level"]) == (8, 3, 1)
    assert [(row["level"], row["total"], row["kept"], row["kept_share"]) for row in report["levels"]] == [
        (0, 1, 1, 1.0),
        (1, 1, 0, 0.0),
        (2, 3, 1, 1 / 3),
        (3, 2, 1, 0.5),
    ]
    assert report["dropped_because"] == {"cleaning": 1, "duplicate": 1, "echo": 1, "judge": 1, "score": 1}
    assert report["sources"] == {
        "synthesised": [0, 1, 2, 2],
        "annotated": [1, 0, 0, 0],
        "labelled": [0, 0, 1, 0],
    }
    assert report["queries"] == 7
    assert report["duplicate_rate"] == 2 / 6
    assert report["echo_share"] == 1 / 7
    assert report["query_length"] == {"mean": (5 + 12 + 12 + 2 + 3 + 3 + 3) / 7, "p50": 3, "p95": 12}
    assert report["scripts"] == {"han": 4 / 7, "latin": 5 / 7, "digit": 2 / 7}
    assert report["confusion"] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert report["agreement"] == [None, 1.0, 0.5, 1.0]
    assert report["examples"][2] == {
        "kept": [SYNTHESISED[2]],
        "dropped": [SYNTHESISED[1], SYNTHESISED[6]],
    }
    assert json.loads(json.dumps(report)) == report


def test_a_report_of_nothing_has_no_shares():
    report = stage_report([])
    assert report["total"] == 0
    assert report["duplicate_rate"] is None
    assert report["query_length"] == {"mean": None, "p50": None, "p95": None}
    assert [row["kept_share"] for row in report["levels"]] == [None] * 4


@pytest.mark.parametrize(
    ("query", "scripts"),
    [
        ("ＡＢ", {"latin"}),
        ("𠮷", {"han"}),
        ("３", {"digit"}),
        ("カナ×÷", set()),
        ("é々1", {"latin", "han", "digit"}),
    ],
)
def test_scripts(query, scripts):
    assert stage_report([record(query, 1, 1)])["scripts"] == {
        name: float(name in scripts) for name in ("han", "latin", "digit")
    }


_LEVELS = st.none() | st.integers(0, 3)
_RECORDS = st.lists(
    st.builds(
        record,
        st.text(max_size=4),
        _LEVELS,
        _LEVELS,
        st.sampled_from([None, "cleaning", "duplicate", "score", "judge", "echo"]),
        title=st.text(max_size=2),
        source=st.sampled_from(["labelled", "annotated", "synthesised"]),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(_RECORDS, st.integers(0, 3))
def test_counts_sum_up(records, examples):
    report = stage_report(iter(records), examples=examples)
    assert report["total"] == len(records)
    assert report["kept"] + sum(report["dropped_because"].values()) == len(records)
    assert sum(row["total"] for row in report["levels"]) + report["without_level"] == len(records)
    assert sum(map(sum, report["sources"].values())) + report["without_level"] == len(records)
    assert all(0 <= row["kept"] <= row["total"] for row in report["levels"])
    scored = [one for one in records if None not in (one["wanted"], one["predicted"])]
    assert sum(map(sum, report["confusion"])) == len(scored)
    shares = [report["duplicate_rate"], report["echo_share"], *report["scripts"].values()]
    assert all(share is None or 0 <= share <= 1 for share in [*shares, *report["agreement"]])
    length = report["query_length"]
    assert not report["queries"] or 1 <= length["p50"] <= length["p95"] <= 4
    for row, samples in zip(report["levels"], report["examples"], strict=True):
        assert len(samples["kept"]) == min(examples, row["kept"])
        assert len(samples["dropped"]) == min(examples, row["total"] - row["kept"])


def test_a_sample_is_the_same_for_the_same_seed(tmp_path):
    many = [record(f"查询{i}", i % 4, i % 4, None if i % 3 else "score") for i in range(240)]
    folder = write_stage(tmp_path, "01-x", many, per_shard=100)
    sample = _sample_records(folder, 5, 0)
    assert sample == _sample_records(folder, 5, 0)
    assert sample != _sample_records(folder, 5, 1)
    for level in range(4):
        for fate in ("kept", "dropped"):
            chosen = sample[level][fate]
            assert len(chosen) == 5
            assert all(one["wanted"] == level and one["kept"] == (fate == "kept") for one in chosen)
            numbers = [many.index(one) for one in chosen]
            assert numbers == sorted(set(numbers))
    assert stage_report(many, examples=5)["examples"] == list(sample.values())
    # What one level gets does not depend on the others.
    alone = stage_report([one for one in many if one["wanted"] == 2], examples=5)["examples"][2]
    assert alone == sample[2]
    with pytest.raises(InputError, match="-1 examples"):
        _sample_records(folder, -1, 0)


def test_every_record_is_as_likely():
    records = [record(str(i), 1, 1) for i in range(6)]
    chosen = Counter(
        one["query"]
        for seed in range(600)
        for one in stage_report(records, examples=2, seed=seed)["examples"][1]["kept"]
    )
    # Each is expected 200 times, with a standard deviation of 11.5.
    assert all(140 < chosen[str(i)] < 260 for i in range(6))
