"""An object that several threads search and change: the answers of one generation."""

import numpy as np

from relsdk.index import _reading
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
