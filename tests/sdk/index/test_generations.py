"""An object that several threads search and change: the answers of one generation.

And of one whose vectors are damaged.
"""

import warnings

import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import Index, _reading
from relsdk.records import Document


def test_a_snapshot_stays_where_it_is(built, encoder):
    before = built.snapshot()
    built.upsert([Document("d5", "另一个")], encoder)
    built.delete([f"d{i}" for i in range(6, 100)])
    built.compact(full=True)
    assert (len(before), before.count({"n": {"gte": 0}}), len(built)) == (200, 200, 106)
    assert before.get(["d5"])[0].title == "标题 d5"
    assert len(before.search(np.eye(16, dtype=np.float32)[0], 300)) == 200
    assert before.path == built.path


@pytest.mark.parametrize(
    "change",
    [
        lambda index, _: index.compact(),
        lambda index, _: index.compact(full=True),
        lambda index, _: index.delete(["nobody"]),
        lambda index, _: index.delete(where={"title": "谁"}),
        lambda index, encoder: index.upsert([], encoder),
    ],
)
def test_a_change_with_nothing_to_do_shows_what_others_did(tmp_path, encoder, change):
    Index.build(tmp_path / "i", [Document("d0", "标题")], encoder).close()
    with Index.open(tmp_path / "i") as behind, Index.open(tmp_path / "i") as other:
        other.upsert([Document("d1", "标题")], encoder)
        other.compact(full=True)
        other.compact(full=True)
        assert not change(behind, encoder)
        assert [one.id for one in behind.documents()] == ["d0", "d1"]


def test_similar_looks_at_one_generation(built, monkeypatch):
    """A document that another thread deletes between the look-up and the search is found."""
    search = _reading.IndexReader.search

    def late(self, *arguments, **options):
        if len(built) == 200:
            built.delete(["d5", "d6"])
        return search(self, *arguments, **options)

    monkeypatch.setattr(_reading.IndexReader, "search", late)
    hits = built.similar("d5", 500)
    assert len(hits) == 199
    assert len(built) == 198


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30, 50.0])
def test_damaged_vectors_are_said_to_be_damaged_in_every_search(tmp_path, encoder, number):
    """Where hashes were not compared: no score that no cosine can have."""
    Index.build(tmp_path / "i", [Document(f"d{i}", f"标题 {i}") for i in range(9)], encoder).close()
    (path,) = (tmp_path / "i").rglob("vectors.npy")
    vectors = np.load(path)
    path.write_bytes(path.read_bytes()[: -vectors.nbytes] + np.full_like(vectors, number).tobytes())
    query = encoder.vector("标题")
    with Index.open(tmp_path / "i", check="sizes") as index, warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in ("dense", "lexical", "hybrid"):
            with pytest.raises(IndexFolderError, match="relsdk index verify"):
                index.retrieve(["标题"], query[None], 3, mode=mode)
        with pytest.raises(IndexFolderError, match="relsdk index verify"):
            index.similar("d3")
