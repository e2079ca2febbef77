"""Haystack: components, saved and loaded, alone and in pipelines from end to end."""

import asyncio
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("haystack", reason="needs the extra haystack")

from haystack import Document as HaystackDocument
from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import BundleError, InputError
from relsdk.integrations.haystack import (
    RelsdkDocumentEmbedder,
    RelsdkRanker,
    RelsdkRetriever,
    RelsdkTextEmbedder,
    to_haystack,
    to_relsdk,
)

pytestmark = pytest.mark.slow
QUERY = "大理旅游攻略"
OURS = ["relsdk.integrations.haystack"]


@pytest.fixture(scope="module")
def searcher(encoder, index_folder):
    with Index.open(index_folder) as index:
        yield Searcher(Embedder(encoder), index)


@pytest.fixture
def candidates(documents):
    return [to_haystack(document) for document in documents]


def search_and_rank(index_folder, scorer, **options):
    pipeline = Pipeline()
    pipeline.add_component("retriever", RelsdkRetriever(str(index_folder), **options))
    pipeline.add_component("ranker", RelsdkRanker(scorer, min_level=2))
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def ask(query):
    return {"retriever": {"query": query}, "ranker": {"query": query}}


def test_vectors_are_those_of_the_library(encoder, documents, candidates):
    """Queries and documents have prompts of their own; a document has a title and a text."""
    embedder = Embedder(encoder)
    np.testing.assert_allclose(
        RelsdkTextEmbedder(encoder).run(QUERY)["embedding"], embedder.encode_query(QUERY), atol=1e-6
    )
    before = [one.to_dict() for one in candidates]
    embedded = RelsdkDocumentEmbedder(str(encoder), batch_size=3).run(candidates)["documents"]
    np.testing.assert_allclose(
        [one.embedding for one in embedded], embedder.encode_document(documents), atol=1e-6
    )
    assert [(one.id, one.content, one.meta) for one in embedded] == [
        (one.id, one.content, one.meta) for one in candidates
    ]
    assert [one.to_dict() for one in candidates] == before
    assert RelsdkDocumentEmbedder(encoder).run([]) == {"documents": []}
    cut = RelsdkTextEmbedder(encoder, truncate_dim=8, threads=1).run(QUERY)["embedding"]
    np.testing.assert_allclose(cut, Embedder(encoder, truncate_dim=8).encode_query(QUERY), atol=1e-6)


