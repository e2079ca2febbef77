"""Inputs of the tests of shards, and parts of a few rows."""

import json
from pathlib import Path

import pytest

from relsdk.shards import plan

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.fixture
def small_parts(monkeypatch):
    """Plan parts of 16 rows."""
    monkeypatch.setattr(plan, "_LEAST_ROWS", 16)


@pytest.fixture
def documents(tmp_path):
    """100 documents: 7 parts of 16 rows."""
    rows = [
        {"id": f"v{row}", "title": f"红烧肉怎么做 {row % 40}", "text": "大理" * (row % 7)}
        for row in range(100)
    ]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def encoder():
    return FIXTURES / "encoder-bundle-v1"


def contents(folder):
    """Return the bytes of the parts of a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).glob("part-*")}
