"""CoSENT: the order of scores follows the order of labels (Su, 2022; Huang et al., TASLP 2024).

Shape letters: B rows.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from relsdk_training.losses.similarity import require_labels

__all__ = ["cosent"]


def cosent(scores: Tensor, labels: Tensor, *, temperature: Tensor | float = 0.05) -> Tensor:
    """Penalise each pair of rows whose scores contradict their labels.

        loss = log(1 + sum_{label_i > label_j} exp((score_j - score_i) / t))

    Args:
        scores: (B,) float, such as the cosine of query i and document i.
        labels: (B,) relevance levels.
        temperature: t; 0.05 is the paper's scale of 20.

    Returns:
        The scalar loss; 0 where all labels are equal.

    Raises:
        InputError: Shapes do not fit.
    """
    require_labels(labels, *scores.shape)
    above = labels[:, None] > labels[None, :]  # (B, B)
    gaps = (scores[None, :] - scores[:, None]) / temperature  # (B, B)
    return functional.pad(gaps[above], (1, 0)).logsumexp(dim=0)  # the padded 0 is the 1 in log(1 + ...)
