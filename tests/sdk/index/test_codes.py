"""Vectors in 8 bits on disk: the same answers, through changes and damage."""

import shutil

import numpy as np
import pytest

import relsdk.index._changes as changes
import relsdk.index._segment_writer as segment_writer
from relsdk.errors import IndexFolderError, InputError
from relsdk.index import Index, IndexConfig, verify_index


@pytest.mark.parametrize("kind", ["hnsw", "flat"])
def test_answers_are_those_without(tmp_path, documents, encoder, monkeypatch, kind):
    for module in (changes, segment_writer):
        monkeypatch.setattr(module, "GRAPH_ROWS", 50)
    found = []
    for int8 in (False, True):
        config = IndexConfig(kind=kind, int8=int8)
        with Index.build(tmp_path / f"{int8}", documents[:100], encoder, config=config) as index:
            index.add(documents[100:], encoder)
            index.delete(["d3", "d150"])
            assert index.verify().ok
            queries = np.array(index.vectors[::20])
            answers = [index.search(queries, 7, where=where) for where in (None, {"flag": True})]
            index.compact(full=True)
            assert index.verify().ok
            names = {name.rpartition("/")[2] for name in index.info().files}
            assert ({"codes.npy", "scales.npy"} <= names) == int8
            answers += [index.search(queries, 7, where=where) for where in (None, {"flag": True})]
            found.append(answers)
    assert found[0] == found[1]


def test_damaged_codes(tmp_path, documents, encoder):
    Index.build(tmp_path / "x", documents, encoder, config=IndexConfig(int8=True)).close()
    for name in ("codes.npy", "scales.npy"):
        copy = tmp_path / name
        shutil.copytree(tmp_path / "x", copy)
        path = copy / "segments" / "seg-000001" / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(IndexFolderError, match=f"{name} is damaged"):
            Index.open(copy)
        assert [check.name for check in verify_index(copy).checks if not check.ok] == [
            f"hash of segments/seg-000001/{name}",
            "codes of segments/seg-000001",
        ]


def test_int8_is_true_or_false():
    with pytest.raises(InputError, match="int8='yes'; True or False"):
        IndexConfig(int8="yes")
