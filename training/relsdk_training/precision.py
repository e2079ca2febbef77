"""Which numbers a device computes with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

import torch

from relsdk.hardware import cpu_features

__all__ = ["Autocast", "Precision", "autocast_for", "has_bf16"]

Precision = Literal["auto", "bf16", "fp32"]
Autocast = Callable[[], AbstractContextManager[None]]
# CPU features that bf16 products need; "bf16" is arm64's name.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def autocast_for(device: torch.device, precision: Precision) -> Autocast:
    """Return what to compute within: bf16 autocast, or nothing for fp32.

    Not accelerate's own mixed precision, which a process can choose only once.

    Args:
        device: Where the model is.
        precision: "auto" takes bf16 where the hardware has it: emulated, it is some hundred times slower than
            fp32.
    """
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)


def has_bf16(device: torch.device, features: frozenset[str] | None = None) -> bool:
    """Whether a device multiplies bf16 in hardware.

    Args:
        device: A CPU or a GPU.
        features: CPU features; None reads this machine's.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_BF16 & (cpu_features() if features is None else features))
