"""Negatives of a query: known pairs, a queue to mine from, and the copy of the encoder that fills it.

Shape letters: B queries, N added documents, C capacity, D dimension, F forbidden keys a query, K mined.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relsdk.errors import InputError
from relsdk_training.losses.similarity import cosine_matrix, require_labels, require_same_shape, unit

__all__ = ["DocumentQueue", "MomentumCopy", "known_pairs"]

NO_DOCUMENT = -1


def known_pairs(query_keys: Tensor, document_keys: Tensor, labels: Tensor | None = None) -> Tensor:
    """Find the in-batch pairs that are no negatives because the batch itself says what they are.

    (i, j) is known if some row k pairs the query of i with the document of j: they share the query (k = j),
    the document (k = i), or k is a third row.

    Args:
        query_keys: (B,) int, equal for equal queries.
        document_keys: (B,) int, equal for equal documents.
        labels: (B,) levels; given, a row of label 0 makes nothing known: its document is a judged negative of
            its query's other rows.

    Returns:
        (B, B) bool, False on the diagonal.

    Raises:
        InputError: Shapes do not fit.
    """
    require_same_shape("query_keys", query_keys, "document_keys", document_keys)
    same_query = query_keys[:, None] == query_keys  # (B, B)
    if labels is not None:
        require_labels(labels, len(query_keys))
        same_query = same_query & (labels > 0)
    same_document = document_keys[:, None] == document_keys  # (B, B)
    known = (same_query.float() @ same_document.float()) > 0  # (B, B)
    return known.fill_diagonal_(False)


@dataclass(frozen=True)
class _MinedNegatives:
    """Hard negatives of B queries, the most similar first.

    Attributes:
        rows: (B, K) int64, rows of `DocumentQueue.embeddings`; 0 where not valid.
        keys: (B, K) int64, the documents' keys; -1 where not valid.
        valid: (B, K) bool, False where a query has fewer than K.
    """

    rows: Tensor
    keys: Tensor
    valid: Tensor


class DocumentQueue:
    """The last documents seen, embedded, first in first out.

    A document is held once, as it was embedded last. Not a module: DDP would broadcast its buffers each step.

    Args:
        capacity: Number of documents; 65,536 in SSRA.
        dimension: D.
        device: Where the embeddings live.

    Attributes:
        embeddings: (C, D) float32 unit vectors.
        keys: (C,) int64 document keys, -1 where empty.

    Raises:
        InputError: Capacity or dimension is below 1.
    """

    def __init__(self, capacity: int, dimension: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1 or dimension < 1:
            raise InputError(
                f"a queue of {capacity} documents of dimension {dimension}; both must be at least 1"
            )
        self.embeddings = torch.zeros(capacity, dimension, device=device)  # (C, D)
        self.keys = torch.full((capacity,), NO_DOCUMENT, device=device)  # (C,)
        self._next = 0

    def __len__(self) -> int:
        return int((self.keys != NO_DOCUMENT).sum())

    @torch.no_grad()
    def add(self, embeddings: Tensor, keys: Tensor) -> None:
        """Add documents in place of the oldest.

        Args:
            embeddings: (N, D) float.
            keys: (N,) int64, at least 0; of equal keys the last counts.

        Raises:
            InputError: Shapes do not fit or a key is below 0.
        """
        capacity, dimension = self.embeddings.shape
        if embeddings.shape != (len(keys), dimension) or (keys < 0).any():
            raise InputError(
                f"got embeddings {tuple(embeddings.shape)} and {len(keys)} keys; "
                f"needed are (N, {dimension}) and N keys of at least 0"
            )
        keys = keys.to(self.keys)
        repeated = (keys[:, None] == keys).triu(diagonal=1).any(dim=1)  # (N,) the same key comes again later
        last = (~repeated).nonzero()[-capacity:, 0]
        keys, embeddings = keys[last], embeddings[last]
        self.keys[torch.isin(self.keys, keys)] = NO_DOCUMENT
        places = (self._next + torch.arange(len(keys), device=self.keys.device)) % capacity
        self.embeddings[places] = unit(embeddings).to(self.embeddings)
        self.keys[places] = keys
        self._next = (self._next + len(keys)) % capacity

    @torch.no_grad()
    def hardest(
        self, queries: Tensor, positives: Tensor, forbidden: Tensor, *, k: int = 3, max_ratio: float = 0.95
    ) -> _MinedNegatives:
        """Find the most similar documents that are clearly less similar than the positive.

            c(q, d) <= p - (1 - max_ratio) |p|,  which is max_ratio * p for p >= 0

        Args:
            queries: (B, D) float, from the encoder that fills the queue.
            positives: (B,) float, p, the cosine of each query and its positive, by the same encoder.
            forbidden: (B, F) int64 keys of the documents known for each query, filled up with -1.
            k: Negatives a query.
            max_ratio: See above; 0.95 in SSRA.

        Returns:
            Up to k negatives a query.

        Raises:
            InputError: Shapes do not fit or k is below 1.
        """
        require_labels(positives, len(queries))
        if forbidden.dim() != 2 or len(forbidden) != len(queries) or k < 1:
            raise InputError(
                f"got forbidden {tuple(forbidden.shape)} for {len(queries)} queries and k = {k}; "
                f"needed are ({len(queries)}, F) and k of at least 1"
            )
        positives = positives.to(self.embeddings)
        bound = positives - (1 - max_ratio) * positives.abs()  # (B,)
        similarity = cosine_matrix(queries.to(self.embeddings), self.embeddings)  # (B, C)
        closed = (self.keys == NO_DOCUMENT) | (similarity > bound[:, None])  # (B, C)
        for column in forbidden.to(self.keys).unbind(dim=1):  # F is small; (B, C, F) at once is not
            closed |= column[:, None] == self.keys
        similarity = similarity.masked_fill(closed, -torch.inf)
        best = similarity.topk(min(k, len(self.keys)), dim=1)  # (B, K)
        valid = best.values > -torch.inf
        missing = (0, k - valid.shape[1])
        rows = nn.functional.pad(best.indices.masked_fill(~valid, 0), missing)
        keys = self.keys[best.indices].masked_fill(~valid, NO_DOCUMENT)
        return _MinedNegatives(
            rows, nn.functional.pad(keys, missing, value=NO_DOCUMENT), nn.functional.pad(valid, missing)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        place = torch.tensor(self._next)
        return {"embeddings": self.embeddings.clone(), "keys": self.keys.clone(), "next": place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            InputError: It is of another capacity or dimension.
        """
        require_same_shape("the saved queue", state["embeddings"], "this queue", self.embeddings)
        self.embeddings.copy_(state["embeddings"])
        self.keys.copy_(state["keys"])
        self._next = int(state["next"])


class MomentumCopy:
    """A frozen copy of a model that follows it slowly (He et al., 2020): copy <- m copy + (1 - m) model.

    Args:
        model: The model to copy, float32 or wider: in bf16 small steps would round to nothing.
        momentum: m in [0, 1]; 1.0, SSRA's choice, never moves.

    Attributes:
        model: The copy, in evaluation mode and without gradient.

    Raises:
        InputError: The momentum is not in [0, 1].
    """

    def __init__(self, model: nn.Module, momentum: float = 1.0) -> None:
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum is {momentum}; allowed is 0 to 1, where 1 never moves")
        self.momentum = momentum
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the copy towards `model`; buffers are taken over as they are."""
        if self.momentum == 1:
            return
        for own, other in zip(self.model.parameters(), model.parameters(), strict=True):
            own.lerp_(other, 1 - self.momentum)
        for buffer, current in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy's weights; one that never moves is what the model was at the start."""
        return {} if self.momentum == 1 else self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if self.momentum != 1:
            self.model.load_state_dict(state)
