"""Encode: one query at a time, and in bulk with a real mix of lengths. One thread."""

from itertools import cycle

import numpy as np
import pytest

BULK = 1000


def test_single_query(benchmark, embedders, queries, variant):
    embedder, texts = embedders[variant], cycle(queries)
    tokens = embedder._runner.tokenizer.tokenize([f"query: {text}" for text in queries]).lengths
    benchmark.extra_info.update(variant=embedder.variant.name, tokens_p50=float(np.median(tokens)))
    benchmark.pedantic(lambda: embedder.encode_query(next(texts)), rounds=400, warmup_rounds=40)


@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_bulk(benchmark, embedders, world, queries, variant, kind):
    embedder = embedders[variant]
    if kind == "queries":
        texts = (queries * 2)[:BULK]
        encode = embedder.encode_query
    else:
        texts = [embedder.document_text(document) for document in world.documents[: BULK // 4]]
        encode = embedder.encode_document
    benchmark.extra_info.update(variant=embedder.variant.name, texts=len(texts))
    vectors = benchmark.pedantic(lambda: encode(texts), rounds=3, warmup_rounds=1)
    benchmark.extra_info["finite"] = bool(np.isfinite(vectors).all())
    benchmark.extra_info["texts_per_second"] = len(texts) / benchmark.stats.stats.median