def test_a_store_of_haystack_with_levels(encoder, scorer, documents, candidates):
    """Its store finds by our vectors, our ranker grades; what is below level 2 is left out."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", RelsdkDocumentEmbedder(encoder))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    assert indexing.run({"embedder": {"documents": candidates}})["writer"]["documents_written"] == 10
    pipeline = Pipeline()
    pipeline.add_component("embedder", RelsdkTextEmbedder(encoder))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=8))
    pipeline.add_component("ranker", RelsdkRanker(scorer, min_level=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever.documents", "ranker.documents")
    found = pipeline.run({"embedder": {"text": QUERY}, "ranker": {"query": QUERY}})["ranker"]["documents"]
    embedder = Embedder(encoder)
    cosines = embedder.encode_document(documents) @ embedder.encode_query(QUERY)
    nearest = [documents[row] for row in np.argsort(-cosines)[:8]]
    ranked = [one for one in RelevanceScorer(scorer).rank(QUERY, nearest) if one.relevance.level >= 2]
    assert 0 < len(ranked) < 8
    assert [to_relsdk(one) for one in found] == [nearest[one.index] for one in ranked]
    assert [one.meta["level"] for one in found] == [int(one.relevance.level) for one in ranked]
    assert [one.score for one in found] == pytest.approx([one.relevance.score for one in ranked], abs=1e-6)


def test_retrieved_documents_are_the_hits(index_folder, searcher):
    hits = searcher.search(QUERY, k=10)
    retriever = RelsdkRetriever(index_folder)
    retrieved = retriever.run(QUERY)["documents"]
    assert {hit.level for hit in hits} >= {1, 2, 3}
    for document, hit in zip(retrieved, hits, strict=True):
        assert (document.id, document.score) == (hit.document.id, hit.score)
        assert document.content == (hit.document.text or hit.document.title)
        assert document.meta["level"] == int(hit.level)
        assert type(document.meta["level"]) is int
        assert document.meta["probabilities"] == list(hit.probabilities)
        assert document.meta["metadata.level"] == "入门"
        assert to_relsdk(document) == hit.document
        assert (
            to_relsdk(HaystackDocument.from_dict(json.loads(json.dumps(document.to_dict())))) == hit.document
        )
    retriever.close()


def test_what_a_retriever_leaves_out(encoder, index_folder, scorer, searcher):
    where = {"duration": {"gte": 60}}
    retriever = RelsdkRetriever(index_folder, model=str(encoder), top_k=4, min_level=2, where=where)
    expected = searcher.search(QUERY, k=4, min_level=2, where=where)
    found = retriever.run(QUERY)["documents"]
    assert [one.id for one in found] == [hit.document.id for hit in expected]
    assert all(one.meta["level"] >= 2 for one in found)
    (one,) = retriever.run(QUERY, top_k=1, min_level=0, where={"topic": "旅游"})["documents"]
    assert one.meta["topic"] == "旅游"
    assert retriever.run(QUERY, where={"duration": {"gt": 9999}}) == {"documents": []}
    by_words = RelsdkRetriever(index_folder, search_kwargs={"mode": "lexical"})
    assert [one.id for one in by_words.run("大理")["documents"]] == [
        hit.document.id for hit in searcher.search("大理", mode="lexical")
    ]
    scored = RelsdkRetriever(index_folder, scorer=str(scorer), top_k=3)
    hits = Searcher(searcher.embedder, searcher.index, RelevanceScorer(scorer)).search(QUERY, k=3)
    assert [one.score for one in scored.run(QUERY)["documents"]] == [hit.score for hit in hits]
    for opened in (retriever, by_words, scored):
        opened.close()
        opened.close()
    assert retriever.run(QUERY)["documents"] == found
    retriever.close()


def test_a_ranker_changes_no_document(encoder, candidates):
    """Documents of another retriever: no title, and a field that is called as ours."""
    foreign = [HaystackDocument(content=text, meta={"level": "A"}, score=0.1) for text in (QUERY, "手机黑屏")]
    before = [one.to_dict() for one in foreign]
    ranked = RelsdkRanker(encoder).run(QUERY, foreign)["documents"]
    assert {one.meta["metadata.level"] for one in ranked} == {"A"}
    assert {one.id for one in ranked} == {one.id for one in foreign}
    assert ranked[0].score > ranked[1].score
    assert [one.to_dict() for one in foreign] == before
    ranker = RelsdkRanker(encoder, top_k=5, min_level=1)
    of_all = RelsdkRanker(encoder).run(QUERY, candidates)["documents"]
    assert ranker.run(QUERY, candidates)["documents"] == [one for one in of_all if one.meta["level"] >= 1][:5]
    few = ranker.run(QUERY, candidates, top_k=1, min_level=3)["documents"]
    assert few == [one for one in of_all if one.meta["level"] == 3][:1]
    assert ranker.run(QUERY, []) == {"documents": []}


def test_a_pipeline_is_saved_and_loaded(index_folder, scorer, encoder):
    """Also a filter on a field "type", which Haystack alone would take for a class to import."""
    pipeline = search_and_rank(
        index_folder, scorer, top_k=6, where={"duration": {"gte": 60}}, search_kwargs={"mode": "dense"}
    )
    pipeline.add_component("embedder", RelsdkTextEmbedder(encoder, variant="fp32", truncate_dim=8))
    pipeline.add_component("documents", RelsdkDocumentEmbedder(encoder, batch_size=4))
    found = pipeline.run({**ask(QUERY), "embedder": {"text": QUERY}, "documents": {"documents": []}})
    assert all(one.meta["level"] >= 2 for one in found["ranker"]["documents"])
    assert found["ranker"]["documents"]
    text = pipeline.dumps()
    with pytest.raises(DeserializationError, match="allowed_modules"):
        Pipeline.loads(text)
    again = Pipeline.loads(text, allowed_modules=OURS)
    assert again.to_dict() == pipeline.to_dict()
    assert again.run({**ask(QUERY), "embedder": {"text": QUERY}, "documents": {"documents": []}}) == found
    for opened in (pipeline, again):
        opened.close()
    for where in ({"type": "a.b"}, {"type": "env_var"}, {"type": "single", "device": "cpu"}, None):
        saved = RelsdkRetriever(index_folder, where=where, search_kwargs=where and {"mode": "hybrid"})
        loaded = RelsdkRetriever.from_dict(json.loads(json.dumps(saved.to_dict())))
        assert (loaded.where, loaded.search_kwargs) == (where, {"mode": "hybrid"} if where else {})


def test_settings_are_saved_and_models_are_not(encoder, scorer):
    ranker = RelsdkRanker(scorer, min_level=2, top_k=3, threads=1)
    ranker.warm_up()
    saved = ranker.to_dict()
    assert saved == {
        "type": "relsdk.integrations.haystack.RelsdkRanker",
        "init_parameters": {
            **{"model": str(scorer), "min_level": 2, "top_k": 3},
            **{"variant": "auto", "threads": 1},
        },
    }
    assert RelsdkRanker.from_dict(saved).to_dict() == saved
    embedder = RelsdkDocumentEmbedder("nowhere", progress_bar=True)  # opened when it is warmed up
    assert RelsdkDocumentEmbedder.from_dict(embedder.to_dict()).to_dict() == embedder.to_dict()
    with pytest.raises(BundleError):
        embedder.warm_up()
    text_embedder = RelsdkTextEmbedder(encoder)
    vector = text_embedder.run(QUERY)
    assert pickle.loads(pickle.dumps(text_embedder)).run(QUERY) == vector


def test_many_at_once(index_folder, scorer):
    pipeline = search_and_rank(index_folder, scorer)
    found = pipeline.run(ask(QUERY))
    assert len(found["ranker"]["documents"]) > 1

    async def both():
        return await asyncio.gather(*[pipeline.run_async(ask(QUERY)) for _ in range(4)])

    assert asyncio.run(both()) == [found] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pipeline.run, [ask(QUERY)] * 16)) == [found] * 16
    pipeline.close()


def test_what_is_wrong_is_said(encoder, scorer, index_folder):
    embedder, ranker = RelsdkDocumentEmbedder(encoder), RelsdkRanker(scorer)
    document = HaystackDocument(content="红烧肉")
    unknown = RelsdkRetriever(index_folder).to_dict()
    unknown["init_parameters"]["search_kwargs"] = {"kk": 3}
    for wrong, call in (
        ("text is list; a string", lambda: RelsdkTextEmbedder(encoder).run([document])),
        ("documents is str; a list", lambda: embedder.run("红烧肉")),
        ("str is no document", lambda: embedder.run(["红烧肉"])),
        ("has no content", lambda: ranker.run(QUERY, [HaystackDocument(meta={"a": 1})])),
        ("query is int", lambda: ranker.run(5, [document])),
        ("min_level=4", lambda: ranker.run(QUERY, [document], min_level=4)),
        ("top_k=0", lambda: RelsdkRanker(scorer, top_k=0)),
        ("top_k=0", lambda: RelsdkRetriever(index_folder, top_k=0)),
        ("search_kwargs has", lambda: RelsdkRetriever(index_folder, search_kwargs={"k": 3})),
        ("search_kwargs has", lambda: RelsdkRetriever.from_dict(unknown)),
        (r"where is .*; write a mapping", lambda: RelsdkRetriever(index_folder, where=["topic"]).run(QUERY)),
        ("model is Embedder; the path", lambda: RelsdkTextEmbedder(Embedder(encoder))),
        ("index is int; the path", lambda: RelsdkRetriever(5)),
        ("str is no document", lambda: to_haystack("红烧肉")),
    ):
        with pytest.raises(InputError, match=wrong):
            call()
