"""LlamaIndex: its base classes, and pipelines from end to end."""

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs the extra llama-index")

from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import BundleError, InputError
from relsdk.integrations.llama_index import (
    RelsdkEmbedding,
    RelsdkRerank,
    RelsdkRetriever,
    to_node,
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
    return RelsdkRetriever(searcher)


@pytest.fixture(autouse=True)
def _no_language_model(monkeypatch):
    """Without one, LlamaIndex asks for a package even where nothing is written."""
    monkeypatch.setattr(Settings, "_llm", MockLLM())


def close(left, right):
    np.testing.assert_allclose(left, right, atol=1e-6)


def test_vectors_are_those_of_the_library(encoder):
    """Queries and texts have prompts of their own; the model is a folder or open."""
    embedder = Embedder(encoder)
    texts = ["红烧肉", QUERY, "手机黑屏打不开怎么办"]
    vectors = embedder.encode_document(texts)
    for model in (encoder, str(encoder), embedder):
        embedding = RelsdkEmbedding(model, embed_batch_size=2)
        assert embedding.model_name == embedder.name
        close(embedding.get_query_embedding(QUERY), embedder.encode_query(QUERY))
        close(embedding.get_text_embedding(QUERY), vectors[1])
        close(embedding.get_text_embedding_batch(texts), vectors)
        assert embedding.get_text_embedding_batch([]) == []
        assert embedding.similarity(vectors[0], vectors[0]) == pytest.approx(1)
    cut = RelsdkEmbedding(encoder, truncate_dim=8, threads=1).get_text_embedding(QUERY)
    np.testing.assert_allclose(cut, Embedder(encoder, truncate_dim=8).encode_document(QUERY), rtol=1e-6)


def test_vectors_asynchronously_from_threads_and_from_a_cache(encoder):
    embedding = RelsdkEmbedding(encoder, embed_batch_size=2)
    texts = ["红烧肉", QUERY, "手机黑屏打不开怎么办"] * 3
    vectors = embedding.get_text_embedding_batch(texts)

    async def all_of_them():
        return (
            await embedding.aget_text_embedding_batch(texts),
            await embedding.aget_text_embedding(texts[0]),
            await embedding.aget_query_embedding(QUERY),
        )

    expected = (vectors, vectors[0], embedding.get_query_embedding(QUERY))
    for found, one in zip(asyncio.run(all_of_them()), expected, strict=True):
        close(found, one)
    with ThreadPoolExecutor(8) as pool:
        close(list(pool.map(embedding.get_text_embedding, texts)), vectors)
    cached = RelsdkEmbedding(encoder, embeddings_cache=SimpleKVStore())
    close(cached.get_text_embedding_batch(texts), vectors)
    close(cached.get_text_embedding_batch(texts), vectors)


def test_an_index_of_llama_index_with_levels(encoder, scorer, documents):
    """VectorStoreIndex finds by our vectors, RelsdkRerank grades; what is below level 2 is left out."""
    nodes = [to_node(document) for document in documents]
    index = VectorStoreIndex(nodes=nodes, embed_model=RelsdkEmbedding(encoder))
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=8),
        response_synthesizer=get_response_synthesizer(response_mode="no_text"),
        node_postprocessors=[RelsdkRerank(scorer, min_level=2)],
    )
    candidates = index.as_retriever(similarity_top_k=8).retrieve(QUERY)
    ranked = RelevanceScorer(scorer).rank(QUERY, [to_relsdk(one) for one in candidates])
    kept = [one for one in ranked if one.relevance.level >= 2]
    found = engine.query(QUERY).source_nodes
    assert 0 < len(kept) < len(ranked)
    assert [one.node_id for one in found] == [candidates[one.index].node_id for one in kept]
    for node, one in zip(found, kept, strict=True):
        assert node.score == pytest.approx(one.relevance.score)
        assert node.metadata["level"] == int(one.relevance.level)
        assert node.metadata["probabilities"] == pytest.approx(one.relevance.probabilities)
        assert to_relsdk(node) in documents


