"""What a search promises of its hits as a whole: all of them, no group lost, one generation."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.calibration import HybridLink, hybrid_features
from relsdk.errors import InputError
from relsdk.index import IndexConfig

# Ten passages with the word, before documents that have it once.
LONG = [Document(f"long{i}", "", "红烧肉好吃。" * 10, {"author": "x"}) for i in range(4)]
SHORT = [
    Document(f"short{i}", "", f"第{i}天没有做红烧肉，做了别的。", {"author": f"a{i % 5}"}) for i in range(40)
]


@pytest.fixture(scope="module")
def embedder(toy_bundle):
    return Embedder(toy_bundle, variant="fp32", threads=1)


@pytest.fixture(scope="module")
def split(embedder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("i") / "i"
    with Index.build(folder, LONG, embedder, config=IndexConfig(passage_characters=6)) as index:
        index.add(SHORT, embedder)
        yield Searcher(embedder, index)


def ids(hits):
    return [hit.document.id for hit in hits]


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_passages_of_one_document_do_not_crowd_out_others(split, mode):
    assert len(split.search("红烧肉", 10, mode=mode)) == 10
    whole = ids(split.search("红烧肉", 44, mode=mode))
    assert sorted(whole) == sorted(one.id for one in [*LONG, *SHORT])
    pages = [
        one for start in range(0, 44, 7) for one in ids(split.search("红烧肉", 7, offset=start, mode=mode))
    ]
    assert pages == whole
    assert len(split.search("红烧肉", 6, group_by="author", mode=mode)) == 6  # x, a0 to a4


def test_the_level_is_looked_at_before_the_group(embedder, tmp_path):
    """A group whose best hit by words is below the level is shown by another hit that is not."""
    rows = [
        Document(f"d{i}", f"{'红烧肉' * (1 + i % 4)} {i * 7919 % 101}", "", {"g": i % 9}) for i in range(90)
    ]
    with Index.build(tmp_path / "i", rows, embedder) as index:
        searcher = Searcher(embedder, index, mode="lexical")
        hits = searcher.search("红烧肉", 90)
        signals = [(hit.cosine, hit.signals.bm25, hit.signals.best_possible) for hit in hits]
        plain = HybridLink(1.0, 0.0, (0.0, 0.0, 0.0)).scores(hybrid_features(*np.array(signals).T))
        index.store_hybrid({"fp32": HybridLink(1000.0, 0.0, (1000 * float(np.median(plain)),) * 3)})
        hits = searcher.search("红烧肉", 90, min_level=3)
        assert 0 < len(hits) < 90
        groups = list(dict.fromkeys(hit.document.metadata["g"] for hit in hits))
        firsts = searcher.search("红烧肉", 18, min_level=3, group_by="g")
        assert [hit.document.metadata["g"] for hit in firsts] == groups
        assert len(searcher.search("红烧肉", 1, min_level=3)) == 1


def test_few_groups_do_not_cost_a_look_at_every_document(embedder, tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((3000, embedder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    odd = [{}, {"one": 0}, {"one": [1]}, {"one": [1, 2]}, {"one": {"x": 1}}, {"one": None}]
    rows = [
        Document(
            f"d{i}",
            f"红烧肉 {i}",
            "",
            {"flag": i % 3, "rare": i // 2990, **(odd[i] if i < 6 else {"one": 0})},
        )
        for i in range(3000)
    ]
    asked = []
    retrieve = Index.retrieve

    def noted(self, texts, vectors, k=10, **options):
        asked.append(k)
        return retrieve(self, texts, vectors, k, **options)

    monkeypatch.setattr(Index, "retrieve", noted)
    with Index.build(tmp_path / "i", rows, embedder, vectors=vectors) as index:
        searcher = Searcher(embedder, index)
        for mode in ("dense", "lexical", "hybrid"):
            asked.clear()
            assert len(searcher.search("红烧肉", 10, group_by="flag", mode=mode)) == 3
            assert max(asked) < 1000
            assert (
                len(searcher.search("红烧肉", 10, group_by="flag", where={"flag": {"ne": 1}}, mode=mode)) == 2
            )
            # What is far down is found: a rare value, a list, an object, documents without the field.
            assert len(searcher.search("红烧肉", 10, group_by="rare", mode=mode)) == 2
            assert len(searcher.search("红烧肉", 10, group_by="one", mode=mode)) == 6


def test_hits_and_counts_are_of_one_generation(embedder, tmp_path, monkeypatch):
    with Index.build(tmp_path / "i", SHORT, embedder) as index:
        searcher = Searcher(embedder, index)
        encode = Embedder.encode_query

        def late(self, *arguments, **options):
            if len(index) == 40:  # another thread changes the index while the query is encoded
                index.delete([f"short{i}" for i in range(30)])
            return encode(self, *arguments, **options)

        monkeypatch.setattr(Embedder, "encode_query", late)
        for mode in ("dense", "hybrid"):
            hits = searcher.search("红烧肉", 100, mode=mode)
            assert len(hits) == hits.matching
        assert hits.matching == 10


@pytest.mark.parametrize("mode", ["", "Dense", 0, [], np.zeros(2)])
def test_a_mode_that_there_is_not(split, embedder, mode):
    with pytest.raises(InputError, match="allowed are 'dense', 'lexical', 'hybrid'"):
        split.search("红烧肉", mode=mode)
    with pytest.raises(InputError, match="allowed are 'dense', 'lexical', 'hybrid'"):
        Searcher(embedder, split.index, mode=mode)


@pytest.mark.parametrize("value", ["0.5", True, float("nan"), [1], 1j])
def test_a_score_that_is_no_number(split, value):
    with pytest.raises(InputError, match=r"min_score=.*; a number is needed"):
        split.search("红烧肉", min_score=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": "docs.idx"}, "index is a str; an Index is needed"),
        ({"index": None}, "index is a NoneType"),
        ({"scorer": "bundle"}, "scorer is a str; a RelevanceScorer is needed"),
        ({"embedder": "bundle"}, "the encoder is a str without"),
    ],
)
def test_a_searcher_of_other_things(split, embedder, arguments, message):
    with pytest.raises(InputError, match=message):
        Searcher(**{"embedder": embedder, "index": split.index, **arguments})


def test_whole_numbers_of_numpy(split):
    hits = split.search("红烧肉", np.int64(3), offset=np.int32(1), min_score=np.float32(0.1))
    assert hits == split.search("红烧肉", 3, offset=1, min_score=float(np.float32(0.1)))
    for value in (np.zeros(2), 1.0, True, "1"):
        with pytest.raises(InputError, match="min_level"):
            split.search("红烧肉", min_level=value)
    for queries in (5, None, b"x", {"a": 1}):
        with pytest.raises(InputError, match="takes a list of queries"):
            split.search_batch(queries)


def test_no_queries_have_no_answers(split):
    for mode in ("dense", "lexical", "hybrid"):
        assert split.search_batch([], mode=mode) == []
