"""docs/scale.md: what it shows runs."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relsdk import Document, Embedder

pytest.importorskip("pyarrow")
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.filterwarnings("ignore:.*has no checksum")


def section(title):
    """Return the blocks of a section: (language or "", text)."""
    text = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tests" / "fixtures" / "encoder-bundle-v1", tmp_path / "bundle")
    rows = [{"id": f"v{row}", "title": f"红烧肉 {row}"} for row in range(20)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bulk_encoding(folder, relsdk, capsys):
    blocks = section("Bulk encoding")
    for line in blocks[0][1].splitlines():
        assert relsdk(*shlex.split(line)[1:])[0] == 0
    for language, text in blocks[1:]:
        assert language == "python"
        exec(text, {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:2] == ["20", "1"]
    assert shown[1] == "v0 32"


class Table:
    """As much of a pandas table as the recipe uses: pandas comes with Spark, not with relsdk."""

    def __init__(self, columns):
        self.columns = columns

    def itertuples(self):
        return (
            SimpleNamespace(**dict(zip(self.columns, row, strict=True)))
            for row in zip(*self.columns.values(), strict=True)
        )

    def __getitem__(self, names):
        return Table({name: self.columns[name] for name in names})

    def assign(self, **columns):
        return Table({**self.columns, **columns})


def test_spark(folder):
    shown = {}
    exec(section("Spark")[0][1], shown)
    documents = [Document(f"v{row}", f"红烧肉 {row}", "") for row in range(4)]
    columns = {name: [getattr(document, name) for document in documents] for name in ("id", "title", "text")}
    (table,) = shown["encode"](iter([Table(columns)]))
    expected = Embedder("bundle", variant="int8_avx2").encode_document(documents)
    assert table.columns["id"] == ["v0", "v1", "v2", "v3"]
    assert np.array_equal(np.array(table.columns["vector"], dtype=np.float32), expected)
