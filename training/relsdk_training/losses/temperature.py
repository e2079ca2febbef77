"""A learned temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from relsdk.errors import InputError

__all__ = ["Temperature"]


class Temperature(nn.Module):
    """The temperature t of a contrastive loss, learned as log t.

    The logarithm keeps t positive and makes a step relative to its size. Each call first moves t back into
    [`lowest`, `highest`], a projected gradient step as in CLIP: clamping inside the graph would zero the
    gradient at the bound and leave t stuck there. Exclude it from weight decay, which would pull t to 1.

    Args:
        start: First value; 0.03 in SSRA.
        lowest: Lower bound; below it the loss sees only the hardest candidate.
        highest: Upper bound.

    Raises:
        InputError: Not 0 < lowest <= start <= highest.
    """

    def __init__(self, start: float = 0.03, lowest: float = 0.005, highest: float = 1.0) -> None:
        super().__init__()
        if not 0 < lowest <= start <= highest:
            raise InputError(
                f"temperature starts at {start} within [{lowest}, {highest}]; "
                "needed is 0 < lowest <= start <= highest"
            )
        self.bounds = (math.log(lowest), math.log(highest))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """Return t, a scalar tensor with gradient."""
        with torch.no_grad():
            self.log_temperature.clamp_(*self.bounds)
        return self.log_temperature.exp()
