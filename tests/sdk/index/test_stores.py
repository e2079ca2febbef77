"""Vector stores: what every engine gets from the base, and what the searcher makes of them."""

import pickle

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.errors import CalibrationError, EncoderMismatchError, IndexFolderError, InputError, StoreError
from relsdk.index import IndexConfig
from relsdk.index.opening import build_store, open_index, open_store
from relsdk.index.store_uri import is_store_uri, parse_store_uri
from tests.toy_store import ToyStore, use_toy_stores
from tests.toys import copy_bundle


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    use_toy_stores(monkeypatch)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return Embedder(copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("m") / "encoder"), threads=1)


def documents(count=30):
    return [Document(f"d{n}", f"第{n}号菜谱", "红烧肉" * (n % 4), {"n": n}) for n in range(count)]


@pytest.fixture
def uri(tmp_path):
    return f"milvus-lite:{tmp_path}/store#videos"


@pytest.fixture
def store(uri, embedder):
    with build_store(uri, documents(), embedder) as built:
        yield built


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("milvus://db/videos", ("milvus", "http://db:19530", False, "videos")),
        ("milvus://db:8080/videos?tls=true", ("milvus", "https://db:8080", False, "videos")),
        ("qdrant://[::1]:1/v", ("qdrant", "http://[::1]:1", False, "v")),
        ("qdrant://db:0/v", ("qdrant", "http://db:0", False, "v")),
        ("QDRANT://db/v", ("qdrant", "http://db:6333", False, "v")),
        ("milvus-lite:/a b/x#y.db#v", ("milvus", "/a b/x#y.db", True, "v")),
        ("qdrant-local:/a#v", ("qdrant", "/a", True, "v")),
    ],
)
def test_parts_of_a_uri(text, parts):
    assert is_store_uri(text)
    uri = parse_store_uri(text)
    assert (uri.engine, uri.address, uri.is_local, uri.collection) == parts
    assert str(uri) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("milvus://db", "names no host and collection"),
        ("milvus:///videos", "names no host and collection"),
        ("milvus://db/a/b", "names no host and collection"),
        ("milvus://db/v#x", "names no host and collection"),
        ("milvus://db:99999/v", "cannot be read"),
        ("milvus://root:Milvus@db/v", "MILVUS_TOKEN"),
        ("qdrant://key@db/v", "QDRANT_API_KEY"),
        ("qdrant://db/v?tls=maybe", "tls=maybe"),
        ("qdrant://db/v?api_key=x", "'api_key'"),
        ("milvus-lite:file", "names no file and collection"),
        ("milvus-lite:#v", "names no file and collection"),
        ("milvus-lite://db/v#v", "names no file and collection"),
        # Whose passwords no parser finds.
        ("milvus://root:Milvus@db:99999/v", "MILVUS_TOKEN"),
        ("milvus://root:Milvus/x@db/v", "MILVUS_TOKEN"),
        ("milvus://root:Milvus#x@db/v", "MILVUS_TOKEN"),
        ("milvus-lite://root:Milvus@db/v", "MILVUS_TOKEN"),
        ("qdrant://db/v?api_key=Milvus", "'api_key'"),
        ("qdrant://db?api_key=Milvus", "names no host and collection"),
        ("qdrant://db:x/v?api_key=Milvus", "cannot be read"),
        ("docs.idx", "is no URI of a store"),
    ],
)
def test_uris_that_are_refused(text, said):
    with pytest.raises(InputError, match=said) as refused:
        parse_store_uri(text)
    assert "=Milvus" not in str(refused.value)
    assert ":Milvus" not in str(refused.value)


def test_paths_are_no_uris(tmp_path):
    assert not any(map(is_store_uri, ["docs.idx", "/milvus:/x", "./qdrant:x", tmp_path, None]))


