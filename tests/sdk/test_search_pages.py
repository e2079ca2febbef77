"""Pages, sorting by a field, one hit a group, documents like another."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.errors import InputError


@pytest.fixture(scope="module")
def searcher(toy_bundle, tmp_path_factory):
    embedder = Embedder(toy_bundle, variant="fp32", threads=1)
    documents = [
        Document(
            f"d{i}",
            f"视频 {i} 红烧肉" if i % 3 else f"篮球 {i}",
            metadata={
                "author": f"a{i % 7}",
                "year": 2000 + i % 20,
                **({"price": i} if i % 2 else {}),
                "tags": [i % 5, "x"],
                "deep": {"n": -i},
            },
        )
        for i in range(120)
    ]
    with Index.build(tmp_path_factory.mktemp("i") / "i", documents, embedder) as index:
        yield Searcher(embedder, index)


def ids(hits):
    return [hit.document.id for hit in hits]


def test_pages_are_parts_of_one_list(searcher):
    whole = searcher.search("红烧肉", 50)
    pages = [searcher.search("红烧肉", 10, offset=offset) for offset in range(0, 50, 10)]
    assert [hit for page in pages for hit in page] == list(whole)
    assert searcher.search("红烧肉", 10, offset=115) == searcher.search("红烧肉", 120)[115:]
    assert searcher.search("红烧肉", 10, offset=500) == []


def test_sort_orders_the_most_relevant_by_a_field(searcher):
    pool = searcher.search("红烧肉", 100)
    by_price = [hit for hit in pool if "price" in hit.document.metadata]
    rising = sorted(by_price, key=lambda hit: hit.document.metadata["price"])
    rest = [hit for hit in pool if "price" not in hit.document.metadata]
    assert list(searcher.search("红烧肉", 100, sort="price")) == rising + rest
    assert list(searcher.search("红烧肉", 5, sort="-price", offset=3)) == rising[::-1][3:8]
    years = [hit.document.metadata["year"] for hit in searcher.search("红烧肉", 30, sort="-year")]
    assert years == sorted(years, reverse=True)
    deep = searcher.search("红烧肉", 100, sort="deep.n")
    assert [h.document.metadata["deep"]["n"] for h in deep] == sorted(
        h.document.metadata["deep"]["n"] for h in pool
    )
    assert (
        ids(searcher.search("红烧肉", 3, sort="title"))
        == ids(sorted(pool, key=lambda hit: hit.document.title))[:3]
    )
    # Equal values stay in the order of relevance.
    first = [hit for hit in pool if hit.document.metadata["tags"][0] == 0]
    assert list(searcher.search("红烧肉", len(first), sort="tags")) == first


def test_groups_have_one_hit_each_the_best(searcher):
    whole = searcher.search("红烧肉", 120)
    best = {}
    for hit in whole:
        best.setdefault(hit.document.metadata["author"], hit)
    assert list(searcher.search("红烧肉", 7, group_by="author")) == list(best.values())
    assert list(searcher.search("红烧肉", 3, offset=2, group_by="author")) == list(best.values())[2:5]
    assert len(searcher.search("红烧肉", 50, group_by="author")) == 7  # there are no more
    # Documents without the field are groups of their own.
    assert len(searcher.search("红烧肉", 120, group_by="price")) == 120
    (one, two) = searcher.search_batch(["红烧肉", "篮球"], 7, group_by="author")
    assert ids(one) == ids(best.values())
    assert len({hit.document.metadata["author"] for hit in two}) == 7


def test_similar_is_search_with_the_documents_vector(searcher):
    index = searcher.index
    hits = index.similar("d5", 4)
    vectors = index.vectors
    scores = vectors @ vectors[5]
    scores[5] = -np.inf
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:4], atol=1e-5)
    assert "d5" not in ids(hits)
    assert ids(index.similar("d5", 3, where={"author": "a5"})) == ids(
        [hit for hit in index.similar("d5", 119) if hit.document.metadata["author"] == "a5"][:3]
    )
    with pytest.raises(InputError, match="the nearest to 'd555' are"):
        index.similar("d555")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": -1}, "offset=-1; a whole number of at least 0"),
        ({"offset": True}, "offset=True"),
        ({"sort": ""}, "a field, or -field"),
        ({"sort": "-"}, "a field, or -field"),
        ({"sort": 5}, "a field, or -field"),
        ({"sort": "prise"}, "no document has the field 'prise'; did you mean 'price'"),
        ({"group_by": "autor"}, "no document has the field 'autor'; did you mean 'author'"),
        ({"group_by": ""}, "a field is a name"),
    ],
)
def test_bad_arguments(searcher, arguments, message):
    with pytest.raises(InputError, match=message):
        searcher.search("红烧肉", 5, **arguments)
