"""Which pairs the encoder learns from, counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_training.config.ssra import BalanceConfig
from relsdk_training.ssra._shards import write_lines
from relsdk_training.ssra.pair_records import labelled_key, new_record
from relsdk_training.ssra.stages.balance import _balanced_choice, _level_counts, _write_balanced

SHARES = (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Level 0 has more labels than its share, level 3 as many; the others are filled up.
        (50, [10, 10, 15, 20]),
        # 32 pairs of level 3 are 40 % of 80.
        (0, [10, 16, 24, 32]),
        # More than there is: 22, 31 and 32 are all of levels 1 to 3.
        (1000, [40, 22, 31, 32]),
        (1, [10, 2, 1, 20]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_level_counts_by_hand(size, expected, scale):
    shares = [scale * share for share in SHARES]
    assert _level_counts([10, 2, 1, 20], [30, 20, 30, 12], shares, size).tolist() == expected


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.5, 0.0, 0.3, 0.2), (0.5, 0.3, 0.3, -0.1), (1, 1, 1, np.nan), (np.inf, 1, 1, 1)]
)
def test_bad_shares(shares):
    with pytest.raises(InputError, match=r"balance.shares .*four numbers above 0"):
        _level_counts([1] * 4, [1] * 4, shares, 0)


def test_a_balanced_choice_by_hand():
    #         0  1  2  3  4  5  6  7  8  9 10 11
    levels = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 0]
    labelled = [row in (1, 4, 11) for row in range(12)]
    # Level 2 has 2 pairs, a quarter of 8: level 0 keeps its two labelled, level 1 gets its second, 3 two.
    rows = _balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=0).tolist()
    assert rows[:5] == [1, 4, 5, 6, 7]
    assert rows == sorted(rows)
    assert rows[-1] == 11
    assert len(rows) == 8
    assert set(rows[5:7]) < {8, 9, 10}
    drawn = {tuple(_balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=seed)) for seed in range(20)}
    assert len(drawn) == 3  # two of three pairs of level 3, by chance
    again = _balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=0)
    assert again.tolist() == rows


def test_what_a_language_model_wrote_goes_before_what_its_pupil_wrote():
    #         0  1  2  3  4  5  6  7  8  9
    levels = [0, 1, 2, 3, 1, 1, 1, 1, 1, 3]
    labelled = [row < 4 for row in range(10)]
    written = [row in (5, 8) for row in range(10)]
    for seed in range(5):
        # Level 1 gets four of six, one of them labelled: both that were written, and one of the others.
        rows = _balanced_choice(levels, labelled, [1, 4, 1, 1], 7, seed, written).tolist()
        assert {0, 1, 2, 3, 5, 8} < set(rows)
        assert len(rows) == 7
    # Of more than is wanted, some by chance.
    few = {tuple(_balanced_choice(levels, labelled, [1, 2, 1, 1], 5, seed, written)) for seed in range(9)}
    assert few == {(0, 1, 2, 3, 5), (0, 1, 2, 3, 8)}


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
    shares=st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    size=st.integers(0, 80),
    seed=st.integers(0, 5),
)
def test_a_choice_keeps_every_labelled_pair_and_invents_none(rows, shares, size, seed):
    levels, labelled = (list(column) for column in zip(*rows, strict=True))
    chosen = _balanced_choice(levels, labelled, shares, size, seed)
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(np.flatnonzero(labelled)) <= set(chosen.tolist()) <= set(range(len(rows)))
    have, all_of = (np.bincount(np.array(levels)[of], minlength=4) for of in (labelled, slice(None)))
    counts = np.bincount(np.array(levels)[chosen], minlength=4)
    assert counts.tolist() == _level_counts(have.tolist(), (all_of - have).tolist(), shares, size).tolist()
    wanted = size * np.array(shares) / sum(shares)
    if size:  # a level that is off its share has no more to give, or nothing but labelled ones
        off = np.abs(counts - wanted) > 0.51
        assert (~off | (counts == all_of) | (counts == have)).all()


def test_the_same_query_in_another_case_or_width_is_the_same_pair(tmp_path):
    document = Document(id="1", title="手机", text="")
    write_pairs(tmp_path / "labelled.jsonl", [LabelledPair("iPhone 15", document, 3)])
    asdict = {"id": "1", "title": "手机", "text": ""}
    made = [
        new_record(asdict, query, wanted=level, source="synthesised")
        for query, level in (("iphone 15", 1), ("ｉPhone 15", 2), ("安卓", 1))
    ]
    stage = tmp_path / "09-filter-1"
    stage.mkdir()
    write_lines(stage / "records-00000.jsonl", made)
    (tmp_path / "out").mkdir()
    unused = _write_balanced(
        tmp_path / "out", tmp_path / "labelled.jsonl", [stage], BalanceConfig(size=100), seed=0
    )
    pairs = [(pair.query, int(pair.level)) for pair in read_pairs(tmp_path / "out/pairs.jsonl")]
    assert pairs == [("iPhone 15", 3), ("安卓", 1)]
    assert unused == [0, 0, 0, 0]


def test_a_pair_that_a_model_graded_is_learned_by_that_grade(tmp_path):
    document = Document(id="1", title="手机", text="")
    opinions = [LabelledPair("安卓", document, 2), LabelledPair("iPhone 15", document, 0)]
    write_pairs(tmp_path / "labelled.jsonl", [LabelledPair("iphone 15", document, 3)])
    asdict = {"id": "1", "title": "手机", "text": ""}
    (tmp_path / "05-annotate").mkdir()
    records = [new_record(asdict, query, wanted=1, source="annotated") for query in ("安卓", "手机壳")]
    write_lines(tmp_path / "05-annotate/records-00000.jsonl", records)
    _write_balanced(
        tmp_path,
        tmp_path / "labelled.jsonl",
        [tmp_path / "05-annotate"],
        BalanceConfig(size=100),
        seed=0,
        opinions={labelled_key(pair) for pair in opinions},
    )
    pairs = [(pair.query, int(pair.level)) for pair in read_pairs(tmp_path / "pairs.jsonl")]
    assert pairs == [("iphone 15", 3), ("手机壳", 1)]