def test_a_store_answers_as_an_index_does(store, embedder, tmp_path):
    index = Index.build(tmp_path / "i", documents(), embedder)
    queries = embedder.encode_query(["红烧肉", "第7号"])
    for where in (None, {"n": {"gte": 5, "lt": 20}}, {"n": {"in": [1, 2]}}, {"not": {"n": 3}}):
        expected = index.search(queries, 5, where=where, exact=True)
        for ours, theirs in zip(store.search(queries, 5, where=where), expected, strict=True):
            np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-6)
        assert store.count(where) == index.count(where)
    assert [hit.document for hit in store.search(queries[0], 30)] == sorted(
        documents(), key=lambda one: -float(embedder.encode_document([one])[0] @ queries[0])
    )
    assert store.get(["d2", "d1"]) == index.get(["d2", "d1"])
    with pytest.raises(InputError, match=r"2 of 3 ids are not in .*: 'x', 'y'"):
        store.get(["x", "d1", "y"])


def test_hits_of_equal_scores_are_in_the_order_of_their_ids(uri, embedder):
    alike = [Document(name, "同一个标题", "") for name in "cabd"]
    with build_store(uri, alike, embedder) as store:
        assert [hit.document.id for hit in store.search(embedder.encode_query("标题"), 4)] == list("abcd")


def test_changes(store, embedder):
    assert (
        store.upsert(
            [Document("d1", "新", "新"), Document("d99", "旧", ""), Document("d99", "新", "")], embedder
        )
        == 2
    )
    assert store.get(["d1", "d99"]) == [Document("d1", "新", "新"), Document("d99", "新", "")]
    assert len(store.search(embedder.encode_query("新"), 100)) == store.count() == 31
    assert store.delete(["d1", "d1", "unknown"]) == 1
    assert store.delete([]) == 0
    assert store.delete(where={"n": {"lt": 10}}) == 9  # d1 is gone
    assert store.info().count == 21
    assert store.add([Document("new", "新", "")], embedder) == 1
    for some, said in (
        ([Document("d20", "新", "")], "'d20' is in .* already"),
        ([Document("x", "新", ""), Document("x", "新", "")], "document 2 .*'x' occurs again"),
    ):
        with pytest.raises(InputError, match=said):
            store.add(some, embedder)
    assert store.count() == 22


@pytest.mark.parametrize(
    "ids_and_where", [(None, None), (["d1"], {"n": 1}), (None, {}), ("d1", None), ([1], None)]
)
def test_deletions_that_are_refused(store, ids_and_where):
    ids, where = ids_and_where
    with pytest.raises(InputError):
        store.delete(ids, where=where)
    assert store.count() == 30


def test_given_vectors(uri, store, embedder):
    some = documents(3)
    vectors = embedder.encode_document(some)
    assert store.upsert(some, vectors=vectors[::-1]) == 3
    hits = store.search(vectors[0], 40)
    assert next(hit for hit in hits if hit.document.id == "d2").score == pytest.approx(1.0, abs=1e-6)
    for given, said in (
        (vectors[:2], "document 3 of the input has no vector"),
        (np.repeat(vectors, 2, axis=0), "there are 6 vectors for 3 documents"),
        (vectors * 2, "length 1 is needed"),
        (vectors[:, :3], "shape"),
    ):
        with pytest.raises(InputError, match=said):
            store.upsert(some, vectors=given)
    with pytest.raises(InputError, match="give the encoder"):
        store.upsert(some)


def test_another_encoder_is_refused(store, embedder):
    cut = Embedder(embedder.path, truncate_dim=8, threads=1)
    for use in (
        store.check_encoder,
        lambda one: store.upsert(documents(1), one),
        lambda one: Searcher(one, store),
    ):
        with pytest.raises(EncoderMismatchError, match="8 dimensions"):
            use(cut)


def test_vectors_of_another_length_are_told(store, embedder):
    store._write([Document("bad", "坏", "")], embedder.encode_document(["坏"]) * 3)
    with pytest.raises(IndexFolderError, match="not length 1"):
        store.search(embedder.encode_query("坏"), 40)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 1.5}, {"ef_search": 0}, {"where": {"n": {"like": 1}}}])
def test_searches_that_are_refused(store, embedder, options):
    with pytest.raises(InputError):
        store.search(embedder.encode_query("菜"), **options)
    with pytest.raises(InputError):
        store.search(np.ones(3, np.float32))


