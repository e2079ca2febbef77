"""Cumulative losses for ordered levels.

Shape letters: B rows, L = 4 levels. Column k - 1 of a cumulative logit stands for P(level >= k), k = 1..L-1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from relsdk.errors import InputError
from relsdk_training.losses.similarity import as_weights, level_probabilities

__all__ = ["CumulativeLink", "cumulative_bce", "ordinal_nll"]


class CumulativeLink(nn.Module):
    """Ordered logistic regression on one score (McCullagh, 1980).

        logit P(level >= k) = a (score - b_k),  a > 0,  b_1 < b_2 < b_3

    a and the gaps between thresholds pass through softplus, so the logits always fall along the last axis.
    The parameters live on the scale of the score: an encoder's learning rate hardly moves them, so start the
    thresholds where the scores are, and give them a larger rate.

    Args:
        thresholds: First b_k, rising; one fewer than there are levels.
        slope: First a, above 0.

    Raises:
        InputError: The thresholds do not rise, or the slope is not above 0.
    """

    def __init__(self, thresholds: Sequence[float] = (0.25, 0.5, 0.75), slope: float = 20.0) -> None:
        super().__init__()
        gaps = [high - low for low, high in itertools.pairwise(thresholds)]
        if not thresholds or slope <= 0 or any(gap <= 0 for gap in gaps):
            raise InputError(
                f"thresholds are {list(thresholds)} and the slope {slope}; "
                "thresholds must rise and the slope be above 0"
            )
        self.first = nn.Parameter(torch.tensor([float(thresholds[0])]))
        self.raw_gaps = nn.Parameter(torch.tensor([_softplus_inverse(gap) for gap in gaps]))  # (L-2,)
        self.raw_slope = nn.Parameter(torch.tensor(_softplus_inverse(slope)))

    def thresholds(self) -> Tensor:
        """Return b_k, (L-1,) rising."""
        return torch.cat([self.first, functional.softplus(self.raw_gaps)]).cumsum(dim=0)

    def forward(self, scores: Tensor) -> Tensor:
        """Return the cumulative logits (B, L-1) of scores (B,)."""
        return functional.softplus(self.raw_slope) * (scores[:, None] - self.thresholds())


def ordinal_nll(cumulative_logits: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Return the mean negative log likelihood of labels under logits that fall along the last axis.

        loss = -1/B sum_i w_i sum_l p_il log(P(level >= l) - P(level >= l + 1))
        P(level >= 0) = 1,  P(level >= L) = 0

    Of a label, p is 1 on it.

    Args:
        cumulative_logits: (B, L-1) float, strictly falling along the last axis, as `CumulativeLink` gives.
        labels: (B,) int64 in 0..L-1, or (B, L) probabilities p of the levels.
        weights: (B,) w; None is 1.

    Returns:
        The scalar loss.

    Raises:
        InputError: Shapes do not fit.
    """
    levels = level_probabilities(labels, len(cumulative_logits)).to(cumulative_logits)  # (B, L)
    edge = torch.full_like(cumulative_logits[:, :1], torch.inf)
    bounded = torch.cat([edge, cumulative_logits, -edge], dim=1)  # (B, L+1)
    at_least, above = bounded[:, :-1], bounded[:, 1:]  # (B, L)
    # sigmoid(x) - sigmoid(y) = sigmoid(x) sigmoid(-y) (1 - exp(y - x)): no cancellation far from 0. Logits
    # that rounding made equal are held a hair apart.
    gap = (above - at_least).clamp(max=-1e-6)
    log_likelihood = functional.logsigmoid(at_least) + functional.logsigmoid(-above) + (-gap.expm1()).log()
    likelihoods = (levels * log_likelihood).sum(dim=1)  # (B,)
    return -(as_weights(weights, likelihoods) * likelihoods).mean()


def cumulative_bce(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Return the summed cross-entropies of the L-1 questions "is the level at least k?", averaged over rows.

        loss = -1/B sum_i w_i sum_k q_ik log sigmoid(z_ik) + (1 - q_ik) log sigmoid(-z_ik)
        q_ik = sum_{l >= k} p_il

    For heads with free logits, which need not fall; Frank and Hall, 2001.

    Args:
        logits: (B, L-1) float.
        targets: (B, L) float, probabilities p of the levels; of a label, 1 on it.
        weights: (B,) w; None is 1.

    Returns:
        The scalar loss.

    Raises:
        InputError: Shapes do not fit.
    """
    rows, questions = logits.shape
    if targets.shape != (rows, questions + 1):
        raise InputError(
            f"targets have shape {tuple(targets.shape)} beside logits {tuple(logits.shape)}; a probability "
            "of each level is needed, one more than there are logits"
        )
    at_least = targets.flip(1).cumsum(dim=1).flip(1)[:, 1:].to(logits.dtype)  # (B, L-1)
    each = None if weights is None else as_weights(weights, logits[:, 0])[:, None]
    return functional.binary_cross_entropy_with_logits(logits, at_least, each, reduction="sum") / rows


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))
