"""docs/integrations: what the pages show runs, with toy models where the demo's are."""

import re
import shutil
from pathlib import Path

import pytest

from relsdk import Embedder, Index
from relsdk_sample import generate

pytestmark = pytest.mark.slow
PAGES = Path(__file__).resolve().parents[2] / "docs" / "integrations"
QUERY = "红烧肉怎么做"


@pytest.fixture(scope="module")
def demo(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    bundle = shutil.copytree(encoder, folder / "relsdk-demo" / "bundle")
    documents = generate(seed=5, n_documents=200, n_queries=10).documents
    Index.build(folder / "relsdk-demo" / "index", documents, Embedder(bundle)).close()
    return folder


@pytest.fixture
def run(demo, monkeypatch, capsys):
    """Run the blocks of a page one after another; return the names that they leave, and what they print."""
    monkeypatch.chdir(demo)
    names = {}

    def run_page(name, package):
        pytest.importorskip(package)
        text = (PAGES / name).read_text(encoding="utf-8")
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            exec(block, names)
        assert f"pip install '.[{name.removesuffix('.md')}]'" in text
        return names, capsys.readouterr().out

    yield run_page
    names["index"].close()


def check(printed, relevant_levels, built):
    levels = [int(line.split()[0]) for line in printed.splitlines()]
    assert levels
    assert min(levels + relevant_levels) >= 2
    assert len(built) >= 1


def test_langchain(run):
    names, printed = run("langchain.md", "langchain_core")
    assert [one.metadata["topic"] for one in names["cars"]] == ["cars"] * 3
    check(printed, [one.metadata["level"] for one in names["relevant"]], names["index"])
    names["retriever"].searcher.index.close()


def test_llama_index(run):
    names, printed = run("llama-index.md", "llama_index.core")
    assert len(names["candidates"]) == 3
    check(printed, [one.metadata["level"] for one in names["relevant"]], names["index"])
    names["retriever"].searcher.index.close()


def test_haystack(run):
    names, printed = run("haystack.md", "haystack")
    found = names["again"].run({"retriever": {"query": QUERY}})["retriever"]["documents"]
    assert [one.meta["level"] for one in found] == [int(line.split()[0]) for line in printed.splitlines()]
    check(printed, [one.meta["level"] for one in names["relevant"]], names["index"])
    names["again"].close()
