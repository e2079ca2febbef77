"""What a model learns: labelled pairs, corrected opinions, written queries; and how much each counts.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk.records import LabelledPair
from relsdk_training.config.settings import DataConfig
from relsdk_training.data.opinions import Opinions, compare_opinions
from relsdk_training.data.pairs import PairArrays, check_leaks, load_pairs, pair_arrays, read_splits

__all__ = ["Lesson", "label_targets", "load_splits", "read_opinions"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """Pairs and what to say of them.

    Attributes:
        pairs: N pairs; where people gave no label, the most probable level of the target stands in for it.
        targets: (N, L) float32 probabilities of the levels; rows sum to 1.
        weights: (N,) float32, how much a pair counts; 1 of a labelled one.
        human: (N,) bool, whether people labelled it.
    """

    pairs: PairArrays
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    human: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, *, human: bool) -> NDArray[np.int64]:
        """Return the numbers of all pairs, or of those that people labelled."""
        return np.flatnonzero(self.human) if human else np.arange(len(self))


def label_targets(pairs: PairArrays) -> Lesson:
    """Return N labelled pairs with all probability on their labels: targets (N, L)."""
    targets = np.eye(NUM_LEVELS, dtype=np.float32)[pairs.labels]
    return Lesson(pairs, targets, np.ones(len(pairs), dtype=np.float32), np.ones(len(pairs), dtype=np.bool_))


@dataclass(frozen=True)
class _Splits:
    """What to learn, and pairs to decide on.

    Attributes:
        train: The lesson.
        dev: Labelled pairs; none where no file is named.
    """

    train: Lesson
    dev: PairArrays

    def content(self) -> list[Any]:
        """Return what the data is, in a JSON form, to tell it from other data."""
        content = [self.train.pairs.content(), self.dev.content()]
        if not self.train.human.all():  # of labelled pairs the labels say it all
            content.append(
                [self.train.targets.tolist(), self.train.weights.tolist(), self.train.human.tolist()]
            )
        return content


def load_splits(
    config: DataConfig,
    seed: int,
    on_note: Callable[[str], None] = lambda note: None,
    *,
    needs_dev: bool = True,
) -> _Splits:
    """Read what to learn and the pairs to decide on; see `read_splits`.

    Args:
        config: Names the files.
        seed: Of the thinning.
        on_note: Called with a line for people on each split.
        needs_dev: Whether there must be a file of pairs to decide on.

    Raises:
        InputError: See `read_splits` and `read_opinions`.
    """
    has_more = bool(config.weak or config.written)
    optional = [name for name, may in (("train", has_more), ("dev", not needs_dev)) if may]
    splits = read_splits(config, seed, optional=optional)
    labelled, dev = splits.get("train", []), splits.get("dev", [])
    opinions, written = read_opinions(config, splits)
    lesson = _lesson(config, labelled, opinions.pairs, written, opinions.confusion())
    if labelled or not has_more:
        on_note(f"train: {pair_arrays(labelled).describe()}")
    if config.weak:
        on_note(f"weak:  {opinions.describe()}")
    if config.written:
        on_note(f"written: {pair_arrays(written).describe()}")
    decides = pair_arrays(dev)
    on_note(
        f"dev:   {decides.describe() if dev else 'none; nothing is measured, and the last step is best/'}"
    )
    return _Splits(lesson, decides)


def read_opinions(
    config: DataConfig, splits: Mapping[str, Sequence[LabelledPair]]
) -> tuple[Opinions, list[LabelledPair]]:
    """Read what a model said.

    Args:
        config: Names the files.
        splits: Of `read_splits`.

    Returns:
        Opinions, compared with the labels of train and dev; and pairs whose query was written for the level.

    Raises:
        InputError: A file is bad; a setting would do nothing; or a query of dev or test is in a file of
            `weak` or `written`, and with it no pair of dev that people labelled.
    """
    _check_settings(config)
    weak, written = _read(config.weak), _read(config.written)
    opinions = compare_opinions(weak, [*splits.get("train", []), *splits.get("dev", [])])
    for name, pairs in (("weak", opinions.pairs), ("written", written)):
        for held_out in ("dev", "test"):
            check_leaks(name, pairs, held_out, splits.get(held_out, []))
    return opinions, written


def _check_settings(config: DataConfig) -> None:
    """Raise `InputError` if a setting of weak and written pairs would do nothing."""
    for name in ("weak", "written"):
        weight = getattr(config, f"{name}_weight")
        if weight != 1 and not getattr(config, name):
            raise InputError(f"data.{name}_weight={weight} would do nothing; name files in data.{name}")
    files = [os.path.realpath(path) for path in (*config.weak, *config.written)]
    if twice := [path for path in files if files.count(path) > 1]:
        raise InputError(
            f"{twice[0]} is named twice in data.weak and data.written, and would count twice; name it once, "
            "or raise data.weak_weight or data.written_weight"
        )
    if config.human_last and not (config.weak or config.written):
        raise InputError(
            f"data.human_last={config.human_last} would do nothing: all pairs are of data.train; name files "
            "in data.weak or data.written"
        )
    if config.human_last and not config.train:
        raise InputError(
            f"data.human_last={config.human_last} needs pairs that people labelled; name a file in data.train"
        )


def _read(paths: tuple[str, ...]) -> list[LabelledPair]:
    """Read files of what a model said; its labels are levels."""
    return [pair for path in paths for pair in load_pairs(path)]


def _lesson(
    config: DataConfig,
    labelled: list[LabelledPair],
    weak: list[LabelledPair],
    written: list[LabelledPair],
    confusion: NDArray[np.float64] | None,
) -> Lesson:
    """Return labelled pairs, then opinions, corrected by a confusion (L, L), then written ones.

    Raises:
        InputError: There is nothing to learn.
    """
    lesson = label_targets(pair_arrays([*labelled, *weak, *written]))
    if not len(lesson):
        raise InputError("every pair of data.weak is one of data.dev; there is nothing to learn from")
    opinions = slice(len(labelled), len(labelled) + len(weak))
    if confusion is not None:
        lesson.targets[opinions] = confusion[lesson.pairs.labels[opinions]]
        lesson.pairs.labels[opinions] = lesson.targets[opinions].argmax(axis=1)
    lesson.weights[opinions] = config.weak_weight
    lesson.weights[opinions.stop :] = config.written_weight
    lesson.human[len(labelled) :] = False
    return lesson
