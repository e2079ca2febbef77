"""LangChain: its standard suites with toy models, and what those do not ask."""

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="needs the extra langchain")
pytest.importorskip("langchain_tests", reason="needs langchain-tests")

from langchain_core.documents import Document as LangChainDocument
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import BundleError, InputError
from relsdk.integrations.langchain import (
    RelsdkCompressor,
    RelsdkEmbeddings,
    RelsdkRetriever,
    to_langchain,
    to_relsdk,
)

pytestmark = pytest.mark.slow
QUERY = "大理旅游攻略"


@pytest.fixture(scope="module")
def searcher(encoder, index_folder):
    with Index.open(index_folder) as index:
        yield Searcher(Embedder(encoder), index)


@pytest.fixture(scope="module")
def retriever(searcher):
    return RelsdkRetriever(searcher=searcher)


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @pytest.fixture(autouse=True)
    def _model(self, encoder):
        self.encoder = encoder

    @property
    def embeddings_class(self):
        return RelsdkEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": str(self.encoder)}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _model(self, encoder):
        self.encoder = encoder

    @property
    def embeddings_class(self):
        return RelsdkEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": str(self.encoder)}


class TestRetrieverIntegration(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _searcher(self, searcher):
        self.searcher = searcher

    @property
    def retriever_constructor(self):
        return RelsdkRetriever

    @property
    def retriever_constructor_params(self):
        return {"searcher": self.searcher}

    @property
    def retriever_query_example(self):
        return QUERY


def test_vectors_are_those_of_the_library(encoder):
    """Queries and documents have prompts of their own; the model is a folder or open."""
    embedder = Embedder(encoder)
    for model in (encoder, str(encoder), embedder):
        embeddings = RelsdkEmbeddings(model=model)
        np.testing.assert_allclose(embeddings.embed_query(QUERY), embedder.encode_query(QUERY), atol=1e-6)
        texts = ["红烧肉", QUERY]
        vectors = embeddings.embed_documents(texts)
        np.testing.assert_allclose(vectors, embedder.encode_document(texts), atol=1e-6)
        assert embeddings.embed_documents([]) == []
    cut = RelsdkEmbeddings(model=encoder, truncate_dim=8, threads=1, batch_size=1)
    np.testing.assert_allclose(
        cut.embed_documents([QUERY])[0], Embedder(encoder, truncate_dim=8).encode_document(QUERY), rtol=1e-6
    )


def test_in_a_vector_store_of_langchain(encoder, documents):
    store = InMemoryVectorStore(RelsdkEmbeddings(model=encoder))
    store.add_documents([to_langchain(document) for document in documents])
    embedder = Embedder(encoder)
    texts = [document.text or document.title for document in documents]
    best = np.argsort(-(embedder.encode_document(texts) @ embedder.encode_query(QUERY)))[:3]
    assert [one.id for one in store.similarity_search(QUERY, k=3)] == [f"v{row}" for row in best]


def test_retrieved_documents_are_the_hits(retriever, searcher):
    hits = searcher.search(QUERY, k=10)
    retrieved = retriever.invoke(QUERY)
    assert {hit.level for hit in hits} >= {1, 2, 3}
    for document, hit in zip(retrieved, hits, strict=True):
        assert document.id == hit.document.id
        assert document.page_content == (hit.document.text or hit.document.title)
        assert document.metadata["title"] == hit.document.title
        assert document.metadata["duration"] == hit.document.metadata["duration"]
        assert document.metadata["metadata.level"] == "入门"
        assert document.metadata["score"] == hit.score
        assert document.metadata["level"] == int(hit.level)
        assert type(document.metadata["level"]) is int
        assert document.metadata["probabilities"] == list(hit.probabilities)
        assert to_relsdk(document) == hit.document


def test_what_a_retriever_leaves_out(encoder, index_folder, searcher):
    retriever = RelsdkRetriever.from_index(
        index_folder, model=str(encoder), k=4, min_level=2, where={"duration": {"gte": 60}}
    )
    expected = searcher.search(QUERY, k=4, min_level=2, where={"duration": {"gte": 60}})
    assert [one.id for one in retriever.invoke(QUERY)] == [hit.document.id for hit in expected]
    assert all(one.metadata["level"] >= 2 for one in retriever.invoke(QUERY))
    found = retriever.invoke(QUERY, k=1, where={"topic": "旅游"}, min_level=0)
    assert [one.metadata["topic"] for one in found] == ["旅游"]
    assert retriever.invoke(QUERY, where={"duration": {"gt": 9999}}) == []
    by_words = RelsdkRetriever(searcher=searcher, search_kwargs={"mode": "lexical"})
    assert [one.id for one in by_words.invoke("大理")] == [
        hit.document.id for hit in searcher.search("大理", mode="lexical")
    ]
    retriever.searcher.index.close()


def test_a_retriever_re_scores(encoder, index_folder, scorer):
    retriever = RelsdkRetriever.from_index(index_folder, scorer=str(scorer), k=3)
    with Index.open(index_folder) as index:
        hits = Searcher(Embedder(encoder), index, RelevanceScorer(scorer)).search(QUERY, k=3)
    assert [one.metadata["score"] for one in retriever.invoke(QUERY)] == [hit.score for hit in hits]
    retriever.searcher.index.close()


def test_a_retriever_in_langchain(retriever):
    """Batches, threads, another number of documents for one call, and other settings."""
    queries = [QUERY, "红烧肉怎么做", "手机黑屏"] * 4
    one_by_one = [retriever.invoke(query) for query in queries]
    assert retriever.batch(queries) == one_by_one
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(retriever.invoke, queries)) == one_by_one

    async def both():
        return await retriever.ainvoke(QUERY, k=2), await retriever.abatch(queries)

    few, all_of_them = asyncio.run(both())
    assert (few, all_of_them) == (one_by_one[0][:2], one_by_one)
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert configurable.invoke(QUERY, {"configurable": {"k": 1}}) == one_by_one[0][:1]


