"""Other programs' retrievers over a store of vectors, which a URI names: they answer as over an index."""

import pytest

pytest.importorskip("qdrant_client", reason="needs the extra qdrant")

from relsdk import Embedder, Index, Searcher
from relsdk.index.opening import build_store

pytestmark = pytest.mark.slow
QUERY, WHERE = "大理旅游攻略", {"duration": {"gte": 60}}


@pytest.fixture(scope="module")
def uri(documents, encoder, tmp_path_factory):
    place = f"qdrant-local:{tmp_path_factory.mktemp('store') / 'qdrant'}#videos"
    build_store(place, documents, Embedder(encoder)).close()
    return place


@pytest.fixture(scope="module")
def expected(encoder, index_folder):
    with Index.open(index_folder) as index:
        hits = Searcher(Embedder(encoder), index).search(QUERY, k=5, min_level=2, where=WHERE)
    assert hits
    return [(hit.document.id, int(hit.level), hit.document.metadata["level"]) for hit in hits]


def facts(found):
    return [(identifier, fields["level"], fields["metadata.level"]) for identifier, fields in found]


def test_langchain(uri, expected):
    pytest.importorskip("langchain_core")
    from relsdk.integrations.langchain import RelsdkRetriever

    retriever = RelsdkRetriever.from_index(uri, k=5, min_level=2, where=WHERE)
    assert facts((one.id, one.metadata) for one in retriever.invoke(QUERY)) == expected
    retriever.searcher.index.close()


def test_llama_index(uri, expected):
    pytest.importorskip("llama_index.core")
    from relsdk.integrations.llama_index import RelsdkRetriever

    retriever = RelsdkRetriever.from_index(uri, similarity_top_k=5, min_level=2, where=WHERE)
    assert facts((one.node_id, one.metadata) for one in retriever.retrieve(QUERY)) == expected
    retriever.searcher.index.close()


def test_haystack(uri, expected):
    pytest.importorskip("haystack")
    from relsdk.integrations.haystack import RelsdkRetriever

    retriever = RelsdkRetriever(uri, top_k=5, min_level=2, where=WHERE)
    again = RelsdkRetriever.from_dict(retriever.to_dict())
    for one in (retriever, again):
        assert facts((hit.id, hit.meta) for hit in one.run(QUERY)["documents"]) == expected
        one.close()
