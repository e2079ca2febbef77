"""Round the weights of a product for every range that files hold them in.

Shape letters: K inner width, N output width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relsdk_export.int8._rounding import pass_errors, round_columns
from relsdk_export.int8._scaling import Scale
from relsdk_export.int8.activations import Activation

__all__ = ["RoundedProduct", "round_product"]


@dataclass(frozen=True, slots=True, eq=False)
class RoundedProduct:
    """Weights as integers.

    Attributes:
        values: (K, N) int8.
        columns: (N,) their scales.
        lost: (N,) what the moved range of the activation and the rounding take away from the mean product.
    """

    values: NDArray[np.int8]
    columns: NDArray[np.float32]
    lost: NDArray[np.float32]


def round_product(
    exact: NDArray[np.float32],
    statistics: Activation | None,
    scale: Scale | None,
    middle: NDArray[np.float32],
    ranges: Iterable[int],
) -> dict[int, RoundedProduct]:
    """Round weights to each range; what the ranges share is computed once.

    Args:
        exact: (K, N).
        statistics: What was measured of the activation that meets them; None rounds to the nearest.
        scale: The activation's.
        middle: (K,) what is taken off the activation.
        ranges: The largest magnitudes.
    """
    moved = middle @ exact  # (N,)
    if statistics is None or scale is None:
        nearest = ((largest, *round_columns(exact, largest)) for largest in ranges)
        return {largest: RoundedProduct(values, columns[0], moved) for largest, values, columns in nearest}
    weights = exact * scale.smooth[:, None]
    covariance = scale.covariance(statistics)
    passing = None if covariance is None else pass_errors(covariance)
    mean = (statistics.mean - middle) / scale.smooth
    products = {}
    for largest in ranges:
        values, columns = round_columns(weights, largest, passing)
        lost = moved + mean @ (weights - values * columns)
        products[largest] = RoundedProduct(values, columns[0], lost)
    return products