def test_an_interrupted_load_does_not_open_and_is_gone_on_with(uri, embedder, monkeypatch):
    def cut_off(self, some, vectors, write=ToyStore._write):
        if some[0].id == "d20":
            raise StoreError("the store is gone")
        write(self, some, vectors)

    with monkeypatch.context() as patch:
        patch.setattr(ToyStore, "_write", cut_off)
        with pytest.raises(StoreError, match="gone"):
            build_store(uri, documents(), embedder, chunk_size=10)
    with pytest.raises(IndexFolderError, match="run the same relsdk index build again"):
        open_store(uri)
    other = Embedder(embedder.path, truncate_dim=8, threads=1)
    with pytest.raises(InputError, match=r"a load of .* by another model.* was interrupted"):
        build_store(uri, documents(), other)
    with pytest.raises(IndexFolderError, match="holds 20 documents after a load of 5"):
        build_store(uri, documents(5), embedder)
    with build_store(uri, documents(), embedder) as store:
        assert (store.count(), store.info().complete) == (30, True)
    with pytest.raises(InputError, match="is there already, with 30 documents"):
        build_store(uri, documents(), embedder)
    with build_store(uri, documents(4), other, overwrite=True) as store:
        assert (store.count(), store.dimension) == (4, 8)


def test_what_is_refused_replaces_nothing(uri, store, embedder, monkeypatch):
    def check(self, dimension, config):
        if config.int8:
            raise InputError("the engine has no int8")

    monkeypatch.setattr(ToyStore, "check", check)
    some, vectors = documents(3), embedder.encode_document(documents(3))
    for given, options, said in (
        (some, {"config": IndexConfig(int8=True)}, "no int8"),
        (some, {"vectors": vectors[:, :3]}, "shape"),
        (some, {"chunk_size": 0}, "chunk_size"),
        ("d1", {}, "an iterable of documents"),
        ([5], {}, "document 1 of the input"),
    ):
        with pytest.raises(InputError, match=said):
            build_store(uri, given, embedder, overwrite=True, **options)
        assert open_store(uri).count() == 30


