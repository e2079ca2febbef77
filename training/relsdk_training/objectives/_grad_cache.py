"""Large contrastive batches in little memory.

Shape letters: B rows, T tokens, D dimension.

GradCache (Gao et al., 2021) encodes a batch in chunks without a graph, and once more with one to push each
chunk's gradient through. Checkpointing each chunk is the same two forward passes and the same gradient, with
torch keeping the books: dropout masks and autocast are replayed, and the loss stays an ordinary tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from relsdk.errors import InputError
from relsdk_training.engine.precision import recompute_contexts

__all__ = ["encode_in_chunks"]


def encode_in_chunks(
    encode: Callable[[dict[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    chunk_rows: int,
    *,
    keep_activations: bool = False,
) -> Tensor:
    """Encode a batch, keeping one chunk's activations at a time for the backward pass.

    Rows are sorted by length inside and each chunk drops the columns that are padding in all its rows, on the
    right. Under DDP wrap the module that calls this function, not `encode`, which runs again in backward.

    Args:
        encode: Turns the inputs of a chunk into embeddings (rows, D).
        inputs: Tensors (B, T) or (B,); "attention_mask" (B, T) is 1 on tokens and 0 on padding.
        chunk_rows: Rows encoded at once.
        keep_activations: Keep those of all chunks: nothing is computed twice, and memory is that of the whole
            batch without most of its padding.

    Returns:
        (B, D) in the order of the inputs, with gradient where grad mode is on.

    Raises:
        InputError: `chunk_rows` is below 1, there are no rows or there is no attention mask.
    """
    mask = inputs.get("attention_mask")
    if chunk_rows < 1 or mask is None or len(mask) == 0:
        raise InputError(
            f"got inputs {sorted(inputs)} and chunks of {chunk_rows}; "
            "needed are an attention_mask with rows and chunks of at least 1"
        )
    # The column of the last token and not the number of tokens: a mask may have holes.
    columns = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask.ne(0) * columns).amax(dim=1)  # (B,)
    order = lengths.argsort(
        descending=True, stable=True
    )  # the largest chunk first: memory runs out early or never
    longest = lengths[order[::chunk_rows]].clamp(min=1).tolist()
    chunks = [
        _take(inputs, rows, mask.shape[1], int(columns))
        for rows, columns in zip(torch.split(order, chunk_rows), longest, strict=True)
    ]
    parts = [
        encode(chunk)
        if keep_activations
        else checkpoint(encode, chunk, use_reentrant=False, context_fn=recompute_contexts)
        for chunk in chunks
    ]
    return torch.cat(parts)[order.argsort()]  # (B, D)


def _take(inputs: Mapping[str, Tensor], rows: Tensor, width: int, columns: int) -> dict[str, Tensor]:
    """Select rows of every input and the first columns of those that are `width` tokens wide."""
    return {
        name: tensor[rows, :columns] if tensor.dim() > 1 and tensor.shape[1] == width else tensor[rows]
        for name, tensor in inputs.items()
    }
