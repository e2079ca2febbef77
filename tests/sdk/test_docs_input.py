"""docs/input.md: what it shows is read as it says."""

import re
from pathlib import Path

import pytest

from relsdk import formats
from relsdk.formats import _json, _lines, _tables
from relsdk.index import filter_parser
from relsdk.index.filter_text import parse_where

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "input.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("name", "reader"), [
    ("docs.jsonl", formats.read_documents),
    ("docs.csv", formats.read_documents),
    ("pairs.jsonl", formats.read_pairs),
    ("queries.txt", formats.read_queries),
    ("queries.jsonl", formats.read_queries),
    ("qrels.txt", formats.read_qrels),
    ("run.txt", formats.read_run),
])  # fmt: skip
def test_the_files_shown_are_read(tmp_path, name, reader):
    path = tmp_path / name
    path.write_text(BLOCKS[name], encoding="utf-8")
    rows = reader(path)
    assert sum(map(len, rows.values())) == 2 if isinstance(rows, dict) else len(list(rows)) == 2


def test_the_table_shown_has_the_types_that_are_told(tmp_path):
    path = tmp_path / "docs.csv"
    path.write_text(BLOCKS["docs.csv"], encoding="utf-8")
    first = next(formats.read_documents(path))
    assert first.metadata == {"author": "老王", "duration": 95, "new": True, "sku": "007"}


def test_the_filters_shown_are_filters():
    lines = BLOCKS["where"].splitlines()
    assert len(lines) == 6
    for line in lines:
        filter_parser.parse_filter(parse_where([line]))
    shown = {}
    exec(BLOCKS["python"], shown)
    filter_parser.parse_filter(shown["where"])


def test_the_limits_shown_are_the_limits():
    for limit in (
        f"| {_lines.MAX_LINE >> 20} MiB |",
        f"| {_tables._MAX_ROW >> 20} MiB, {_tables._MAX_FIELD >> 20} MiB |",
        f"| {_json._MAX_ARRAY >> 20} MiB |",
        f"{filter_parser.MAX_COMPARISONS} comparisons, {filter_parser.MAX_VALUES:,} values, "
        f"{filter_parser.MAX_CHARACTERS:,} characters of text, {filter_parser.MAX_DEPTH} levels",
    ):
        assert limit in PAGE
