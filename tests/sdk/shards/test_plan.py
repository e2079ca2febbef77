"""Shards: which rows, and names that never change."""

import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.formats import read_documents
from relsdk.shards.plan import Job, RowCursor, Source, open_source, plan_shards, rows_of_a_part

JOB = Job("toy", "f" * 16, "int8_avx2", 32, "document")


def source_of(rows, **changes):
    fields = {"path": "/data/docs.jsonl", "kind": "document", "reading": {"encoding": "utf-8"}}
    return Source(**{**fields, "digest": "d" * 64, "rows": rows, "stamp": (1, 2), **changes})


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        *((1, 1024), (1024, 1024), (262_144, 1024), (262_145, 2048), (1_000_000, 4096)),
        *((4_194_304, 16384), (4_194_305, 16384), (10**9, 16384)),
    ],
)
def test_rows_of_a_part(rows, size):
    assert rows_of_a_part(rows) == size


@given(st.integers(1, 10_000_000))
def test_shards_cover_each_row_once(rows):
    size = rows_of_a_part(rows)
    assert size & (size - 1) == 0
    assert 1024 <= size <= 16384
    assert rows <= 256 * size or size == 16384
    if rows < 300_000:
        shards = plan_shards(source_of(rows), JOB)
        assert [shard.start for shard in shards] == list(range(0, rows, size))
        assert [shard.stop for shard in shards] == [*range(size, rows, size), rows]
        assert len({shard.hash for shard in shards}) == len(shards)


def test_names_are_what_they_were():
    """A change of these makes everybody encode again: count up PART_VERSION only when parts change."""
    names = [shard.file_name for shard in plan_shards(source_of(2000), JOB)]
    assert names == [
        "part-554bbe17b8d10d57557b6db7832e2a12.parquet",
        "part-71689385cb5dbbcdcfe46336402ef4a4.parquet",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        *({"digest": "e" * 64}, {"reading": {"encoding": "gb18030"}}, {"path": "/data/docs.csv"}),
        *({"fingerprint": "0" * 16}, {"variant": "fp32"}, {"dimension": 16}, {"kind": "query"}),
        {"calibration": "c"},
    ],
)
def test_what_matters_is_in_the_name(changed):
    before = plan_shards(source_of(3000), JOB)
    job = Job(**{**{name: getattr(JOB, name) for name in Job.__slots__}, **_of(changed, Job)})
    after = plan_shards(source_of(3000, **_of(changed, Source, "kind")), job)
    assert not {shard.hash for shard in before} & {shard.hash for shard in after}


def _of(changed, kind, *without):
    return {name: value for name, value in changed.items() if name in kind.__slots__ and name not in without}


def test_what_does_not_matter_is_not_in_the_name():
    job = Job("another name", *(getattr(JOB, name) for name in Job.__slots__[1:]))
    moved = source_of(3000, path="/elsewhere/d.v2.jsonl", stamp=(1, 3))
    assert [s.hash for s in plan_shards(moved, job)] == [s.hash for s in plan_shards(source_of(3000), JOB)]


def write_rows(path, count):
    rows = [{"id": f"v{row}", "title": f"红烧肉 {row}"} for row in range(count)]
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
        return
    separator = {".csv": ",", ".tsv": "\t"}.get(path.with_suffix("").suffix or path.suffix)
    if ".json" in path.suffixes:
        text = json.dumps(rows, ensure_ascii=False)
    elif separator is None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows)
    else:
        text = separator.join(rows[0]) + "\n" + "".join(separator.join(row.values()) + "\n" for row in rows)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    "name", ["d.jsonl", "d.json", "d.csv", "d.tsv", "d.parquet", "d.jsonl.gz", "d.csv.gz"]
)
def test_ranges_of_every_format(tmp_path, name):
    path = tmp_path / name
    write_rows(path, 50)
    expected = list(read_documents(path))
    source = open_source(path, "document")
    assert source.rows == len(expected) == 50
    cursor = RowCursor(source)
    for start, stop in [(0, 8), (8, 16), (40, 50), (16, 24), (16, 24), (49, 50), (0, 50)]:
        assert list(cursor.rows(start, stop)) == expected[start:stop]


def test_ranges_go_forwards_without_reading_again(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    write_rows(path, 50)
    cursor, opened = RowCursor(open_source(path, "document")), []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self: opened.append(1) or read(self))
    for start in (0, 10, 30):
        assert len(list(cursor.rows(start, start + 10))) == 10
    assert len(opened) == 1
    assert len(list(cursor.rows(10, 20))) == 10
    assert len(opened) == 2


def test_an_input_that_cannot_be_read_twice(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.jsonl")
    for name in ("-", tmp_path / "fifo.jsonl", "/dev/null"):
        with pytest.raises(InputError, match=r"no regular file.*save it as one|names no known format"):
            open_source(name, "document")


def test_a_wrong_row_is_told_before_the_work(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": "1", "title": "红烧肉"}\n{"id": "2"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"d\.jsonl:2: no 'title' or 'text'"):
        open_source(path, "document")


@pytest.mark.parametrize("rows", [49, 51])
def test_an_input_that_changes_is_told(tmp_path, rows):
    path = tmp_path / "d.jsonl"
    write_rows(path, 50)
    source = open_source(path, "document")
    write_rows(path, rows)
    with pytest.raises(InputError, match="changed while it was read"):
        source.check_unchanged()
    if rows < 50:
        with pytest.raises(InputError, match="changed while it was read"):
            list(RowCursor(source).rows(40, 50))
