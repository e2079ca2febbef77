"""Both clients against the real server: every answer is the library's."""

import json
from dataclasses import replace

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, RelevanceScorer, Searcher
from relsdk.client import Client
from relsdk.errors import CalibrationError, InputError, ServerError, TruncationError, TruncationWarning
from relsdk.models.relevance_scorer import open_scorer
from tests.serve.servers import KEY, READ_KEY, served
from tests.toys import CORPUS
from tests.waiting_client import Waiting

LONG = "红烧肉怎么做才不腻 " * 100


def assert_same(vectors, expected):
    """What a batch holds besides moves the last bit of a float32."""
    assert (vectors.dtype, vectors.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=5e-7)


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def connect(request):
    opened = []

    def open_client(url, **options):
        opened.append(request.param(url, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def client(connect, toy_server):
    return connect(toy_server.url)


@pytest.fixture(scope="module")
def embedder(encoder):
    return Embedder(encoder)


@pytest.fixture(scope="module")
def index(index_folder):
    with Index.open(index_folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def judge(embedder, scorer):
    return open_scorer(embedder, scorer)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_vectors_are_the_librarys(client, embedder, method):
    texts = [*CORPUS, "a", "红"] * 3
    expected = getattr(embedder, method)(texts)
    vectors = getattr(client, method)(texts)
    assert_same(vectors, expected)
    assert_same(getattr(client, method)(texts[1]), expected[1])
    assert client.encode([]).shape == embedder.encode([]).shape


def test_prompts_and_dimensions(client, encoder, embedder):
    short = Embedder(encoder, truncate_dim=8)
    prompted = client.encode(CORPUS, prompt_name="query")
    assert_same(prompted, embedder.encode(CORPUS, prompt_name="query"))
    assert_same(client.encode_query(CORPUS, dimensions=8), short.encode_query(CORPUS))
    with pytest.raises(InputError, match="has no prompt 'no'"):
        client.encode("a", prompt_name="no")
    with pytest.raises(InputError, match="dimensions is 33"):
        client.encode("a", dimensions=33)


def test_long_texts(client, embedder):
    with pytest.warns(TruncationWarning, match="1 of 2 inputs exceed the model's limit"):
        vectors = client.encode([LONG, "a"])
    assert_same(vectors, embedder.encode([LONG, "a"], truncation="silent"))
    with pytest.raises(TruncationError, match="1 of 2 inputs exceed"):
        client.encode([LONG, "a"], truncation="error")


@pytest.mark.parametrize("model", ["encoder", "scorer", None])
def test_grades_are_the_librarys(client, encoder, scorer, model):
    pairs = [(query, text) for query in CORPUS[:4] for text in CORPUS]
    pairs[0] = (CORPUS[0], Document("1", "大宅门", "演员表"))
    expected = RelevanceScorer(encoder if model == "encoder" else scorer).predict(pairs)
    predictions = client.predict(pairs, model=model)
    assert np.array_equal(predictions.levels, expected.levels)
    # The server's batches are not the library's: a cosine's last bits are those of its batch.
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(predictions.expected_levels, expected.expected_levels, atol=1e-6)


def test_ranks_are_the_librarys(client, scorer):
    expected = RelevanceScorer(scorer).rank("红烧肉", CORPUS, top_k=4)
    ranked = client.rank("红烧肉", CORPUS, top_k=4)
    assert [one.index for one in ranked] == [one.index for one in expected]
    scores = [one.relevance.score for one in expected]
    assert [one.relevance.score for one in ranked] == pytest.approx(scores, abs=1e-6)


def assert_same_hits(found, expected):
    assert [hit.document for hit in found] == [hit.document for hit in expected]
    assert [hit.level for hit in found] == [hit.level for hit in expected]
    assert [hit.passage for hit in found] == [hit.passage for hit in expected]
    for hit, other in zip(found, expected, strict=True):
        assert hit.score == pytest.approx(other.score, abs=1e-6)
        assert hit.probabilities == pytest.approx(other.probabilities, abs=1e-5)  # cosines crowd here
        assert (hit.signals is None) == (other.signals is None)
        if hit.signals is not None:
            assert hit.signals.bm25 == pytest.approx(other.signals.bm25, abs=1e-6)
            assert hit.signals.dense_rank == other.signals.dense_rank
    for name in ("order", "matching", "candidates", "scored", "skipped", "scored_hits", "scanned", "facets"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.nothing_relevant == pytest.approx(expected.nothing_relevant, abs=1e-5)
    assert found.promise == expected.promise


SEARCHES = [
    {},
    {"k": 3, "offset": 2},
    {"min_level": 1},
    {"min_score": 0.2},
    {"min_confidence": 0.1, "min_level": 1},
    {"min_precision": 0.2, "min_level": 1},
    {"where": {"duration": {"lt": 20}}, "sort": "-duration"},
    {"group_by": "author", "facets": ["author", "duration"]},
    {"mode": "lexical"},
    {"mode": "hybrid"},
]
# What a scorer adds does not depend on the others.
WITH_SCORER = ({}, {"k": 3, "offset": 2}, {"min_precision": 0.2, "min_level": 1}, {"mode": "hybrid"})


def searches(with_scorer):
    for options in SEARCHES:
        marks = [pytest.mark.slow] if with_scorer and options not in WITH_SCORER else []
        judge = "scorer" if with_scorer else "encoder"
        yield pytest.param(options, with_scorer, id=f"{judge}-{options}", marks=marks)


@pytest.mark.parametrize(("options", "with_scorer"), [*searches(False), *searches(True)])
def test_hits_are_the_librarys(client, embedder, index, judge, options, with_scorer):
    searcher = Searcher(embedder, index, judge if with_scorer else None)
    if with_scorer and "min_precision" in options:  # nothing is promised of it
        with pytest.raises(CalibrationError, match=r"PAIRS --target-precision 0\.2 --level 1"):
            client.search(CORPUS[1], scorer=True, **options)
        return
    expected = searcher.search(CORPUS[1], **options)
    found = client.search(CORPUS[1], scorer=with_scorer, **options)
    assert_same_hits(found, expected)
    assert found.generation == expected.generation
    assert set(found.steps) == set(expected.steps)
    for one, other in zip(
        client.search_batch(CORPUS[:4], scorer=with_scorer, **options),
        searcher.search_batch(CORPUS[:4], **options),
        strict=True,
    ):
        assert_same_hits(one, other)


def test_a_filter_may_be_text(client, index):
    found = client.search("红烧肉", 50, where='duration<20 and author in (a1, "a2")', scorer=False)
    assert {hit.document.metadata["author"] for hit in found} == {"a1", "a2"}
    assert found.matching == index.count({"duration": {"lt": 20}, "author": {"in": ["a1", "a2"]}})


def test_similar_documents(client, index):
    expected = index.similar("d3", 5)
    assert [hit.document for hit in client.search(like="d3", k=5)] == [hit.document for hit in expected]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda client: client.search("a", k=0), "k"),
        (lambda client: client.search("", 5), "query"),
        (lambda client: client.search("a" * 3000), "2,?000"),
        (lambda client: client.search("a", min_level=7), "min_level"),
        (lambda client: client.search("a", where="duration <"), "duration"),
        (lambda client: client.search("a", where={"colour": "red"}), "colour"),
        (lambda client: client.search("a", sort="colour"), "colour"),
        (lambda client: client.search("a", scorer="other"), "no scorer 'other'; this server has scorer"),
        (lambda client: client.search("a", index="other"), "no index 'other'; this server has toy"),
        (lambda client: client.encode("a", model="other"), "no model 'other'; this server has"),
        (lambda client: client.encode("a", model="scorer"), "'scorer' is a scorer"),
        (lambda client: client.get(["no"]), "no document 'no'"),
        (lambda client: client.search(like="no"), "no document 'no'"),
        (lambda client: client.upsert([Document("1")]), "both empty"),
        (lambda client: client.delete(where={}), "nothing was deleted"),
    ],
)
def test_mistakes_are_the_librarys_errors(client, call, problem):
    with pytest.raises(InputError, match=problem):
        call(client)


def test_the_server_tells_what_it_serves(client, embedder, index):
    info = client.info()
    assert [(one.id, one.kind, one.dimension) for one in info.models] == [
        ("encoder", "encoder", embedder.dimension),
        ("scorer", "scorer", None),
    ]
    assert info.models[0].fingerprint == embedder.fingerprint
    assert info.indexes[0].documents == len(index)
    assert client.ready() is True


def test_lists_beyond_the_limits_of_the_server(connect, settings, embedder):
    small = replace(settings, limits=replace(settings.limits, inputs=7, documents=5, body=2000))
    with served(small) as server:
        client = connect(server.url)
        texts = [f"{text} {number}" for number in range(3) for text in CORPUS]
        assert_same(client.encode(texts), embedder.encode(texts))
        assert len(client.predict([("a", text) for text in texts])) == len(texts)
        assert len(client.search_batch(texts[:20])) == 20
        with pytest.raises(InputError, match=r"2,?000"):
            client.encode(["x" * 3000, "a"])


@pytest.fixture
def own_server(settings, own_index):
    with served(replace(settings, indexes={"own": str(own_index)}, scorers={})) as server:
        yield server


def test_documents_are_written_read_and_deleted(connect, own_server, own_index, embedder):
    client = connect(own_server.url, index="own")
    metadata = {"author": "a9", "tags": ["红", 1, True, None], "deep": {"x": 1.5}}
    new = [Document("a/b c?#%", "大理三天两夜", "洱海", metadata), Document("d1", "换了", "新的")]
    assert client.upsert([*new, {"_id": "m", "title": "红烧", "tag": "x"}]) == 3
    assert client.get(["d1", "a/b c?#%"]) == [new[1], new[0]]
    assert client.search("洱海", 3, where={"author": "a9"})[0].document == new[0]
    with Index.open(own_index) as index:
        assert index.get(["a/b c?#%", "m"]) == [new[0], Document("m", "红烧", "", {"tag": "x"})]
    assert client.delete(["d1", "m", "unknown"]) == 2
    assert client.delete(where="author=a9") == 1
    assert len(client.search("洱海", 100)) == 65
    assert client.upsert((Document(f"n{number}", f"新{number}") for number in range(300)), wait=False) == 300
    assert client.upsert([Document("last", "新的")]) == 1
    assert client.info().indexes[0].documents == 65 + 301


def test_ids_of_dots(connect, own_server):
    """Addresses with dots are shortened on many ways; these arrive."""
    client = connect(own_server.url)
    names = [".", "..", "a/../b", "/"]
    assert client.upsert([Document(name, f"title of {name}") for name in names]) == 4
    assert [one.id for one in client.get(names)] == names


def test_keys(connect, settings, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"read:{READ_KEY}\nwrite:{KEY}\n")
    file.chmod(0o600)
    with served(replace(settings, key_file=file)) as server:
        monkeypatch.setenv("RELSDK_KEY", READ_KEY)
        reader, writer, stranger = (
            connect(server.url),
            connect(server.url, key=KEY),
            connect(server.url, key="no"),
        )
        assert len(reader.search("红烧肉")) == 10
        with pytest.raises(ServerError, match=r"403: .*use a key that may write") as caught:
            reader.upsert([Document("1", "a")])
        assert caught.value.code == "forbidden"
        assert writer.delete(["unknown"]) == 0
        with pytest.raises(ServerError, match=r"401: .*pass the key as key=, or set RELSDK_KEY") as caught:
            stranger.search("红烧肉")
        assert caught.value.code == "unauthorized"
        assert stranger.ready() is True


def test_hits_are_those_that_the_command_prints(client, index_folder, encoder, relsdk):
    code, out, _ = relsdk("query", index_folder, CORPUS[2], "-k", "4", "--model", encoder, "--json")
    assert code == 0
    printed = json.loads(out)["hits"]
    found = client.search(CORPUS[2], 4, scorer=False)
    assert [hit["id"] for hit in printed] == [hit.document.id for hit in found]
    for hit, other in zip(printed, found, strict=True):
        assert hit["probabilities"] == pytest.approx(list(other.probabilities), abs=3e-6)
