"""A promised precision is the same whatever holds the documents: segments, parts, engines, stores."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import CalibrationError, InputError
from relsdk.formats import write_documents
from relsdk.index import IndexConfig, _changes, _segment_writer
from relsdk.index.opening import open_store
from relsdk.records import Hit
from relsdk.runtime.variants import best_int8
from relsdk.shards import PartsEncoder, encode_shards, plan
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.hybrid_calibration import calibrate_hybrid
from relsdk_sample import generate
from tests.toy_store import use_toy_stores
from tests.toys import copy_bundle

ASKED = {"k": 60, "min_level": 1, "min_precision": 0.2}


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("p") / "encoder", variants=["fp32"])
    calibrate_bundle(folder, world.split("train"), targets=[(1, 0.3), (1, 0.15)])
    return folder


@pytest.fixture(scope="module")
def embedder(folder):
    return Embedder(folder, variant="fp32", threads=1)


@pytest.fixture(scope="module")
def expected(embedder, world, tmp_path_factory):
    """Of some queries what one index answers, built at once."""
    with Index.build(tmp_path_factory.mktemp("p") / "i", world.documents, embedder) as index:
        answers = {
            query.text: Searcher(embedder, index).search(query.text, **ASKED) for query in world.queries[:8]
        }
    assert sum(0 < len(hits) < ASKED["k"] for hits in answers.values()) > 4
    return answers


def check(searcher, expected, **more):
    for query, hits in expected.items():
        found = searcher.search(query, **ASKED, **more)
        assert [hit.document.id for hit in found] == [hit.document.id for hit in hits]
        assert found.promise == hits.promise is not None
        np.testing.assert_allclose(
            [hit.probabilities for hit in found], [hit.probabilities for hit in hits], atol=1e-5
        )


def test_an_index_that_grew(embedder, world, expected, tmp_path, monkeypatch):
    for module in (_changes, _segment_writer):  # segments of so few are put together otherwise
        monkeypatch.setattr(module, "GRAPH_ROWS", 60)
    others = [Document(f"other {n}", f"其他 {n}", one.text) for n, one in enumerate(world.documents[:30])]
    with Index.build(tmp_path / "i", world.documents[:70], embedder) as index:
        index.add([*others, *world.documents[70:150]], embedder)
        index.upsert(world.documents[140:], embedder)
        index.delete([one.id for one in others])
        assert len(index.stats().segments) > 1
        check(Searcher(embedder, index), expected)
        index.compact()
        check(Searcher(embedder, index), expected)


@pytest.mark.parametrize("config", [IndexConfig(kind="flat"), IndexConfig(int8=True)])
def test_other_kinds(embedder, world, expected, tmp_path, config):
    with Index.build(tmp_path / "i", world.documents, embedder, config=config) as index:
        check(Searcher(embedder, index), expected)


@pytest.mark.filterwarnings("ignore:.*has no checksum")
def test_vectors_of_workers(embedder, world, folder, expected, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(plan, "_LEAST_ROWS", 64)
    write_documents(tmp_path / "d.jsonl", world.documents)
    encode_shards(folder, tmp_path / "d.jsonl", tmp_path / "parts", variant="fp32")
    with Index.build(tmp_path / "i", world.documents, PartsEncoder(tmp_path / "parts", embedder)) as index:
        check(Searcher(embedder, index), expected)


class Mine:
    """A store of one's own: the five methods, over vectors in memory."""

    def __init__(self, documents, embedder):
        self.documents, self.vectors = documents, embedder.encode_document(documents)

    def search(self, queries, k=10, *, ef_search=None, where=None):
        found = []
        for row in np.asarray(queries) @ self.vectors.T:
            found.append(
                [Hit(self.documents[at], float(row[at])) for at in np.argsort(-row, kind="stable")[:k]]
            )
        return found

    def count(self, where=None):
        return len(self.documents)

    def upsert(self, documents, encoder):
        raise NotImplementedError

    def delete(self, ids=None, *, where=None):
        raise NotImplementedError

    def check_encoder(self, encoder):
        pass


