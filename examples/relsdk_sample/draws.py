"""Random choices that come out the same on every platform and every Python version.

Only `random.Random.random()` is promised to repeat for a seed (documentation of `random`, "Notes on
Reproducibility"); `choice`, `shuffle` and numpy's generators may change, so everything here is built on it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Draws"]

Item = TypeVar("Item")


class Draws:
    """A seeded stream of choices.

    Args:
        seed: Any integer.
        stream: Name of the stream; streams of one seed are independent of each other.
    """

    def __init__(self, seed: int, stream: str) -> None:
        self._random = random.Random(f"{seed}/{stream}")

    def below(self, bound: int) -> int:
        """Return an integer in [0, bound)."""
        return int(self._random.random() * bound)

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one item, each equally likely."""
        return items[self.below(len(items))]

    def pick_early(self, items: Sequence[Item]) -> Item:
        """Return one item, the first ones more likely than the last (density 1 / (2 sqrt(position)))."""
        return items[int(self._random.random() ** 2 * len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return up to `count` different items in random order."""
        left = list(items)
        chosen: list[Item] = []
        while left and len(chosen) < count:
            chosen.append(left.pop(self.below(len(left))))
        return chosen
