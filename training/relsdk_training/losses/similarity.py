"""What losses share: cosines in full precision, levels as probabilities, checks of shapes.

Shape letters: B rows, C candidates, D dimension, L = 4 levels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS

__all__ = [
    "as_weights",
    "cosine_matrix",
    "level_probabilities",
    "paired_cosine",
    "require_labels",
    "require_same_shape",
    "unit",
]

EPSILON = 1e-12


def unit(embeddings: Tensor) -> Tensor:
    """Return the embeddings (..., D) at length 1, at least in float32; a zero vector stays zero."""
    # bf16 keeps three digits of a cosine: divided by a temperature of 0.03 the error would be 13 %.
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    return functional.normalize(wide, dim=-1, eps=EPSILON)


def cosine_matrix(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of every left row with every right row.

    Args:
        left: (..., B, D) float.
        right: (..., C, D) float.

    Returns:
        (..., B, C), float32 or float64, also inside autocast.
    """
    with torch.autocast(left.device.type, enabled=False):
        return unit(left) @ unit(right).transpose(-1, -2)  # (..., B, C)


def paired_cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of row i of `left` (B, D) with row i of `right` (B, D): (B,), at least float32."""
    require_same_shape("left", left, "right", right)
    return (unit(left) * unit(right)).sum(dim=-1)  # (B,)


def require_same_shape(left_name: str, left: Tensor, right_name: str, right: Tensor) -> None:
    """Raise `InputError` unless both tensors have one shape."""
    if left.shape != right.shape:
        raise InputError(
            f"{left_name} has shape {tuple(left.shape)} and {right_name} {tuple(right.shape)}; "
            "they must be equal"
        )


def level_probabilities(labels: Tensor, rows: int) -> Tensor:
    """Return labels as probabilities of levels.

    Args:
        labels: (B,) int levels 0-3, or (B, L) float probabilities of the levels.
        rows: B.

    Returns:
        (B, L) float, at least float32; of a level, 1 on it.

    Raises:
        InputError: The shape is another one.
    """
    if labels.dim() != 2:
        require_labels(labels, rows)
        return functional.one_hot(labels.long(), NUM_LEVELS).to(torch.float32)
    if labels.shape != (rows, NUM_LEVELS):
        raise InputError(
            f"labels have shape {tuple(labels.shape)}; levels ({rows},) or their probabilities "
            f"({rows}, {NUM_LEVELS}) are needed"
        )
    return labels


def as_weights(weights: Tensor | None, like: Tensor) -> Tensor:
    """Return the weights of rows `like` (B,): 1 where none are given.

    Raises:
        InputError: There is not one a row.
    """
    if weights is None:
        return torch.ones_like(like)
    require_same_shape("weights", weights, "rows", like)
    return weights.to(like)


def require_labels(labels: Tensor, rows: int) -> None:
    """Raise `InputError` unless `labels` has shape (rows,)."""
    if labels.shape != (rows,):
        raise InputError(f"labels have shape {tuple(labels.shape)}; one label a row is needed: ({rows},)")
