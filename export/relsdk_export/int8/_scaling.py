"""Scale a measured activation before it is rounded.

Shape letters: B texts, T tokens, K channels of an activation, N columns of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relsdk_export.int8.activations import Activation

__all__ = ["Scale", "choose_scale"]

# How much of a channel's outliers moves into the weights; chosen on the dev split of KUAKE-QTR.
SMOOTHING = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """An activation x (B, T, K) becomes (x - middle) / (smooth * step).

    Attributes:
        middle: (K,) what is taken off each channel.
        smooth: (K,) factors by which channels shrink and weights grow.
        step: One integer step, where the scale is constant.
    """

    middle: NDArray[np.float32]
    smooth: NDArray[np.float32]
    step: float

    def covariance(self, activation: Activation) -> NDArray[np.float32] | None:
        """Return the covariance (K, K) of an activation as it meets the integer weights."""
        if activation.covariance is None:
            return None
        return activation.covariance / np.outer(self.smooth, self.smooth)


def choose_scale(
    activation: Activation, matrices: list[NDArray[np.float32]], middle: NDArray[np.float32]
) -> Scale:
    """Choose the scale for an activation and the matrices (K, N) that meet it.

    Args:
        activation: What was measured.
        matrices: At least one.
        middle: (K,) what is taken off each channel.
    """
    reach = np.maximum(activation.high - middle, middle - activation.low)
    smooth = _smoothing(reach, matrices)
    return Scale(middle, smooth, float((reach / smooth).max()) / 127.0)


def _smoothing(reach: NDArray[np.float32], matrices: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return (K,) factors by which channels shrink and weights grow; their geometric mean is 1.

    s_k = max|x_k| ** a / max|W_k| ** (1 - a) (Xiao et al. 2023, equation 4).
    """
    weights = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    factors = np.maximum(reach, 1e-5) ** SMOOTHING / np.maximum(weights, 1e-5) ** (1 - SMOOTHING)
    return np.asarray(factors / np.exp(np.log(factors).mean()), dtype=np.float32)
