"""Which pairs the encoder learns from: labelled ones first, made ones where a level lacks them.

Shape letters: L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError

__all__ = ["balanced_choice", "level_counts"]


def level_counts(
    labelled: Sequence[int], made: Sequence[int], shares: Sequence[float], size: int
) -> NDArray[np.int64]:
    """Return how many pairs of each level the result has: (L,).

    All labelled pairs stay. Beyond them each level gets what its share of the size asks for, and no more than
    there is.

    Args:
        labelled: (L,) labelled pairs of each level.
        made: (L,) pairs of each level to fill up with.
        shares: (L,) of the result, above 0.
        size: Pairs wanted; 0 takes the largest that has the shares.

    Raises:
        InputError: The shares are not four numbers above 0.
    """
    wanted = np.asarray(shares, dtype=np.float64)
    if wanted.shape != (4,) or not (wanted > 0).all():
        raise InputError(f"balance.shares {list(shares)}; four numbers above 0 are needed")
    wanted /= wanted.sum()
    have, more = np.asarray(labelled), np.asarray(made)
    total = size or int(((have + more) / wanted).min())
    return np.clip(np.rint(wanted * total).astype(np.int64), have, have + more)


def balanced_choice(
    levels: Sequence[int], is_labelled: Sequence[bool], shares: Sequence[float], size: int, seed: int
) -> NDArray[np.int64]:
    """Choose rows: every labelled pair, and of the others a random few of each level.

    Args:
        levels: (N,) level of each pair.
        is_labelled: (N,) whether it is a labelled one.
        shares: See `level_counts`.
        size: See `level_counts`.
        seed: Of the choice.

    Returns:
        Row numbers in rising order.
    """
    of, labelled = np.asarray(levels), np.asarray(is_labelled, dtype=bool)
    have = np.bincount(of[labelled], minlength=4)
    more = np.bincount(of[~labelled], minlength=4)
    wanted = level_counts(have.tolist(), more.tolist(), shares, size)
    rng = np.random.default_rng(seed)
    chosen = [np.flatnonzero(labelled)]
    for level in range(4):
        rows = np.flatnonzero(~labelled & (of == level))
        chosen.append(rng.permutation(rows)[: wanted[level] - have[level]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