def test_nodes_are_embedded_in_an_ingestion_pipeline(encoder, documents):
    nodes = IngestionPipeline(transformations=[RelsdkEmbedding(encoder)]).run(
        nodes=[to_node(document) for document in documents]
    )
    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    np.testing.assert_allclose(
        [node.embedding for node in nodes], Embedder(encoder).encode_document(texts), atol=1e-6
    )


def test_retrieved_nodes_are_the_hits(retriever, searcher):
    hits = searcher.search(QUERY, k=10)
    nodes = retriever.retrieve(QUERY)
    assert {hit.level for hit in hits} >= {1, 2, 3}
    for node, hit in zip(nodes, hits, strict=True):
        assert (node.node_id, node.score) == (hit.document.id, hit.score)
        assert node.text == (hit.document.text or hit.document.title)
        assert node.metadata["level"] == int(hit.level)
        assert type(node.metadata["level"]) is int
        assert node.metadata["probabilities"] == list(hit.probabilities)
        assert node.metadata["metadata.level"] == "入门"
        assert to_relsdk(node) == hit.document
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            read = node.get_content(metadata_mode=mode)
            assert read.count(hit.document.title) == 1
            assert "probabilities" not in read
            assert "duration: " in read


def test_what_a_retriever_leaves_out(encoder, index_folder, scorer, searcher):
    where = {"duration": {"gte": 60}}
    retriever = RelsdkRetriever.from_index(
        index_folder, model=str(encoder), similarity_top_k=4, min_level=2, where=where
    )
    expected = searcher.search(QUERY, k=4, min_level=2, where=where)
    assert [one.node_id for one in retriever.retrieve(QUERY)] == [hit.document.id for hit in expected]
    assert all(one.metadata["level"] >= 2 for one in retriever.retrieve(QUERY))
    assert RelsdkRetriever(searcher, where={"duration": {"gt": 9999}}).retrieve(QUERY) == []
    by_words = RelsdkRetriever(searcher, search_kwargs={"mode": "lexical"})
    assert [one.node_id for one in by_words.retrieve("大理")] == [
        hit.document.id for hit in searcher.search("大理", mode="lexical")
    ]
    scored = RelsdkRetriever.from_index(index_folder, scorer=str(scorer), similarity_top_k=3)
    hits = Searcher(searcher.embedder, searcher.index, RelevanceScorer(scorer)).search(QUERY, k=3)
    assert [one.score for one in scored.retrieve(QUERY)] == [hit.score for hit in hits]
    for opened in (retriever, scored):
        opened.searcher.index.close()


def test_our_index_and_re_ranker_together(retriever, scorer):
    """Synchronously, asynchronously, and from many threads."""
    engine = RetrieverQueryEngine.from_args(
        retriever,
        response_synthesizer=get_response_synthesizer(response_mode="no_text"),
        node_postprocessors=[RelsdkRerank(scorer, min_level=2, top_n=2)],
    )
    found = engine.query(QUERY).source_nodes
    assert len(found) == 2
    assert all(one.metadata["level"] >= 2 for one in found)
    assert found[0].score >= found[1].score

    def facts(nodes):
        return [(one.node_id, one.score, one.metadata) for one in nodes]

    async def later():
        return (await engine.aquery(QUERY)).source_nodes

    assert facts(asyncio.run(later())) == facts(found)
    with ThreadPoolExecutor(8) as pool:
        for response in pool.map(engine.query, [QUERY] * 16):
            assert facts(response.source_nodes) == facts(found)


