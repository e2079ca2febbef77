"""Pool token vectors to one vector a text, and convert it to the wanted precision.

The poolings are those of sentence-transformers 6.2 (`sentence_transformer/modules/pooling.py`).

Shape letters: B texts, T tokens, D dimension.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Precision", "pool", "to_precision"]

Precision = Literal["float32", "int8", "ubinary"]


def pool(values: NDArray[np.float32], mask: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    """Pool token vectors (B, T, D), of which the mask (B, T) says which count, to (B, D) float32."""
    rows = np.arange(len(values))
    if pooling == "cls":
        return np.asarray(values[rows, mask.argmax(axis=1)])
    if pooling == "lasttoken":
        return np.asarray(values[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)])
    if pooling == "max":
        return np.asarray(np.where(mask[:, :, None] > 0, values, -np.inf).max(axis=1), dtype=np.float32)
    weights = mask[:, :, None].astype(np.float32)
    if pooling == "weightedmean":
        weights = weights * np.arange(1, mask.shape[1] + 1, dtype=np.float32)[:, None]
    sums, total = (values * weights).sum(axis=1), np.maximum(weights.sum(axis=1), 1e-9)
    return np.asarray(
        sums / (np.sqrt(total) if pooling == "mean_sqrt_len_tokens" else total), dtype=np.float32
    )


def to_precision(vectors: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
    """Return vectors (B, D) as they are, as int8, or as uint8 with D/8 columns; see `Embedder.encode`."""
    if precision == "int8":
        largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0), 1e-12)
        return np.asarray(np.rint(vectors * (127.0 / largest)), dtype=np.int8)
    if precision == "ubinary":
        return np.packbits(vectors > 0, axis=1)
    return vectors
