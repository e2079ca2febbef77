"""Index build and search with the recall beside the time, and a whole query. One thread."""

from itertools import cycle

import numpy as np
import pytest

from relsdk import Document, Index, Searcher
from relsdk.index import IndexConfig

COUNT, DIMENSION, CLUSTERS = 20_000, 384, 500


class Vectors:
    """An encoder that hands out prepared vectors, so that only the index is measured."""

    name, fingerprint, dimension, path = "prepared vectors", "0" * 16, DIMENSION, None

    def __init__(self):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(CLUSTERS, DIMENSION))
        near = (
            centres[rng.integers(CLUSTERS, size=COUNT + 1000)]
            + rng.normal(size=(COUNT + 1000, DIMENSION)) * 0.7
        )
        unit = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
        self.documents, self.queries = unit[:COUNT], unit[COUNT:]

    def encode_document(self, inputs):
        return self.documents[[int(document.id) for document in inputs]]


@pytest.fixture(scope="module")
def vectors():
    return Vectors()


def documents():
    return (Document(id=str(row), title=f"视频 {row}") for row in range(COUNT))


@pytest.fixture(scope="module")
def index(vectors, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("index") / "i", documents(), vectors) as built:
        yield built


def test_build(benchmark, vectors, tmp_path):
    def build():
        Index.build(tmp_path / "i", documents(), vectors, overwrite=True, num_threads=1).close()

    benchmark.pedantic(build, rounds=2)
    benchmark.extra_info.update(documents=COUNT, dimension=DIMENSION)
    benchmark.extra_info["documents_per_second"] = COUNT / benchmark.stats.stats.median


@pytest.mark.parametrize("effort", [32, IndexConfig().ef_search, "exact"])
def test_search(benchmark, index, vectors, effort):
    options = {"exact": True} if effort == "exact" else {"ef_search": effort}
    exact = [
        {hit.document.id for hit in hits} for hits in index.search(vectors.queries[:200], 10, exact=True)
    ]
    found = index.search(vectors.queries[:200], 10, **options)
    shares = [
        len({h.document.id for h in hits} & truth) / 10 for hits, truth in zip(found, exact, strict=True)
    ]
    benchmark.extra_info.update(documents=COUNT, dimension=DIMENSION, recall_at_10=float(np.mean(shares)))
    rows = cycle(vectors.queries)
    benchmark.pedantic(lambda: index.search(next(rows), 10, **options), rounds=300, warmup_rounds=30)


def test_whole_query(benchmark, embedders, world, queries, variant, tmp_path_factory):
    """Text in, ten documents out: encode, search, fetch; 5,000 documents."""
    embedder = embedders[variant]
    path = tmp_path_factory.mktemp("whole") / "i"
    titles = (Document(id=document.id, title=document.title) for document in world.documents)
    with Index.build(path, titles, embedder) as index:
        searcher, texts = Searcher(embedder, index), cycle(queries)
        benchmark.extra_info.update(variant=embedder.variant.name, documents=len(index))
        benchmark.pedantic(lambda: searcher.search(next(texts), 10), rounds=300, warmup_rounds=30)
