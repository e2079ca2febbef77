"""docs/serving.md: what it shows of clients in Python runs."""

import gc
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from relsdk import Document, Embedder, Index
from relsdk_serve._settings import Settings
from tests.serve.servers import served

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PACKAGES = [re.search(r"^(?:from|import) ([\w.]+)", block, re.MULTILINE)[1] for block in BLOCKS]


@pytest.fixture(scope="module")
def address(encoder, tmp_path_factory):
    documents = [
        Document("v1", "红烧肉的家常做法，肥而不腻", "", {"author": "老王", "duration": 95}),
        Document("v3", "大理三天两夜旅游攻略", "", {"author": "小李", "duration": 180}),
    ]
    folder = tmp_path_factory.mktemp("docs") / "docs.idx"
    Index.build(folder, documents, Embedder(encoder)).close()
    served_as = Settings(indexes={"docs.idx": str(folder)}, models={"base": str(encoder)}, workers=1)
    with served(served_as) as server:
        yield server.url


@pytest.fixture
def run(address):
    """Run a block of the page and return its names; the connections that it leaves open are no matter."""

    def run_block(number):
        pytest.importorskip(PACKAGES[number], reason="needs the extra clients: pip install 'relsdk[clients]'")
        names = {}
        exec(BLOCKS[number].replace("http://127.0.0.1:8080", address), names)
        left.append(names)
        return names

    left = []
    yield run_block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        left.clear()
        gc.collect()


def test_every_kind_of_client_is_shown():
    assert PACKAGES == [
        *("relsdk.client", "asyncio", "openai", "langchain_openai"),
        *("llama_index.embeddings.openai", "cohere", "huggingface_hub"),
    ]


def test_the_client(run, encoder):
    names = run(0)
    assert {hit.document.id for hit in names["hits"]} == {"v1", "v3"}
    expected = Embedder(encoder).encode_query(["红烧肉怎么做", "大理旅游"])
    np.testing.assert_allclose(names["vectors"], expected, atol=5e-7)
    assert len(names["grades"]) == 2


def test_the_asynchronous_client(run):
    assert [len(result) for result in run(1)["results"]] == [2, 2]


def test_openai(run, encoder):
    (one,) = run(2)["answer"].data
    np.testing.assert_allclose(one.embedding, Embedder(encoder).encode_query("红烧肉怎么做"), atol=5e-7)


@pytest.mark.parametrize("number", [3, 4], ids=["langchain", "llamaindex"])
def test_through_openai(run, number, encoder):
    vector = run(number)["vector"]
    np.testing.assert_allclose(vector, Embedder(encoder).encode("红烧肉怎么做"), atol=5e-7)


def test_cohere(run):
    assert {one.index for one in run(5)["answer"].results} == {0, 1}


def test_hugging_face(run, encoder):
    pytest.importorskip("huggingface_hub", minversion="1.0", reason="its client is that of httpx from 1.0 on")
    names = run(6)
    expected = Embedder(encoder).encode_query(["红烧肉怎么做"])
    np.testing.assert_allclose(names["vectors"], expected, atol=5e-7)
    assert len(names["cosines"]) == 2
    __import__("huggingface_hub").close_session()
