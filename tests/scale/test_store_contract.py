"""What every store does alike: an index folder, the base of all stores, Milvus and Qdrant."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Searcher
from relsdk.errors import EncoderMismatchError, IndexFolderError, InputError
from relsdk.index import Index, IndexConfig
from relsdk_sample import generate
from tests.bundle_changes import read_description, write_description
from tests.scale.engines import DIMENSION, ENGINES, NOISE, HashEncoder, unit
from tests.toys import copy_bundle

pytestmark = [
    pytest.mark.parametrize("engine", ENGINES, indirect=True),
    *(pytest.mark.filterwarnings(noise) for noise in NOISE),
]
STEEP = 400.0  # slope of levels: what the last bit of a cosine is multiplied with
QUERY = unit(np.arange(1, DIMENSION + 1))


def some(count, start=0, **metadata):
    return [Document(f"d{i}", f"标题 {i}", "", {"n": i, **metadata}) for i in range(start, start + count)]


def found(store, **conditions):
    """Return the ids of all documents, by exact search."""
    return sorted(hit.document.id for hit in store.search(QUERY, 1000, exact=True, **conditions))


def ids(documents):
    return sorted(document.id for document in documents)


def test_a_search_finds_the_nearest_with_their_cosines(engine, encoder):
    documents = some(60)
    store = engine.build(documents, encoder)
    cosines = encoder.encode_document(documents) @ QUERY
    best = np.argsort(-cosines)
    for options in ({"exact": True}, {"ef_search": 500}, {}):
        hits = store.search(QUERY, 10, **options)
        assert [hit.document for hit in hits] == [documents[at] for at in best[:10]]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[best[:10]], atol=1e-6)
        assert all(hit.cosine == hit.score and hit.level is None for hit in hits)
    everything = store.search(QUERY, 1000, exact=True)
    assert [hit.document.id for hit in everything] == [documents[at].id for at in best]


def test_many_queries_are_answered_each_like_one(engine, encoder):
    store = engine.build(some(50), encoder)
    queries = unit(np.random.default_rng(0).standard_normal((40, DIMENSION)))
    together = store.search(queries, 3, exact=True, where={"n": {"lt": 30}})
    assert together == [store.search(query, 3, exact=True, where={"n": {"lt": 30}}) for query in queries]
    assert {len(hits) for hits in together} == {3}
    assert store.search(queries[:0], 3) == []


def test_upsert_adds_and_replaces(engine, encoder):
    store = engine.build(some(5), encoder)
    assert store.upsert([Document("d3", "新标题", "", {"n": -1}), *some(2, start=5)], encoder) == 3
    assert store.count() == 7
    assert found(store) == ids(some(7))
    assert store.get(["d3", "d0"]) == [Document("d3", "新标题", "", {"n": -1}), some(1)[0]]
    assert found(store, where={"n": 3}) == []
    (hit, *_) = store.search(encoder.encode_document([Document("", "新标题")])[0], 1)
    assert (hit.document.id, hit.score) == ("d3", pytest.approx(1, abs=1e-6))
    assert store.upsert([], encoder) == 0


def test_of_equal_ids_the_last_counts(engine, encoder):
    store = engine.build(some(1), encoder)
    given = [Document("x", "一"), Document("y", "二"), Document("x", "三", "", {"n": 3})]
    vectors = encoder.encode_document(given)
    store.upsert(given, vectors=vectors)
    assert store.get(["x"]) == [given[2]]
    (hit, *_) = store.search(vectors[2], 1)
    assert (hit.document.id, hit.score) == ("x", pytest.approx(1, abs=1e-6))
    store.upsert(given, encoder, chunk_size=1)
    assert (store.count(), store.get(["x"])) == (3, [given[2]])


def test_add_takes_new_ids_only(engine, encoder):
    store = engine.build(some(3), encoder)
    assert store.add(some(2, start=3), encoder) == 2
    with pytest.raises(InputError, match="'d4'"):
        store.add(some(1, start=4), encoder)
    with pytest.raises(InputError, match="occurs again"):
        store.add([Document("z", "一"), Document("z", "二")], encoder)
    assert found(store) == ids(some(5))


def test_delete_by_id_and_by_filter(engine, encoder):
    store = engine.build(some(10), encoder)
    assert store.delete(["d1", "d1", "d2", "nowhere"]) == 2
    assert store.delete([]) == 0
    assert store.delete(where={"n": {"gte": 7}}) == 3
    assert store.delete(where={"n": {"gte": 7}}) == 0
    assert found(store) == ["d0", "d3", "d4", "d5", "d6"]
    assert (store.count(), store.count({"n": {"lt": 5}})) == (5, 3)
    with pytest.raises(InputError, match="'d1'"):
        store.get(["d0", "d1"])
    for wrong in ({}, {"ids": ["d0"], "where": {"n": 0}}, {"where": {}}, {"ids": "d0"}, {"ids": [1]}):
        with pytest.raises(InputError):
            store.delete(**wrong)
    assert store.upsert(some(1, start=1), encoder) == 1
    assert store.get(["d1"]) == some(1, start=1)


def test_an_empty_store_answers(engine, encoder):
    store = engine.build(some(2), encoder)
    assert store.delete(["d0", "d1"]) == 2
    for _ in range(2):
        assert (store.count(), found(store), store.count({"n": 1})) == (0, [], 0)
        assert store.search(np.stack([QUERY, QUERY]), 3) == [[], []]
        assert store.delete(["d0"]) == 0
        store = engine.reopen(store)
    store.upsert(some(3), encoder)
    assert found(store) == ids(some(3))


def test_a_filter_allows_before_the_search_chooses(engine, encoder):
    documents = some(200)
    store = engine.build(documents, encoder)
    far = np.argsort(encoder.encode_document(documents) @ QUERY)[:3].tolist()
    where = {"n": {"in": far}}
    assert {hit.document.metadata["n"] for hit in store.search(QUERY, 3, where=where)} == set(far)
    assert [hit.document.id for hit in store.search(QUERY, 3, where={"_id": "d7"})] == ["d7"]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((2, DIMENSION)), "length"),
        (unit(np.ones((2, DIMENSION + 1))), "shape"),
        (np.full((2, DIMENSION), np.nan), "NaN"),
        (unit(np.ones((1, DIMENSION))), "vector"),
        (unit(np.ones((3, DIMENSION))), "vectors for 2 documents"),
    ],
)
def test_vectors_are_unit_and_one_for_each(engine, encoder, vectors, said):
    store = engine.build(some(1), encoder)
    with pytest.raises(InputError, match=said):
        store.upsert(some(2), vectors=vectors)


def test_wrong_arguments_are_refused(engine, encoder):
    store = engine.build(some(3), encoder)
    for call in (
        lambda: store.search(QUERY, 0),
        lambda: store.search(QUERY, 1, ef_search=0),
        lambda: store.search(QUERY * 2, 1),
        lambda: store.search(QUERY[1:], 1),
        lambda: store.search(QUERY, where={"n": {"like": 1}}),
        lambda: store.count({"n": object()}),
        lambda: store.upsert(some(1)),
        lambda: store.upsert([Document("", "x")], encoder),
        lambda: store.upsert([Document("x", "x", "", {"n": float("nan")})], encoder),
        lambda: store.upsert([Document("x")], encoder),
    ):
        with pytest.raises(InputError):
            call()
    assert found(store) == ids(some(3))


def test_another_encoder_is_refused(engine, encoder):
    store = engine.build(some(3), encoder)
    store.check_encoder(HashEncoder())
    for call in (store.check_encoder, lambda other: store.upsert(some(1), other)):
        with pytest.raises(EncoderMismatchError, match=r"built by hash .*not by other"):
            call(HashEncoder("other"))
    assert store.info().encoder_fingerprint == encoder.fingerprint


def test_documents_come_back_as_they_were(engine, encoder):
    metadata = {
        "text": "猫 🐱 \"'\\ \n\t %s ${x} --",
        "empty": {"text": "", "list": [], "object": {}, "null": None},
        "numbers": [0, -1, 1.5, 1e-300, 2**53 + 1, 2**63 - 1, -(2**63), 2**70, 0.1, 1e300],
        "flags": [True, False, None],
        "nested": {"a": [{"b": [[1, "x"], {"c": {"d": None}}]}], "a.b": 1, "": "no name"},
        "filter": "own",
        "metadata": {"id": 1},
        "vector": [0.5],
        "$meta": "x",
        "long": "长" * 5000,
        "作者": "张三",
    }
    documents = [
        Document("文档/一 #?%&\"'", "标题", "正文", metadata),
        Document("x" * 400, "", "很长的正文。" * 3000),
        Document("1", "1", "1", {"id": "other", "title": None, "text": [1]}),
        Document("\u00e9", "组合"),
        Document("e\u0301", "分解"),
        Document("🐱", "tab\tnul\0end"),
    ]
    store = engine.build(documents, encoder)
    wanted = [document.id for document in documents]
    for _ in range(2):
        assert store.get(wanted) == documents
        assert [type(item) for item in store.get(wanted)[0].metadata["numbers"]] == [
            type(item) for item in metadata["numbers"]
        ]
        hits = store.search(QUERY, 10, exact=True)
        assert {hit.document.id: hit.document for hit in hits} == dict(zip(wanted, documents, strict=True))
        store = engine.reopen(store)
    assert store.delete(wanted[:2]) == 2
    assert found(store) == sorted(wanted[2:])


def test_what_was_written_is_there_when_it_is_opened_again(engine, encoder):
    store = engine.build(some(20), encoder, config=IndexConfig(kind="flat"))
    store.upsert(some(3, start=19, colour="红"), encoder)
    store.delete(["d0"])
    before, info = store.search(QUERY, 30, exact=True), store.info()
    store = engine.reopen(store)
    assert (store.search(QUERY, 30, exact=True), store.info()) == (before, info)
    assert (info.count, info.dimension, info.encoder_name) == (21, DIMENSION, "hash")
    assert store.count({"colour": "红"}) == 3


def test_a_place_is_built_once_and_replaced_when_that_is_said(engine, encoder):
    store = engine.build(some(5), encoder)
    place = engine.place_of(store)
    store.close()
    with pytest.raises(InputError, match="overwrite"):
        engine.build(some(2), encoder, place)
    store = engine.build(some(2, start=50), HashEncoder("other"), place, overwrite=True)
    assert found(store) == ["d50", "d51"]
    store.check_encoder(HashEncoder("other"))
    whole, config = encoder.encode_document(some(1)), IndexConfig(passage_characters=9)
    with pytest.raises(InputError, match="passage"):
        engine.build(some(1), encoder, vectors=whole, config=config)


def test_what_is_not_there_does_not_open(engine):
    with pytest.raises(IndexFolderError, match="relsdk index build"):
        engine.open(engine.place())


def test_an_interrupted_load_goes_on_and_has_every_document_once(engine, encoder):
    class StopError(Exception):
        pass

    def until(count):
        yield from some(count)
        raise StopError

    place = engine.place()
    with pytest.raises(StopError):
        engine.build(until(25), encoder, place, chunk_size=10)
    with pytest.raises(IndexFolderError):
        engine.open(place)
    store = engine.build(some(40), encoder, place, chunk_size=10)
    assert (store.count(), found(store)) == (40, ids(some(40)))


def test_duplicates_in_a_load(engine, encoder):
    twice = [*some(12), Document("d3", "新", "", {"n": 99})]
    with pytest.raises(InputError, match="'d3' occurs again"):
        engine.build(twice, encoder, chunk_size=5)
    store = engine.build(twice, encoder, on_duplicate="last", chunk_size=5)
    assert (store.count(), store.get(["d3"])) == (12, [twice[-1]])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The toy encoder with levels that its cosines tell apart, a little world, and an index of it."""
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("b") / "b", variants=["fp32"])
    content = read_description(folder)
    link = {
        "method": "cumulative_link",
        "transform": "identity",
        "slope": 400.0,
        "cuts": [391.0, 392.5, 394.0],
    }
    content["variants"][0]["calibrations"] = {"32": link}
    write_description(folder, content)
    embedder = Embedder(folder, variant="fp32", threads=1)
    world = generate(seed=5, n_documents=100, n_queries=30)
    with Index.build(tmp_path_factory.mktemp("i") / "i", world.documents, embedder) as index:
        yield embedder, world, index


def test_a_searcher_gives_the_levels_of_an_index(engine, calibrated):
    embedder, world, index = calibrated
    store = engine.build(world.documents, embedder)
    texts = [query.text for query in world.queries[:10]]
    levels = {hit.level for hits in Searcher(embedder, store).search_batch(texts, 7) for hit in hits}
    assert levels == {0, 1, 2, 3}
    for options in ({}, {"min_level": 2}, {"where": {"topic": world.documents[0].metadata["topic"]}}):
        wanted = Searcher(embedder, index).search_batch(texts, 7, **options)
        for hits, expected in zip(
            Searcher(embedder, store).search_batch(texts, 7, **options), wanted, strict=True
        ):
            assert [hit.document for hit in hits] == [hit.document for hit in expected]
            assert [hit.level for hit in hits] == [hit.level for hit in expected]
            one, other = ([hit.probabilities for hit in some] for some in (hits, expected))
            np.testing.assert_allclose(one, other, atol=STEEP * 2**-24, rtol=0)