def test_a_compressor_grades_and_leaves_out(retriever, scorer, documents):
    retrieved = retriever.invoke(QUERY)
    before = [one.model_copy(deep=True) for one in retrieved]
    ranked = RelevanceScorer(scorer).rank(QUERY, [to_relsdk(one) for one in retrieved])
    for model in (scorer, str(scorer), RelevanceScorer(scorer)):
        compressed = RelsdkCompressor(model=model, min_level=2).compress_documents(retrieved, QUERY)
        kept = [one for one in ranked if one.relevance.level >= 2]
        assert 0 < len(kept) < len(ranked)
        assert [one.id for one in compressed] == [retrieved[one.index].id for one in kept]
        for document, one in zip(compressed, kept, strict=True):
            assert document.metadata["level"] == int(one.relevance.level)
            assert document.metadata["probabilities"] == pytest.approx(one.relevance.probabilities)
            assert document.metadata["score"] == pytest.approx(one.relevance.score)
            assert to_relsdk(document) in documents
    assert retrieved == before
    top = RelsdkCompressor(model=scorer, top_n=1).compress_documents(retrieved, QUERY)
    assert [one.id for one in top] == [retrieved[ranked[0].index].id]
    assert RelsdkCompressor(model=scorer).compress_documents([], QUERY) == []
    compressor = RelsdkCompressor(model=scorer, min_level=2)
    assert asyncio.run(compressor.acompress_documents(retrieved, QUERY)) == list(
        compressor.compress_documents(retrieved, QUERY)
    )


def test_an_encoder_compresses_what_others_found(encoder):
    """Documents of another retriever: no title, no id, and a field that is called as ours."""
    documents = [LangChainDocument(text, metadata={"score": "A"}) for text in ("大理旅游攻略", "手机黑屏")]
    compressed = RelsdkCompressor(model=Embedder(encoder)).compress_documents(documents, QUERY)
    graded = RelevanceScorer(encoder).predict([(QUERY, one.page_content) for one in compressed])
    assert [one.metadata["score"] for one in compressed] == pytest.approx(graded.scores.tolist())
    assert {one.metadata["metadata.score"] for one in compressed} == {"A"}
    assert [one.id for one in compressed] == [None, None]


def test_documents_without_an_id_get_one_of_their_content(encoder, tmp_path):
    loaded = [LangChainDocument(text, metadata={"source": "a.txt"}) for text in ("红烧肉", "大理")]
    converted = [to_relsdk(one) for one in loaded]
    assert [to_relsdk(one.model_copy()) for one in loaded] == converted
    assert len({one.id for one in converted}) == 2
    with Index.build(tmp_path / "i", converted, Embedder(encoder)) as index:
        (hit,) = Searcher(Embedder(encoder), index).search("大理", k=1, where={"source": "a.txt"})
    assert hit.document in converted


def test_pickles_and_copies(encoder, scorer, index_folder):
    embeddings = RelsdkEmbeddings(model=str(encoder))
    again = pickle.loads(pickle.dumps(embeddings))
    assert again.model_dump() == embeddings.model_dump()
    assert again.embed_query(QUERY) == embeddings.embed_query(QUERY)
    retriever = RelsdkRetriever.from_index(index_folder, k=2)
    copied = pickle.loads(pickle.dumps(retriever))
    assert copied.invoke(QUERY) == retriever.invoke(QUERY)
    copied.searcher.index.close()
    compressor = pickle.loads(pickle.dumps(RelsdkCompressor(model=scorer, min_level=1)))
    documents = [to_langchain(hit) for hit in retriever.searcher.search(QUERY)]
    assert compressor.compress_documents(documents, QUERY)
    retriever.searcher.index.close()


def test_what_is_wrong_is_said(encoder, scorer, searcher, tmp_path):
    embeddings = RelsdkEmbeddings(model=encoder)
    for wrong, call in (
        ("texts is one string", lambda: embeddings.embed_documents("红烧肉")),
        ("a document is int", lambda: embeddings.embed_documents([5])),
        ("text is list; a string", lambda: embeddings.embed_query(["红烧肉"])),
        ("model is int", lambda: RelsdkEmbeddings(model=5)),
        ("threads: the model is already open", lambda: RelsdkEmbeddings(model=Embedder(encoder), threads=2)),
        ("model is Searcher", lambda: RelsdkCompressor(model=searcher)),
        ("min_level=4", lambda: RelsdkCompressor(model=scorer, min_level=4)),
        ("top_n=0", lambda: RelsdkCompressor(model=scorer, top_n=0)),
        ("k=0", lambda: RelsdkRetriever(searcher=searcher, k=0)),
        ("search_kwargs has", lambda: RelsdkRetriever(searcher=searcher, search_kwargs={"kk": 3})),
        ("min_level=9", lambda: RelsdkRetriever(searcher=searcher).invoke(QUERY, min_level=9)),
        ("str is no document", lambda: RelsdkCompressor(model=scorer).compress_documents(["x"], QUERY)),
        ("query is int", lambda: RelsdkCompressor(model=scorer).compress_documents([], 5)),
    ):
        with pytest.raises(InputError, match=wrong):
            call()
    with pytest.raises(BundleError):
        RelsdkEmbeddings(model=tmp_path)
    for fields in ({"k": "many"}, {"searcher": "videos.idx"}):
        with pytest.raises(ValidationError):
            RelsdkRetriever(**{"searcher": searcher, **fields})
    with pytest.raises(ValidationError):
        RelsdkEmbeddings(model=encoder, modell=1)
