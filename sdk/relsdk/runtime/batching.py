"""Group texts of like length into batches of bounded size. Pure functions.

Shape letters: N texts, B texts of one batch, T tokens of the longest text in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError

__all__ = ["DEFAULT_TOKEN_BUDGET", "token_budget_batches"]

# On the CPUs measured, int8 products reach their full rate at about this many rows; more only costs memory.
DEFAULT_TOKEN_BUDGET = 1024


def token_budget_batches(
    lengths: Sequence[int], *, token_budget: int = DEFAULT_TOKEN_BUDGET, batch_size: int | None = None
) -> list[NDArray[np.int64]]:
    """Partition texts so that padding is small and B * T stays within a budget.

    Texts are taken from the longest to the shortest, so that the largest buffers are allocated once, first.

    Args:
        lengths: Token count of each of the N texts.
        token_budget: Upper bound on B * T; a single text may exceed it.
        batch_size: Upper bound on B; None means only the budget counts.

    Returns:
        Index arrays, together a permutation of 0..N-1.

    Raises:
        InputError: A bound is below 1 or no whole number.
    """
    if not isinstance(batch_size, int | np.integer | None) or isinstance(batch_size, bool):
        raise InputError(f"batch_size={batch_size!r}; a whole number is needed")
    if token_budget < 1 or (batch_size is not None and batch_size < 1):
        raise InputError(f"token_budget={token_budget}, batch_size={batch_size}: both must be at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        rows = max(token_budget // longest, 1)
        if batch_size is not None:
            rows = min(rows, batch_size)
        batches.append(order[start : start + rows])
        start += rows
    return batches