def test_a_load_goes_on_with_the_same_settings(uri, embedder):
    def cut_off():
        yield from documents(3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        build_store(uri, cut_off(), embedder, chunk_size=1)
    with pytest.raises(InputError, match=r"with other settings was interrupted.*kind='hnsw'"):
        build_store(uri, documents(), embedder, config=IndexConfig(kind="flat"))
    with build_store(uri, documents(), embedder) as store:
        assert (store.count(), store.info().config) == (30, IndexConfig())


def test_what_is_replaced_meanwhile_answers_no_more(uri, store, embedder):
    searcher = Searcher(embedder, store)
    query = embedder.encode_query("菜")
    store.drop()
    for ask in (searcher.reader.refresh, store.open, lambda: store.search(query), store.count):
        with pytest.raises(IndexFolderError, match="is not there"):
            ask()
    # By another model, of vectors as long.
    other = type("Other", (Embedder,), {"fingerprint": "another"})(embedder.path, threads=1)
    with pytest.raises(RuntimeError):
        build_store(uri, _broken(), other)
    for ask in (searcher.reader.refresh, lambda: searcher.search("菜")):
        with pytest.raises(IndexFolderError, match="goes on, or was interrupted"):
            ask()
    build_store(uri, documents(3), other).close()
    for ask in (lambda: searcher.reader.refresh(embedder), lambda: searcher.search("菜")):
        with pytest.raises(EncoderMismatchError, match="fingerprint another"):
            ask()
    build_store(uri, documents(4), embedder, overwrite=True).close()
    searcher.reader.refresh(embedder)
    assert len(searcher.search("菜")) == 4


def _broken():
    yield documents(1)[0]
    raise RuntimeError


def test_duplicates_and_what_a_store_does_not_have(uri, embedder):
    twice = [Document("a", "一", ""), Document("b", "二", ""), Document("a", "三", "")]
    with pytest.raises(InputError, match="document 3 of the input: id 'a' occurs again"):
        build_store(uri, twice, embedder)
    with build_store(uri, twice, embedder, on_duplicate="last", chunk_size=1) as store:
        assert store.get(["a"])[0].title == "三"
    with pytest.raises(InputError, match="does not split documents"):
        build_store(uri, twice, embedder, config=IndexConfig(passage_characters=10))
    with pytest.raises(InputError, match="document 2 of the input: it is a int"):
        build_store(uri, [twice[0], 5], embedder, overwrite=True)
    with pytest.raises(InputError, match="an iterable of documents"):
        build_store(uri, "d1", embedder, overwrite=True)


def test_a_store_that_is_missing_or_gone(uri, store, embedder):
    with pytest.raises(IndexFolderError, match="is not there; make it with: relsdk index build"):
        open_store(uri + "2")
    store.drop()
    with pytest.raises(StoreError, match="does not answer"):
        store.search(embedder.encode_query("菜"))
    with pytest.raises(IndexFolderError, match="is gone"):
        store.info()


def test_a_searcher_takes_a_store(store, embedder, tmp_path):
    index = Index.build(tmp_path / "i", documents(), embedder)
    ours, theirs = Searcher(embedder, store), Searcher(embedder, index)
    conditions = {"where": {"n": {"lt": 25}}, "sort": "-n", "group_by": "title", "offset": 2}
    for options in ({}, conditions):
        one, other = ours.search("红烧肉", 5, **options), theirs.search("红烧肉", 5, **options)
        assert [hit.document.id for hit in one] == [hit.document.id for hit in other]
        np.testing.assert_allclose([h.score for h in one], [h.score for h in other], atol=1e-6)
        assert (one.matching, one.order) == (None, other.order)
    assert [len(hits) for hits in ours.search_batch(["红烧肉", "菜谱"], 3)] == [3, 3]
    ours.warmup()
    for options, said in (
        ({"mode": "lexical"}, "a lexical search needs an index folder"),
        ({"mode": "hybrid"}, "a hybrid search needs an index folder"),
        ({"facets": ["n"]}, "facets needs an index folder"),
    ):
        with pytest.raises(InputError, match=said):
            ours.search("红烧肉", **options)
    with pytest.raises(CalibrationError):
        ours.search("红烧肉", min_level=2)


def test_groups_are_looked_for_among_so_many(store, embedder, monkeypatch):
    """One k after the other, up to the limit; not all documents, nor more than an engine allows."""
    asked = []

    def nearest(self, queries, k, *rest, nearest=ToyStore._nearest):
        asked.append(k)
        return nearest(self, queries, k, *rest)

    store.upsert([Document(f"d{n}", f"第{n}号菜谱", "", {"group": n // 15}) for n in range(30)], embedder)
    monkeypatch.setattr(ToyStore, "_nearest", nearest)
    monkeypatch.setattr("relsdk.search.searcher._MOST_OF_STORE", 20)
    searcher = Searcher(embedder, store)
    assert len(searcher.search("菜", 3, group_by="group")) == 2
    assert asked == [3, 12, 20]
    assert len(searcher.search("菜", 25)) == 25


def test_a_class_of_ones_own_is_a_store(store, embedder):
    class Other:
        upsert, delete, count = store.upsert, store.delete, store.count

        def search(self, vectors, k=10, *, ef_search=None, where=None):
            return store.search(vectors, k, where=where)

        def check_encoder(self, encoder):
            store.check_encoder(encoder)

    hits = Searcher(embedder, Other()).search("红烧肉", 3)
    assert [hit.document for hit in hits] == [
        hit.document for hit in Searcher(embedder, store).search("红烧肉", 3)
    ]
    with pytest.raises(InputError, match="is a str; an Index is needed"):
        Searcher(embedder, "docs.idx")
    with pytest.raises(InputError, match="an Index is needed"):
        Searcher(embedder, ToyStore)


def test_a_store_crosses_processes_as_its_uri(store, embedder):
    searcher = pickle.loads(pickle.dumps(Searcher(embedder, store)))
    assert (
        searcher.search("红烧肉", 2)[0].document == Searcher(embedder, store).search("红烧肉", 2)[0].document
    )


def test_open_index_tells_folders_and_uris_apart(uri, store, embedder, tmp_path):
    Index.build(tmp_path / "i", documents(2), embedder).close()
    assert isinstance(open_index(tmp_path / "i"), Index)
    assert isinstance(open_index(uri), ToyStore)
