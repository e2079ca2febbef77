"""InfoNCE weighted by the relevance level (SSRA, arXiv 2509.16717).

Shape letters: B rows of the batch, C candidates of a row, D dimension, K hard negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relsdk.errors import InputError
from relsdk_training.losses.similarity import (
    as_weights,
    cosine_matrix,
    level_probabilities,
    require_same_shape,
    unit,
)

__all__ = ["ContrastiveStats", "label_weighted_info_nce"]


@dataclass(frozen=True)
class ContrastiveStats:
    """What a batch looked like to the loss.

    Attributes:
        accuracy: Share of pulled rows whose own document beats every kept candidate; 0 without pulled rows.
        pulled: Number of rows with a weight above 0.
        masked: Share of the pulled rows' candidates that the margin dropped.
        embedding_std: Standard deviation of a coordinate of the unit vectors over the batch, averaged over
            coordinates and over queries and documents; 1/sqrt(D) when spread evenly, 0 when collapsed.
    """

    accuracy: float
    pulled: int
    masked: float
    embedding_std: float


def label_weighted_info_nce(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float,
    hard_negatives: Tensor | None = None,
    hard_negatives_valid: Tensor | None = None,
    known: Tensor | None = None,
    self_contrast: bool = False,
    mask_margin: float | None = 0.1,
    weighting: Literal["label", "binary"] = "label",
    row_weights: Tensor | None = None,
) -> tuple[Tensor, ContrastiveStats]:
    """Pull each query to its document in proportion to the label, and from every other candidate.

    With c = cosine, t = temperature, v_i = `row_weights`, and w_i = v_i label_i ("label") or v_i for a label
    of at least 1 ("binary"); of a distribution p_i over levels, v_i sum_l l p_il or v_i sum_{l >= 1} p_il:

        loss = 1/B sum_i w_i (log sum_{x in C_i} exp(c_ix / t) - c(q_i, d_i) / t)

    C_i holds c(q_i, d_j) for all j, the row's own hard negatives and, with `self_contrast`, c(q_i, q_j) and
    c(d_i, d_j) for j != i. A candidate above c(q_i, d_i) + `mask_margin` is taken for an unlabelled positive
    and dropped; the mask carries no gradient. A row of label 0 pulls nothing (w_i = 0) and is not its own
    negative either; its document stays a candidate of all other rows, those of the same query included unless
    `known` says otherwise (`negatives.known_pairs` with labels keeps such judged negatives).

    Args:
        queries: (B, D) float.
        documents: (B, D) float; row i belongs to query i.
        labels: (B,) relevance levels 0-3, or (B, 4) probabilities of the levels.
        temperature: Positive number or scalar tensor.
        hard_negatives: (B, K, D) float, further candidates of each row alone.
        hard_negatives_valid: (B, K) bool, False where a row has fewer than K.
        known: (B, B) bool; True where document j is no negative of query i. The diagonal is ignored. For
            self-contrast queries i and j, and documents i and j, are left out if (i, j) or (j, i) is known.
        self_contrast: Add the other queries and the other documents as candidates.
        mask_margin: How far above the positive a candidate may be; None keeps all.
        weighting: Weight of a row, see above.
        row_weights: (B,) v; None is 1.

    Returns:
        The scalar loss, at least float32, and the statistics.

    Raises:
        InputError: Shapes do not fit, or the weighting is unknown.
    """
    _check(queries, documents, hard_negatives, hard_negatives_valid, known, weighting)
    levels = level_probabilities(labels, len(queries))  # (B, L)
    in_batch = cosine_matrix(queries, documents)  # (B, B)
    own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)  # (B, B)
    closed = own if known is None else own | known  # (B, B)
    positive = in_batch.diagonal()[:, None]  # (B, 1)
    negatives, allowed = [in_batch], [~closed]
    if self_contrast:
        negatives += [cosine_matrix(queries, queries), cosine_matrix(documents, documents)]
        allowed += [~(closed | closed.T)] * 2
    if hard_negatives is not None:
        mined = cosine_matrix(queries[:, None], hard_negatives)[:, 0]  # (B, K)
        valid = hard_negatives_valid
        negatives.append(mined)
        allowed.append(torch.ones_like(mined, dtype=torch.bool) if valid is None else valid)
    candidates, candidate = torch.cat(negatives, dim=1), torch.cat(allowed, dim=1)  # (B, C)
    kept = candidate if mask_margin is None else candidate & (candidates <= positive + mask_margin).detach()

    worth = torch.arange(levels.shape[1], device=levels.device)  # (L,) of a level
    pulls = (levels * (worth.clamp(max=1) if weighting == "binary" else worth)).sum(dim=1)  # (B,)
    weights = pulls.to(in_batch.dtype) * as_weights(row_weights, in_batch[:, 0])
    # Masked after the division: -inf / t would give a learned temperature a gradient of nan.
    logits = torch.cat([positive, candidates], dim=1) / temperature  # (B, 1+C)
    logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(~kept, -torch.inf)], dim=1)
    loss = (weights * (logits.logsumexp(dim=1) - logits[:, 0])).mean()
    return loss, _stats(queries, documents, logits.detach(), candidate, kept, weights > 0)


@torch.no_grad()
def _stats(
    queries: Tensor, documents: Tensor, logits: Tensor, candidate: Tensor, kept: Tensor, pulled: Tensor
) -> ContrastiveStats:
    """Summarise logits (B, 1+C), candidates before and after the margin (B, C) and pulled rows (B,)."""
    count = pulled.sum()
    best = logits.argmax(dim=1) == 0  # a tie goes to the positive, which is first
    before = candidate[pulled].sum()
    spread = [unit(side).std(dim=0, correction=0).mean() for side in (queries, documents)]
    # One transfer from the device instead of four.
    values = torch.stack(
        [
            (best & pulled).sum() / count.clamp(min=1),
            count.to(logits.dtype),
            (before - kept[pulled].sum()) / before.clamp(min=1),
            torch.stack(spread).mean(),
        ]
    ).tolist()
    return ContrastiveStats(values[0], int(values[1]), values[2], values[3])


def _check(
    queries: Tensor,
    documents: Tensor,
    hard: Tensor | None,
    valid: Tensor | None,
    known: Tensor | None,
    weighting: str,
) -> None:
    require_same_shape("queries", queries, "documents", documents)
    rows, dimension = queries.shape
    if hard is not None and (hard.dim() != 3 or (hard.shape[0], hard.shape[2]) != (rows, dimension)):
        raise InputError(f"hard negatives have shape {tuple(hard.shape)}; ({rows}, K, {dimension}) is needed")
    if valid is not None and (hard is None or valid.shape != hard.shape[:2]):
        raise InputError("hard_negatives_valid needs hard_negatives (B, K, D) and their shape (B, K)")
    if known is not None and known.shape != (rows, rows):
        raise InputError(f"known has shape {tuple(known.shape)}; ({rows}, {rows}) is needed")
    if weighting not in ("label", "binary"):
        raise InputError(f"weighting {weighting!r} is unknown; allowed are 'label' and 'binary'")
