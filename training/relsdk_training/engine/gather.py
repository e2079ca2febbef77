"""The global batch: rows of all processes, in the order of their ranks.

Shape letters: B rows of this process, W processes, D dimension.

Scaling: no factor is needed as long as the wanted loss is the mean over ranks of what the ranks compute: each
the loss of the whole gathered batch (all the same), or each the mean over its own rows against all.
`all_gather_with_gradient` sums the gradient over ranks and `average_gradients`, as DDP would, then averages
the parameters' gradients, which together is exactly the gradient of one process with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from relsdk.errors import InputError
from relsdk_training.engine.processes import exchange, is_distributed

__all__ = ["all_gather", "all_gather_with_gradient"]


def all_gather_with_gradient(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes; gradient flows back to the process each row came from.

    Args:
        rows: (B, ...) float, of one shape on every rank.

    Returns:
        (W * B, ...); `rows` itself outside torch.distributed.

    Raises:
        InputError: The ranks have different numbers of rows.
    """
    if not is_distributed():
        return rows
    # torch.distributed.nn.functional.all_gather is deprecated in favour of a private module.
    everyones: Tensor = _AllGather.apply(rows)  # type: ignore[no-untyped-call]
    return everyones


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate labels, keys and other rows without gradient; see `all_gather_with_gradient`."""
    rows = rows.detach()
    return _gather(rows) if is_distributed() else rows


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return _gather(rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        with exchange():
            distributed.all_reduce(total)  # not reduce-scatter: every backend has this one
        start = distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def _gather(rows: Tensor) -> Tensor:
    """Gather equal shares; unequal ones would hang or corrupt memory, so their sizes are compared first."""
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(distributed.get_world_size())]
    with exchange():
        distributed.all_gather(sizes, size)
        counts = [int(count) for count in sizes]
    if len(set(counts)) > 1:
        raise InputError(f"ranks hold {counts} rows; all must hold as many: drop or even out the last batch")
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in counts]
    with exchange():
        distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
