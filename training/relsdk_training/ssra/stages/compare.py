"""The last stage: measure the untrained and the trained encoder on dev, with intervals over queries.

Shape letters: N pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.metrics import UndefinedMetricError, bootstrap_interval, mean_ap_over_levels, mean_ndcg
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.ssra import SsraConfig, embed_training
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays
from relsdk_training.engine.identity import checkpoint_hash
from relsdk_training.ssra.job import DEV, Job

__all__ = ["MEASURES", "draw_rows", "identity", "mean_ap", "measure", "ndcg_values", "work"]

MEASURES = ("mean_ap", "ndcg_at_10")
_DRAWS = 500
_INTERVAL = (0.025, 0.975)


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    model = embed_training(config).model
    return [checkpoint_hash(model.checkpoint), model.max_tokens, config.run.seed]


def work(job: Job) -> dict[str, Any]:
    """Report both encoders' measures; nothing is written."""
    dev, seed = pair_arrays(load_pairs(str(job.path(DEV)))), job.config.run.seed
    model = embed_training(job.config).model
    folders = {"untrained": Path(model.checkpoint), "trained": job.path("embed") / "best"}
    return {
        "bars": [
            {
                "name": name,
                **measure(dev, TextEmbedder(folder, model.max_tokens).scores(dev.texts()), seed=seed),
            }
            for name, folder in folders.items()
        ]
    }


def measure(pairs: PairArrays, cosines: NDArray[np.float64], *, seed: int) -> dict[str, Any]:
    """Measure the order of pairs.

    Args:
        pairs: N labelled pairs.
        cosines: (N,).
        seed: Of the draws.

    Returns:
        For each of `MEASURES` its value, and as "MEASURE_interval" the 95 % interval over queries drawn with
        replacement; None where the pairs do not support the measure.
    """
    measures: dict[str, Any] = dict.fromkeys(MEASURES)
    measures |= {f"{name}_interval": None for name in MEASURES}
    value = mean_ap(pairs, cosines, np.arange(len(pairs)))
    redrawn = [mean_ap(pairs, cosines, rows) for rows in draw_rows(pairs, _DRAWS, seed)]
    if np.isfinite(value) and np.isfinite(redrawn).all():
        low, high = np.quantile(redrawn, _INTERVAL)
        measures |= {"mean_ap": value, "mean_ap_interval": [float(low), float(high)]}
    values = ndcg_values(pairs, cosines)
    if len(values):
        interval = bootstrap_interval(values, seed)
        measures |= {"ndcg_at_10": float(values.mean()), "ndcg_at_10_interval": [interval.low, interval.high]}
    return measures


def mean_ap(pairs: PairArrays, scores: NDArray[np.floating], rows: NDArray[np.int64]) -> float:
    """Return the mean AP over levels of some of the pairs; NaN where a level has none or all of them."""
    try:
        return float(mean_ap_over_levels(pairs.labels[rows], scores[rows]).mean_ap)
    except UndefinedMetricError:
        return float("nan")


def ndcg_values(pairs: PairArrays, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the nDCG@10 of each query with three documents and more than one level: (Q,), Q may be 0."""
    queries = [int(query) for query in pairs.query_of]
    try:
        return np.array(mean_ndcg(queries, pairs.labels, scores, min_documents=3).values)
    except UndefinedMetricError:
        return np.zeros(0)


def draw_rows(pairs: PairArrays, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of as many queries as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    of_query = [np.flatnonzero(pairs.query_of == query) for query in range(len(pairs.queries))]
    for _ in range(draws):
        chosen = rng.integers(0, len(of_query), len(of_query))
        yield np.concatenate([of_query[query] for query in chosen])
