"""The peers one by one, in small: for a look. Ratios come from `bench.serving`, which interleaves."""

from itertools import cycle

import numpy as np
import pytest

from bench.serving.peers import PEERS, AbsentError, open_encoder
from bench.serving.quality import mean_cosine
from bench.serving.settings import make_settings
from bench.serving.vector_sets import VectorSet, graphs
from bench.serving.weights import Models

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("name", PEERS)
def test_peer_encodes(benchmark, embedders, bundle, queries, name):
    try:
        encoder = open_encoder(name, Models(bundle, None, embedders["int8"].variant.name), 1)
    except AbsentError as error:
        pytest.skip(f"{name}: {error}")
    sample = queries[:40]
    if encoder.same_weights:
        vectors = np.concatenate([encoder.encode([text]) for text in sample])
        exact = embedders["fp32"].encode_query(sample, batch_size=1)
        benchmark.extra_info["cosine_to_fp32"] = mean_cosine(vectors, exact)
    texts = cycle(queries)
    benchmark.pedantic(lambda: encoder.encode([next(texts)]), rounds=200, warmup_rounds=20)


@pytest.mark.parametrize("name", ["hnswlib", "usearch", "faiss"])
def test_peer_searches(benchmark, bundle, tmp_path, name):
    settings = make_settings(tmp_path, small=True, bundle=bundle)
    graph = next((graph for graph in graphs(settings) if graph.name == name), None)
    if graph is None:
        pytest.skip(f"{name}: {settings.absent[name]}")
    vectors = VectorSet(2000, 64)
    built, queries = graph.build(vectors.documents), cycle(vectors.queries)
    benchmark.pedantic(lambda: graph.search(built, next(queries), 64), rounds=200, warmup_rounds=20)
