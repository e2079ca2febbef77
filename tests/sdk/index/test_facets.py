"""Values of a field and how many documents have them, over segments and dead documents."""

from collections import Counter

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk.index import Index


@pytest.fixture
def index(tmp_path, encoder):
    def document(i):
        return {
            "id": f"d{i}",
            "title": f"title {i}",
            "author": f"a{i % 7}",
            "tags": [f"t{i % 3}", f"t{i % 3}", f"t{i % 5}"],
            "year": 2000 + i % 4,
            "free": i % 2 == 0,
            "deep": {"kind": "x" if i % 2 else "y"},
            **({"rare": None} if i % 10 else {}),
        }

    documents = [document(i) for i in range(90)]
    with Index.build(tmp_path / "x", documents[:40], encoder) as index:
        index.add(documents[40:], encoder)
        index.delete([f"d{i}" for i in range(0, 90, 9)])
        yield index, [one for i, one in enumerate(documents) if i % 9]


@pytest.mark.parametrize("field", ["author", "tags", "year", "free", "deep.kind"])
@pytest.mark.parametrize("where", [None, {"year": {"gte": 2002}}, {"tags": "t4", "author": {"ne": "a1"}}])
def test_facets_are_counts(index, field, where):
    index, documents = index
    allowed = {document.id for document in index.documents(where)}
    counts = Counter()
    for document in documents:
        if document["id"] in allowed:
            value = document["deep"]["kind"] if field == "deep.kind" else document[field]
            counts.update(set(value) if isinstance(value, list) else [value])
    found = index.facets(field, where)
    assert sorted(found) == sorted(counts.items())
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))


def test_a_field_without_values_has_no_facets(index):
    assert index[0].facets("rare") == []


def test_facets_of_what_is_not_there(index):
    with pytest.raises(InputError, match="no document has the field 'autor'; did you mean 'author'"):
        index[0].facets("autor")
    with pytest.raises(InputError, match="a part of every document"):
        index[0].facets("title")


def test_facets_of_an_index_without_documents(index):
    index = index[0]
    index.delete(where={"year": {"gte": 0}})
    assert len(index) == 0
    assert np.array(index.vectors).shape == (0, 16)


def test_true_and_one_are_two_values(tmp_path, encoder):
    values = [True, 1, 1, "1", 1, False]
    documents = [{"id": str(i), "title": f"t{i}", "or": value} for i, value in enumerate(values)]
    with Index.build(tmp_path / "x", documents, encoder) as index:
        found = index.facets("metadata.or")
    assert [(repr(value), count) for value, count in found] == [
        ("1", 3),
        ("False", 1),
        ("True", 1),
        ("'1'", 1),
    ]
