"""What is remembered of the documents read lately, and that nobody can tell."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import IndexFolderError, InputError
from relsdk.index import _row_cache as row_cache
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._document_writer import DocumentWriter
from relsdk.records import Document

COUNT = 40


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / DOCUMENTS_FILE
    rows = range(COUNT)
    with DocumentWriter(path) as writer:
        made = [Document(f"d{row}", f"标题 {row}", "正文" * row, {"row": row}) for row in rows]
        writer.put(rows, made, [f'{{"row": {row}}}' for row in rows])
    return path


@given(
    calls=st.lists(st.lists(st.integers(0, COUNT - 1), unique=True, max_size=12), max_size=12),
    characters=st.sampled_from([0, 500, 2000, 10**6]),
)
@settings(max_examples=60, deadline=None)
def test_remembered_documents_are_those_of_the_file(
    database: Path, calls: list[list[int]], characters: int
) -> None:
    reader = DocumentReader(database)
    reader._cache = row_cache.RowCache(characters)
    for rows in calls:
        found = reader.fetch(rows)
        assert sorted(found) == sorted(rows)
        for row, document in found.items():
            assert document == Document(f"d{row}", f"标题 {row}", "正文" * row, {"row": row})
    reader.close()


def test_a_row_read_again_needs_no_statement(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DocumentReader(database)
    asked: list[list[int]] = []
    select = reader._select
    monkeypatch.setattr(reader, "_select", lambda key, rows: asked.append(list(rows)) or select(key, rows))
    reader.fetch([1, 2, 3])
    reader.fetch([3, 1])
    reader.fetch([2, 4, 1])
    assert asked == [[1, 2, 3], [4]]
    reader.close()


def test_metadata_belong_to_the_caller(database: Path) -> None:
    reader = DocumentReader(database)
    reader.fetch([5])[5].metadata["row"] = "changed"  # type: ignore[index]
    assert reader.fetch([5])[5].metadata == {"row": 5}
    reader.close()


def test_what_is_kept_is_bounded_and_the_latest() -> None:
    size = 1000 + row_cache._ROW_CHARACTERS
    recent = row_cache.RowCache(10 * size)
    for row in range(1000):
        recent.keep([(row, "", "", "x" * 1000, "")])
        assert recent.get(0) is not None  # asked for all the time: stays
        kept = len(recent._young.keys() | recent._old.keys())
        assert kept <= 22
    assert recent.get(999) is not None
    assert recent.get(500) is None


def test_one_large_fetch_is_bounded_as_many_small_ones_are() -> None:
    size = 1000 + row_cache._ROW_CHARACTERS
    recent = row_cache.RowCache(10 * size)
    recent.keep([(row, "", "", "x" * 1000, "") for row in range(1000)])
    assert len(recent._young.keys() | recent._old.keys()) <= 22
    assert recent.get(999) is not None


def test_a_row_that_is_missing_is_not_remembered(tmp_path: Path, database: Path) -> None:
    path = tmp_path / DOCUMENTS_FILE
    path.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:  # the inner one only commits
        connection.execute("DELETE FROM documents WHERE row = 7")
    reader = DocumentReader(path)
    for _ in range(2):
        with pytest.raises(IndexFolderError, match="row 7 is missing"):
            reader.fetch([6, 7])
    assert reader._cache.get(7) is None
    reader.close()


def test_another_file_in_the_same_place_is_never_read(database: Path, tmp_path: Path) -> None:
    """What is open stays open; what would be opened later is compared with what was there."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    shutil.copy(database, tmp_path / "first" / DOCUMENTS_FILE)
    with DocumentWriter(tmp_path / "second" / DOCUMENTS_FILE) as writer:
        writer.put([0], [Document("other", "", "other")], ["{}"])
    (tmp_path / "live").symlink_to("first")
    reader = DocumentReader(tmp_path / "live" / DOCUMENTS_FILE)
    (tmp_path / "live").unlink()
    (tmp_path / "live").symlink_to("second")
    with reader._borrow():  # the only connection is in use: a second one is opened
        assert reader.rows_of(["d1", "other"]) == {"d1": 1}
    os.replace(tmp_path / "second" / DOCUMENTS_FILE, tmp_path / "first" / DOCUMENTS_FILE)
    assert reader.rows_of(["d2", "other"]) == {"d2": 2}
    with pytest.raises(IndexFolderError, match="another file than the one that was opened"):
        reader._connect()
    reader.close()


def test_closed_while_it_reads_is_not_damaged(database: Path) -> None:
    reader = DocumentReader(database)
    reader.close()
    with pytest.raises(InputError, match="was closed meanwhile"):
        reader.rows_of(["d1"])
