"""Records of pairs: read shard by shard, damage named; a sample of them, and none twice."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk_training.ssra.pair_records import distinct, read_records, sample
from tests.training.ssra.run_folders import SYNTHESISED, record, write_run, write_stage


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_records_come_in_the_order_of_the_shards(run):
    assert list(read_records(run / "stages" / "05-synthesise")) == SYNTHESISED
    assert list(read_records(run / "stages" / "07-embed")) == []


GOOD = json.dumps(record("q", 1, 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD[:-9], "damaged record"),
        ("[]", "list where an object should be"),
        ("", "damaged record"),
        (GOOD.replace('"wanted": 1', '"wanted": 4'), "'wanted' is '4'"),
        (GOOD.replace('"wanted": 1', '"wanted": true'), "'wanted' is 'True'"),
        (GOOD.replace('"predicted"', '"predict"'), "no 'predicted'"),
        (GOOD.replace('"kept": true', '"kept": false'), "either 'kept' or 'dropped_because' is wrong"),
        (GOOD.replace("0.7", "7"), "'probabilities' is"),
        (GOOD.replace("0.7", "NaN"), "NaN is not JSON"),
        (GOOD.replace('"q"', r'"\ud800"'), "'query' is"),
        (GOOD.replace('"title"', '"titel"'), "'document' is"),
        (GOOD.replace('"judge": null', '"judge": {}'), "'judge' is"),
        (b"\xff".decode("latin-1"), "damaged record"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    folder = write_stage(tmp_path, "01-x", [record("a", 1, 1), record("b", 1, 1)])
    path = folder / "records-00000.jsonl"
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(first + b"\n" + line.encode("latin-1") + b"\n")
    records = read_records(folder)
    assert next(records)["query"] == "a"
    with pytest.raises(InputError, match=r"records-00000\.jsonl:2: .*" + re.escape(message)):
        next(records)


def test_a_lost_shard_is_named(run):
    folder = run / "stages" / "05-synthesise"
    (folder / "records-00001.jsonl").unlink()
    with pytest.raises(InputError, match=r"has records-00002\.jsonl where records-00001\.jsonl should be"):
        list(read_records(folder))
    with pytest.raises(InputError, match="no stage folder"):
        list(read_records(run / "stages" / "99-none"))


@given(st.lists(st.integers()), st.integers(0, 10), st.integers())
def test_as_many_as_wanted_are_drawn_in_their_order(items, most, seed):
    numbered = list(enumerate(items))
    chosen = sample(iter(numbered), most, seed)
    assert len(chosen) == min(most, len(items))
    assert chosen == sorted(set(chosen), key=lambda one: one[0])
    assert set(chosen) <= set(numbered)
    assert chosen == sample(numbered, most, seed)


def test_every_item_is_drawn_equally_often():
    counts = np.bincount([x for seed in range(2000) for x in sample(range(8), 2, seed)], minlength=8)
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@given(st.lists(st.text(max_size=2)))
def test_the_first_of_equal_keys_is_kept(items):
    first = {}
    for item in items:
        first.setdefault(item.casefold(), item)
    assert list(distinct(items, str.casefold)) == list(first.values())
