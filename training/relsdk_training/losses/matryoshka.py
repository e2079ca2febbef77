"""Matryoshka representation learning: one loss on several prefixes of the embedding (arXiv 2205.13147).

Shape letters: D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from relsdk.errors import InputError
from relsdk_training.losses.similarity import unit

__all__ = ["over_dimensions"]

Stats = TypeVar("Stats")


def over_dimensions(
    loss_of: Callable[..., tuple[Tensor, Stats]], embeddings: Sequence[Tensor | None], dims: Sequence[int]
) -> tuple[Tensor, Stats]:
    """Average a loss over prefixes of the embeddings, each cut and brought back to length 1.

        loss = 1/M sum_m loss_of(unit(x_1[:D_m]), unit(x_2[:D_m]), ...)

    Args:
        loss_of: Called once a dimension with the prefixes of `embeddings`, in order; returns (loss, stats).
        embeddings: Tensors (..., D), such as queries, documents and hard negatives; None is passed on.
        dims: The prefixes' lengths D_m, each within 1..D.

    Returns:
        The mean loss, and the statistics of the widest prefix.

    Raises:
        InputError: No dimension was given, one is repeated, or one is not within 1..D.
    """
    width = min((embedding.shape[-1] for embedding in embeddings if embedding is not None), default=0)
    if not dims or len(set(dims)) < len(dims) or not all(1 <= dim <= width for dim in dims):
        raise InputError(
            f"Matryoshka dimensions are {list(dims)}; give distinct whole numbers from 1 to {width}"
        )
    results = {dim: loss_of(*(_prefix(embedding, dim) for embedding in embeddings)) for dim in dims}
    return torch.stack([loss for loss, _ in results.values()]).mean(), results[max(dims)][1]


def _prefix(embedding: Tensor | None, dim: int) -> Tensor | None:
    return None if embedding is None else unit(embedding[..., :dim])