def test_a_re_ranker_changes_no_node(encoder, scorer):
    """Nodes of another retriever: no title, and a field that is called as ours."""
    nodes = [
        NodeWithScore(node=TextNode(text=text, metadata={"level": "A"}), score=0.5)
        for text in (QUERY, "手机黑屏打不开怎么办")
    ]
    before = [node.model_copy(deep=True) for node in nodes]
    for model in (str(encoder), Embedder(encoder), RelevanceScorer(scorer)):
        rerank = RelsdkRerank(model)
        ranked = rerank.postprocess_nodes(nodes, query_str=QUERY)
        assert len(ranked) == 2
        assert {one.metadata["metadata.level"] for one in ranked} == {"A"}
        assert "level: 0" not in ranked[0].get_content(metadata_mode=MetadataMode.EMBED)
        later = asyncio.run(rerank.apostprocess_nodes(nodes, QueryBundle(QUERY)))
        assert [one.score for one in later] == [one.score for one in ranked]
    assert nodes == before
    assert RelsdkRerank(scorer).postprocess_nodes([], query_str=QUERY) == []


def test_what_is_saved_opens_again(encoder, scorer, index_folder):
    embedding = RelsdkEmbedding(encoder, truncate_dim=16, embed_batch_size=7)
    vector = embedding.get_query_embedding(QUERY)
    for again in (
        RelsdkEmbedding.from_dict(embedding.to_dict()),
        RelsdkEmbedding.from_json(embedding.to_json()),
        pickle.loads(pickle.dumps(embedding)),
        pickle.loads(pickle.dumps(RelsdkEmbedding(Embedder(encoder, truncate_dim=16), embed_batch_size=7))),
    ):
        assert again.get_query_embedding(QUERY) == vector
        assert (again.embed_batch_size, again.model_name) == (7, embedding.model_name)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("红烧肉", QUERY, "手机黑屏")]
    rerank = RelsdkRerank(scorer, top_n=2, min_level=1)
    expected = [one.score for one in rerank.postprocess_nodes(nodes, query_str=QUERY)]
    for again in (
        RelsdkRerank.from_dict(rerank.to_dict()),
        RelsdkRerank.from_json(rerank.to_json()),
        pickle.loads(pickle.dumps(rerank)),
        pickle.loads(pickle.dumps(RelsdkRerank(RelevanceScorer(scorer), top_n=2, min_level=1))),
    ):
        assert [one.score for one in again.postprocess_nodes(nodes, query_str=QUERY)] == expected
    retriever = RelsdkRetriever.from_index(index_folder)
    copied = pickle.loads(pickle.dumps(retriever))
    assert copied.retrieve(QUERY) == retriever.retrieve(QUERY)
    for opened in (retriever, copied):
        opened.searcher.index.close()


def test_what_is_wrong_is_said(encoder, scorer, searcher, tmp_path):
    embedding, node = RelsdkEmbedding(encoder), NodeWithScore(node=TextNode(text="x"))
    for wrong, call in (
        ("a document is int", lambda: embedding.get_text_embedding_batch([5])),
        ("text is list; a string", lambda: embedding.get_text_embedding(["红烧肉"])),
        ("query is list; a string", lambda: embedding.get_query_embedding(["红烧肉"])),
        ("model is int", lambda: RelsdkEmbedding(5)),
        ("truncate_dim: the model is already", lambda: RelsdkEmbedding(Embedder(encoder), truncate_dim=2)),
        ("model is MockEmbedding", lambda: RelsdkRerank(MockEmbedding(embed_dim=2))),
        ("min_level=4", lambda: RelsdkRerank(scorer, min_level=4)),
        ("top_n=0", lambda: RelsdkRerank(scorer, top_n=0)),
        ("no query", lambda: RelsdkRerank(scorer).postprocess_nodes([node])),
        ("searcher is str", lambda: RelsdkRetriever("videos.idx")),
        ("similarity_top_k=0", lambda: RelsdkRetriever(searcher, similarity_top_k=0)),
        ("search_kwargs has", lambda: RelsdkRetriever(searcher, search_kwargs={"k": 3})),
        ("str is no node", lambda: to_relsdk("红烧肉")),
        ("str is no document", lambda: to_node("红烧肉")),
    ):
        with pytest.raises(InputError, match=wrong):
            call()
    with pytest.raises(BundleError):
        RelsdkRerank(tmp_path)
