"""What a model's grades are worth, by the pairs that people graded too.

A model that grades pairs has habits, as an annotator has (Dawid and Skene, 1979): it may call half of
people's 0 a 1. Where it graded pairs that people labelled, its habits can be counted, and each opinion
becomes what people say of pairs with that opinion: a distribution over levels instead of one level.

The pairs that are graded twice should be drawn as the others are: P(human level | opinion) depends on how
frequent the levels are.

Shape letters: T pairs graded twice, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.levels import NUM_LEVELS
from relsdk.metrics import accuracy, quadratic_weighted_kappa
from relsdk.records import LabelledPair
from relsdk_training.data.text import document_text, normal_form

__all__ = ["Opinions", "compare_opinions", "confusion_matrix"]

# Of the smoothing, in pairs: as much as one pair of each level.
_STRENGTH = 4.0
# Pairs graded twice. From so many on, rows are nearer to the true P(human level | opinion) than opinions are
# that are right in up to 80 %: simulated, the squared distances are 0.06 and, at 60 %, 0.28 to 0.50; at 80 %,
# 0.08 to 0.18. From 20 pairs on they would be for opinions that are right in up to 70 %.
_NEEDED = 40


@dataclass(frozen=True, eq=False)
class Opinions:
    """Pairs that a model graded.

    Attributes:
        pairs: Those that nobody else labelled.
        twice: The T pairs that people labelled too, with the model's grade.
        opinions: (T,) int64 the model's level of each of them.
        labels: (T,) int64 human level.
    """

    pairs: list[LabelledPair]
    twice: list[LabelledPair]
    opinions: NDArray[np.int64]
    labels: NDArray[np.int64]

    def confusion(self) -> NDArray[np.float64] | None:
        """Return P(human level | opinion), see `confusion_matrix`; None of too few pairs."""
        return confusion_matrix(self.opinions, self.labels) if len(self.labels) >= _NEEDED else None

    def to_dict(self) -> dict[str, Any]:
        """Return in a JSON form how many opinions there are, of which levels, and what they are worth."""
        confusion = self.confusion()
        levels = np.array([int(pair.level) for pair in self.pairs], dtype=np.int64)
        return {
            "levels": np.bincount(levels, minlength=NUM_LEVELS).tolist(),
            "graded_by_people_too": len(self.labels),
            "confusion": None if confusion is None else confusion.round(4).tolist(),
            "told": self.describe(),
        }

    def describe(self) -> str:
        """Say how many opinions there are, how many people gave too, and how far both agree."""
        text, twice = f"{len(self.pairs):,} opinions", len(self.labels)
        if twice < _NEEDED:
            return (
                f"{text}, taken as they are: {twice} pairs were graded by both the model and people, and "
                f"{_NEEDED} are needed to correct it"
            )
        diagonal = ", ".join(
            f"{share:.2f}" for share in confusion_matrix(self.opinions, self.labels).diagonal()
        )
        return (
            f"{text}, corrected by {twice:,} pairs that people graded too: agreement "
            f"{accuracy(self.labels, self.opinions):.1%}, quadratic kappa "
            f"{quadratic_weighted_kappa(self.labels, self.opinions):.2f}; P(people say the same) of opinions "
            f"0-3: {diagonal}"
        )


def compare_opinions(weak: Iterable[LabelledPair], labelled: Iterable[LabelledPair]) -> Opinions:
    """Take the pairs that people labelled too out of those that a model graded.

    Two pairs are the same if their documents' texts are equal, and their queries up to case, width, spaces.

    Args:
        weak: Pairs with the model's grade.
        labelled: Pairs with a human label.

    Returns:
        The others in their order, and both grades of those taken out. An opinion that is repeated counts
        once; of two human labels of a pair, the first.
    """
    human: dict[tuple[str, str], int] = {}
    for pair in labelled:
        human.setdefault(_key(pair), int(pair.level))
    alone: dict[tuple[tuple[str, str], int], LabelledPair] = {}
    twice: dict[tuple[tuple[str, str], int], LabelledPair] = {}
    for pair in weak:
        key = _key(pair)
        (twice if key in human else alone).setdefault((key, int(pair.level)), pair)
    opinions = np.array([opinion for _, opinion in twice], dtype=np.int64)
    labels = np.array([human[key] for key, _ in twice], dtype=np.int64)
    return Opinions(list(alone.values()), list(twice.values()), opinions, labels)


def confusion_matrix(opinions: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Estimate how human levels are distributed where a model has an opinion.

        P(l | o) = (n_ol + a p_l) / (n_o + a),   p_l = n_l / T,   a = 4

    n_ol pairs have opinion o and human level l. A Dirichlet prior of the human levels' own frequencies
    smooths the rows: an opinion that was never compared says no more than those.

    Args:
        opinions: (T,) the model's levels 0-3, T at least 1.
        labels: (T,) the human levels.

    Returns:
        (L, L) float64: a row for each opinion, a column for each human level; rows sum to 1.
    """
    counts = np.zeros((NUM_LEVELS, NUM_LEVELS))
    np.add.at(counts, (np.asarray(opinions), np.asarray(labels)), 1)
    prior = counts.sum(axis=0) / counts.sum()
    smoothed = counts + _STRENGTH * prior  # (L, L)
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True), dtype=np.float64)


def _key(pair: LabelledPair) -> tuple[str, str]:
    return normal_form(pair.query), document_text(pair.document)
