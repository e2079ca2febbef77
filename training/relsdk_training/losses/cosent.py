"""CoSENT: the order of scores follows the order of labels (Su, 2022; Huang et al., TASLP 2024).

Shape letters: B rows, L = 4 levels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from relsdk_training.losses.similarity import as_weights, level_probabilities

__all__ = ["cosent"]

# What float32 may make of two equal probabilities; a large gap in the scores would make much of it.
_ROUNDING = 1e-6


def cosent(
    scores: Tensor, labels: Tensor, *, temperature: Tensor | float = 0.05, weights: Tensor | None = None
) -> Tensor:
    """Penalise each pair of rows whose scores contradict their labels.

        loss = log(1 + sum_{i != j} w_i w_j c_ij exp((score_j - score_i) / t))
        c_ij = max(0, P(level_i > level_j) - P(level_j > level_i))

    Of labels c is 1 or 0: the sum is over the pairs with label_i > label_j. Two rows are taken as
    independent: P(level_i > level_j) = sum_{k > l} p_ik p_jl. Only the likelier order of two rows counts:
    if both did, two rows of one opinion, which either order contradicts, would be pulled to one score.

    Args:
        scores: (B,) float, such as the cosine of query i and document i.
        labels: (B,) relevance levels 0-3, or (B, L) probabilities of the levels.
        temperature: t; 0.05 is the paper's scale of 20.
        weights: (B,) w; None is 1.

    Returns:
        The scalar loss; 0 where all labels are equal.

    Raises:
        InputError: Shapes do not fit.
    """
    levels = level_probabilities(labels, len(scores)).to(scores)  # (B, L)
    own = as_weights(weights, scores)
    below = levels.cumsum(dim=1) - levels  # (B, L) P(level_j < k)
    with torch.autocast(scores.device.type, enabled=False):  # bf16 keeps three digits of a probability
        above = levels @ below.T  # (B, B) P(level_i > level_j)
        likelier = functional.threshold(above - above.T, _ROUNDING, 0.0)  # (B, B) c
        counted = own[:, None] * own * likelier
    gaps = (scores[None, :] - scores[:, None]) / temperature  # (B, B)
    terms = gaps[counted > 0] + counted[counted > 0].log()
    return functional.pad(terms, (1, 0)).logsumexp(dim=0)  # the padded 0 is the 1 in log(1 + ...)
