"""Precision: bf16 where a device has it, fp32 elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from relsdk.runtime.hardware import cpu_features

__all__ = ["Autocast", "Precision", "autocast_for", "recompute_contexts", "resolve_precision"]

Precision = Literal["auto", "bf16", "fp32"]
Autocast = Callable[[], AbstractContextManager[None]]
# CPU features that bf16 products need; "bf16" is arm64's name.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def autocast_for(device: torch.device, precision: Precision) -> Autocast:
    """Return what to compute within: bf16 autocast, or nothing for fp32.

    On a CPU, attention stays in fp32 under bf16, too: the gradient of torch's bf16 kernel takes many
    times as long on short texts (torch 2.13).

    Not accelerate's own mixed precision, which a process can choose only once.

    Args:
        device: Where the model is.
        precision: "auto" takes bf16 where the hardware has it: emulated, it is some hundred times slower than
            fp32.
    """
    bf16 = resolve_precision(device, precision) == "bf16"
    if bf16 and device.type == "cpu":
        return _bf16_on_cpu
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """Return what "auto" is on a device: "bf16" or "fp32"."""
    if precision != "auto":
        return precision
    return "bf16" if _has_bf16(device) else "fp32"


def recompute_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return what torch's checkpoint computes within, first and again: it restores autocast by itself."""
    on_cpu = torch.is_autocast_enabled("cpu")
    return nullcontext(), _AttentionInFp32() if on_cpu else nullcontext()


@contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16), _AttentionInFp32():
        yield


class _AttentionInFp32(TorchFunctionMode):
    """Calls torch's attention, whoever asks for it, with fp32 tensors."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is not scaled_dot_product_attention:
            return function(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        with torch.autocast("cpu", enabled=False):
            output = function(*map(_to_fp32, args), **{name: _to_fp32(x) for name, x in kwargs.items()})
        return output.to(query.dtype)


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _has_bf16(device: torch.device, features: frozenset[str] | None = None) -> bool:
    """Whether a device multiplies bf16 in hardware.

    Args:
        device: A CPU or a GPU.
        features: CPU features; None reads this machine's.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_BF16 & (cpu_features() if features is None else features))