def test_stores(relsdk, embedder, world, folder, expected, tmp_path, monkeypatch):
    use_toy_stores(monkeypatch)
    check(Searcher(embedder, Mine(world.documents, embedder)), expected)
    write_documents(tmp_path / "d.jsonl", world.documents)
    uri = f"milvus-lite:{tmp_path}/store#d"
    options = ("-m", folder, "--variant", "fp32", "-i", tmp_path / "d.jsonl")
    code, _, err = relsdk("index", "build", uri, *options)
    assert code == 0, err
    store = open_store(uri)
    searcher = Searcher(embedder, store)
    check(searcher, expected)
    for mode in ("hybrid", "lexical"):  # whose promise would be another one
        with pytest.raises(InputError, match=f"a {mode} search needs an index folder"):
            searcher.search("红烧肉", mode=mode, **ASKED)
    with pytest.raises(CalibrationError, match=r"promised are: 0\.3 for level >= 1, 0\.15 for level >= 1"):
        searcher.search("红烧肉", min_level=1, min_precision=0.4)
    store.close()


def test_a_scorers_promise_over_a_store(embedder, world, tmp_path):
    bundle = copy_bundle("scorer-bundle-v1", tmp_path / "scorer", variants=["fp32"])
    calibrate_bundle(bundle, world.split("train")[::2], encoder=embedder, targets=[(1, 0.05)])
    scorer = RelevanceScorer(bundle, variant="fp32", threads=1, encoder=embedder)
    some, asked = world.documents[:80], {**ASKED, "k": 12, "min_precision": 0.05}
    with Index.build(tmp_path / "i", some, embedder) as index:
        hits = Searcher(embedder, index, scorer).search(world.queries[0].text, **asked)
    found = Searcher(embedder, Mine(some, embedder), scorer).search(world.queries[0].text, **asked)
    assert [hit.document.id for hit in found] == [hit.document.id for hit in hits]
    assert found.promise == hits.promise is not None


def test_each_index_has_the_promise_of_its_own_model(embedder, world, expected, tmp_path):
    """Two indexes of the same documents; one has a model of meaning and words, with a promise of its own."""
    with (
        Index.build(tmp_path / "plain", world.documents, embedder) as plain,
        Index.build(tmp_path / "fitted", world.documents, embedder) as fitted,
    ):
        link, _ = calibrate_hybrid(fitted, embedder, world.split("train"), targets=[(1, 0.25)])
        fitted.store_hybrid({"fp32": link})
        one, other = Searcher(embedder, plain), Searcher(embedder, fitted)
        check(one, expected)
        check(other, expected)  # by meaning alone
        query = world.queries[1].text
        assert other.search(query, mode="hybrid", **ASKED).promise == link.promises[0]
        # without a model the encoder grades what words helped to find, and promises
        assert one.search(query, mode="hybrid", **ASKED).promise == expected[query].promise
        with pytest.raises(CalibrationError, match=rf"--index {fitted.path} --target-precision 0\.3 "):
            other.search(query, mode="hybrid", min_level=1, min_precision=0.3)


def test_the_file_for_this_cpu_has_a_promise_of_its_own(world, tmp_path):
    """The native engine and onnxruntime run different files: one does not keep the other's promise."""
    bundle = copy_bundle("encoder-bundle-v1", tmp_path / "b")
    name = best_int8()
    calibrate_bundle(bundle, world.split("train")[::3], variants=["fp32"])
    calibrate_bundle(bundle, world.split("train")[::3], variants=[name], targets=[(1, 0.05)])
    with Index.build(tmp_path / "i", world.documents[:60], Embedder(bundle, variant="fp32")) as index:
        asked = {**ASKED, "min_precision": 0.05}
        hits = Searcher(Embedder(bundle, variant=name), index).search("红烧肉", **asked)
        assert hits.promise.precision == 0.05
        with pytest.raises(CalibrationError, match="is promised by fp32"):
            Searcher(Embedder(bundle, variant="fp32"), index).search("红烧肉", **asked)
