"""One query at a time, by length in tokens; and what relsdk adds to the bare session."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.interleave import Contender, measure
from bench.results_format.statistics import median_estimate
from bench.serving.peers import Encoder, encoders, open_tower
from bench.serving.quality import mean_cosine
from bench.serving.settings import Settings
from relsdk import Embedder
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.session import ModelSession

LENGTHS = (4, 8, 16, 32, 64)
COLD_LENGTHS = (8, 16)
BARE = "bare session, same int8 file"
_OUTPUT = "sentence_embedding"
_CACHES = np.zeros(32 << 20, dtype=np.int8)  # larger than the caches of one core
Feed = dict[str, NDArray[np.int64]]


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time every encoder at every length, with warm caches, and at one length with cold ones."""
    opened = encoders(settings)
    if settings.tower is not None:
        opened.append(open_tower(settings.tower, settings.models.variant, settings.threads))
    bare = ModelSession(settings.int8._runner.session.path, threads=choose_threads(settings.threads))._load()
    rows = []
    for tokens in LENGTHS:
        texts = settings.texts_of_length(tokens, 8 if settings.small else 64)
        contenders = [_contender(encoder, texts, settings) for encoder in opened]
        contenders.append(_bare(BARE, bare, texts, settings))
        rows += _timed(settings, f"{tokens} tokens", tokens, contenders, cold=False)
        if tokens in COLD_LENGTHS:
            cold = [replace(contender, before=_evict_caches) for contender in contenders]
            rows += _timed(settings, f"{tokens} tokens, cold caches", tokens, cold, cold=True)
        for row in rows:
            if row["contender"] == "relsdk int8" and row["parameters"]["tokens"] == tokens:
                before = _evict_caches if row["parameters"]["cold"] else None
                row["overhead_ms"] = _overhead(settings.int8, texts, 20 if settings.small else 300, before)
    return rows


def _timed(
    settings: Settings, case: str, tokens: int, contenders: Sequence[Contender], *, cold: bool
) -> list[dict[str, Any]]:
    special = len(settings.tokenizer.tokenize([settings.prompt("query")]).ids[0])
    return measure(
        "encode_query",
        case,
        [*contenders, settings.yardstick],
        settings.plan(12, 6 if cold else 12),
        parameters={"tokens": tokens, "prompt_and_special_tokens": special, "cold": cold},
        unit="queries",
    )


def _overhead(
    embedder: Embedder, texts: Sequence[str], calls: int, before: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Measure what a call takes beyond the run of its own session, in ms: the median with its interval.

    Within one call: two contenders' medians differ by more than this from one minute to the next. Each call
    comes after a whole run of the model, whose weights have taken the caches.

    Args:
        embedder: Its query session is watched.
        texts: The queries, in turn.
        calls: How many are timed.
        before: Runs before each call, not timed.
    """
    session = embedder._runner.query_session
    whole = session._get()
    session._session = watch = _Watch(whole)
    try:
        seconds = []
        for number in range(calls):
            if before is not None:
                before()
            started = time.perf_counter()
            embedder.encode_query(texts[number % len(texts)], truncation="silent")
            seconds.append(time.perf_counter() - started - watch.seconds)
    finally:
        session._session = whole
    found = median_estimate(np.array(seconds) * 1e3)
    return {name: round(value, 5) for name, value in found.to_dict().items()}


class _Watch:
    """Stands before a session and notes how long its last run took."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self._session.run(*arguments)
        self.seconds = time.perf_counter() - started
        return result


def _contender(encoder: Encoder, texts: list[str], settings: Settings) -> Contender:
    vectors = np.concatenate([encoder.encode([text]) for text in texts])
    return Contender(
        encoder.name,
        lambda number: encoder.encode([texts[number % len(texts)]]),
        role="ours" if encoder.own else "peer",
        quality=_quality(vectors, texts, settings) if encoder.same_weights else {},
    )


def _bare(name: str, session: Any, texts: list[str], settings: Settings) -> Contender:
    """Only the session's run, on arrays made before."""
    feeds = _feeds(settings, session)(texts)
    vectors = np.concatenate([session.run([_OUTPUT], feed)[0] for feed in feeds])
    return Contender(
        name,
        lambda number: session.run([_OUTPUT], feeds[number % len(feeds)]),
        quality=_quality(vectors, texts, settings),
    )


def _feeds(settings: Settings, session: Any) -> Callable[[Sequence[str]], list[Feed]]:
    names, prompt = [item.name for item in session.get_inputs()], settings.prompt("query")

    def make(texts: Sequence[str]) -> list[Feed]:
        found = []
        for text in texts:
            ids = np.array([settings.tokenizer.tokenize([prompt + text]).ids[0]], dtype=np.int64)
            arrays = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
                "position_ids": np.arange(ids.shape[1])[None],
            }
            found.append({name: arrays[name] for name in names})
        return found

    return make


def _quality(vectors: NDArray[np.float32], texts: list[str], settings: Settings) -> dict[str, float]:
    return {"cosine_to_fp32": mean_cosine(vectors, settings.fp32.encode_query(texts, batch_size=1))}


def _evict_caches() -> None:
    np.add(_CACHES, 1, out=_CACHES)
