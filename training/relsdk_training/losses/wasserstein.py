"""The list-wise Wasserstein loss of SyCL (Esfandiarpoor et al., 2025, arXiv 2503.23239).

Shape letters: B rows, Q queries, N documents of a list, D dimension, L = 4 levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relsdk.errors import InputError
from relsdk_training.losses.similarity import (
    as_weights,
    cosine_matrix,
    level_probabilities,
    require_labels,
    require_same_shape,
)

__all__ = ["batch_wasserstein"]

# Of the largest singular value: smaller ones are rounding, and have no direction to learn.
_RANK = 1e-9


def batch_wasserstein(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    query_keys: Tensor,
    document_keys: Tensor,
    *,
    temperature: Tensor | float,
    weights: Tensor | None = None,
) -> Tensor:
    """Compare how cosines and levels spread over the documents of a batch.

    The list of each query is all documents of the batch, as in SyCL with in-batch negatives: so all lists are
    of one length N, however many documents were judged for a query, and a document that the batch does not
    judge for it has level 0.

        x_qn = softmax_n(cos(q, d_n) / t),   y_qn = softmax_n(level_qn)
        loss = mean(w) W2^2(gaussian fitted to the rows x_q, gaussian fitted to the rows y_q)

    level_qn is the expected level, and of a pair that is in the batch twice the mean. A query's weight, in
    both fits, is the mean of its rows' weights.

    Args:
        queries: (B, D) float.
        documents: (B, D) float; row i belongs to query i.
        labels: (B,) relevance levels 0-3, or (B, L) probabilities of the levels.
        query_keys: (B,) int, equal for equal queries.
        document_keys: (B,) int, equal for equal documents.
        temperature: t, a positive number or scalar tensor.
        weights: (B,) w, above 0; None is 1.

    Returns:
        The scalar loss in float64, at least 0; 0 means equal fits, not equal rows.

    Raises:
        InputError: Shapes do not fit.
    """
    require_same_shape("queries", queries, "documents", documents)
    rows = len(queries)
    for keys in (query_keys, document_keys):
        require_labels(keys, rows)
    probabilities = level_probabilities(labels, rows).double()
    levels = probabilities @ torch.arange(probabilities.shape[1], device=queries.device).double()  # (B,)
    own = as_weights(weights, levels)
    (query_of, query_rows), (document_of, document_rows) = map(_distinct, (query_keys, document_keys))
    cosines = cosine_matrix(queries[query_rows], documents[document_rows]).double()  # (Q, N)
    graded, seen = cosines.new_zeros(2, *cosines.shape)  # (Q, N) each
    graded.index_put_((query_of, document_of), levels, accumulate=True)
    seen.index_put_((query_of, document_of), torch.ones_like(levels), accumulate=True)
    of_queries, counts = cosines.new_zeros(2, len(query_rows))  # (Q,) each
    of_queries.index_add_(0, query_of, own)
    counts.index_add_(0, query_of, torch.ones_like(own))
    predicted = (cosines / temperature).softmax(dim=1)
    wanted = (graded / seen.clamp(min=1)).softmax(dim=1)
    return own.mean() * _gaussian_distance(predicted, wanted, of_queries / counts)


def _gaussian_distance(left: Tensor, right: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the squared 2-Wasserstein distance of the Gaussians fitted to the rows of two matrices.

        W2^2 = |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2)

    With centred rows X, Y divided by sqrt(Q - 1), S_x = X'X, and the eigenvalues of S_x S_y are the squared
    singular values of XY': the last trace is their sum (Mathiasen and Hvilshoej, 2020, arXiv 2009.14075), and
    no N x N matrix is needed.

    Args:
        left: (Q, N) float.
        right: (Q, N) float.
        weights: (Q,) of the rows, above 0; None is 1.

    Returns:
        The scalar distance in float64. Of a single row it is the distance of the rows.

    Raises:
        InputError: Shapes do not fit.
    """
    require_same_shape("left", left, "right", right)
    if left.dim() != 2 or not len(left):
        raise InputError(f"rows have shape {tuple(left.shape)}; (Q, N) with Q of at least 1 is needed")
    with torch.autocast(left.device.type, enabled=False):
        left, right = left.double(), right.double()
        shares = as_weights(weights, left[:, 0])
        shares = (shares / shares.sum())[:, None]  # (Q, 1)
        means = [(shares * side).sum(dim=0) for side in (left, right)]  # (N,) each
        scale = (shares * (len(left) / max(1, len(left) - 1))).sqrt()
        centred = [scale * (side - mean) for side, mean in zip((left, right), means, strict=True)]
        values = torch.linalg.svdvals(centred[0] @ centred[1].T)  # (Q,)
        common = values[values > _RANK * values.max().detach()].sum()
        between = (means[0] - means[1]).square().sum()
        spread = centred[0].square().sum() + centred[1].square().sum()
        distance: Tensor = between + spread - 2 * common
        return distance


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of each key among the distinct ones (B,), and the first row of each of these."""
    distinct, number = torch.unique(keys, return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    rows = torch.full_like(distinct, len(keys)).scatter_reduce_(0, number, places, "amin")
    return number, rows
