"""Labelled pairs in memory, ready to train on: read, checked for leaks, thinned out.

Shape letters: N pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.levels import RelevanceLevel
from relsdk.records import LabelledPair
from relsdk_training.config.settings import DataConfig
from relsdk_training.data.node_files import read_rows
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.engine.processes import together

__all__ = [
    "PairArrays",
    "check_dev",
    "check_leaks",
    "held_out_queries",
    "load_pairs",
    "pair_arrays",
    "read_splits",
]

# Fields that relsdk judge writes beside its label.
_OF_A_JUDGE = frozenset({"probabilities", "reason"})


def load_pairs(path: str, label_map: Sequence[int] = ()) -> list[LabelledPair]:
    """Read a file of labelled pairs.

    Args:
        path: Any format of `relsdk.formats`; see `read_rows` for `{node}`.
        label_map: The level of each of the file's labels; empty when they are levels.

    Raises:
        InputError: The file is missing, empty or has a bad row, which is named.
        TrainingError: Another process of `torchrun` cannot read it.
    """
    with together():
        pairs = list(read_rows(path, partial(read_pairs, label_map=dict(enumerate(label_map)) or None)))
    if not pairs:
        raise InputError(f"{path} holds no pairs")
    return pairs


def read_splits(
    config: DataConfig, seed: int, *, optional: Sequence[str] = ()
) -> dict[str, list[LabelledPair]]:
    """Read the files, check that they share no query, thin out rare levels of train, cut it to its limit.

    Args:
        config: Names "train" and "dev", and perhaps "test".
        seed: Of the thinning.
        optional: Which of "train" and "dev" may be left out.

    Returns:
        The pairs of each split that is named.

    Raises:
        InputError: A file is not named, missing or bad, holds grades of `relsdk judge`, or a query leaks from
            one split into another.
    """
    splits = {}
    for name in ("train", "dev", "test"):
        path = getattr(config, name)
        if path:
            splits[name] = load_pairs(path, config.label_map)
            _check_human(name, path, splits[name])
        elif name not in (*optional, "test"):
            raise InputError(
                f"data.{name} names no file; set it in the configuration or with --set data.{name}=FILE"
            )
    for one, other in itertools.combinations(splits, 2):
        check_leaks(one, splits[one], other, splits[other])
    train = splits.get("train", [])
    if config.rare_share:
        train = _thin_out(train, config.rare_levels, config.rare_share, seed)
    return {**splits, "train": train[: config.limit] if config.limit else train}


def _check_human(name: str, path: str, pairs: Iterable[LabelledPair]) -> None:
    """Raise `InputError` if a judge gave the labels: they would be learned, or measured with, as people's."""
    if any(pair.document.metadata.keys() >= _OF_A_JUDGE for pair in pairs):
        raise InputError(
            f"data.{name}: {path} holds grades of relsdk judge, and people's labels are wanted; name it in "
            "data.weak, or, if people corrected them, remove the fields probabilities and reason"
        )


def check_leaks(one: str, pairs: Iterable[LabelledPair], other: str, others: Iterable[LabelledPair]) -> None:
    """Check that no query is in two splits, up to case, width and spaces.

    Args:
        one: Name of a split.
        pairs: Its pairs.
        other: Name of another one.
        others: The pairs of that.

    Raises:
        InputError: A query leaks; the message counts and shows them.
    """
    queries = {normal_form(pair.query) for pair in pairs}
    common = {same: pair.query for pair in others if (same := normal_form(pair.query)) in queries}
    if common:
        shown = ", ".join(repr(common[same]) for same in sorted(common)[:3])
        raise InputError(
            f"{len(common)} queries are both in {one} and in {other} ({shown}); what was trained on "
            "cannot be measured on: split by query"
        )


def _thin_out(
    pairs: Sequence[LabelledPair], levels: Sequence[int], share: float, seed: int
) -> list[LabelledPair]:
    """Drop pairs of some levels at random until they are a share of what is left.

    Args:
        pairs: Labelled pairs.
        levels: The levels to thin out.
        share: What they shall be together, in (0, 1).
        seed: Of the choice.

    Returns:
        The pairs that stay, in their order. Levels that are rarer already stay whole.

    Raises:
        InputError: The share is not between 0 and 1.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"share={share}; a number between 0 and 1 is needed")
    rare = [row for row, pair in enumerate(pairs) if int(pair.level) in levels]
    others = len(pairs) - len(rare)
    wanted = round(share / (1.0 - share) * others)
    kept = set(np.random.default_rng(seed).permutation(rare)[:wanted].tolist())
    return [pair for row, pair in enumerate(pairs) if int(pair.level) not in levels or row in kept]


@dataclass(frozen=True, eq=False)
class PairArrays:
    """N pairs as texts and numbers; equal texts share a number.

    Attributes:
        queries: The Q distinct queries.
        documents: The D distinct document texts.
        query_of: (N,) row in `queries`.
        document_of: (N,) row in `documents`.
        labels: (N,) levels 0-3.
    """

    queries: list[str]
    documents: list[str]
    query_of: NDArray[np.int64]
    document_of: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def texts(self) -> list[tuple[str, str]]:
        """Return the query and the document text of each pair."""
        rows = zip(self.query_of, self.document_of, strict=True)
        return [(self.queries[query], self.documents[document]) for query, document in rows]

    def content(self) -> list[Any]:
        """Return what the pairs are, in a JSON form, to tell them from others."""
        numbers = (self.query_of, self.document_of, self.labels)
        return [self.queries, self.documents, *(values.tolist() for values in numbers)]

    def describe(self) -> str:
        """Say how many pairs there are, of which levels."""
        counts = ", ".join(f"{level}: {n:,}" for level, n in enumerate(np.bincount(self.labels, minlength=4)))
        return (
            f"{len(self):,} pairs (levels {counts}), {len(self.queries):,} queries, "
            f"{len(self.documents):,} documents"
        )


def pair_arrays(pairs: Sequence[LabelledPair]) -> PairArrays:
    """Turn labelled pairs into arrays."""
    queries: dict[str, int] = {}
    documents: dict[str, int] = {}
    query_of = [queries.setdefault(pair.query, len(queries)) for pair in pairs]
    texts = (document_text(pair.document) for pair in pairs)
    document_of = [documents.setdefault(text, len(documents)) for text in texts]
    return PairArrays(
        list(queries),
        list(documents),
        np.array(query_of, dtype=np.int64),
        np.array(document_of, dtype=np.int64),
        np.array([int(pair.level) for pair in pairs], dtype=np.int64),
    )


def check_dev(dev: PairArrays) -> None:
    """Check that mean AP is defined on dev: otherwise no checkpoint would ever be the best.

    Raises:
        InputError: No pair has the highest level.
    """
    if not (dev.labels == RelevanceLevel.FULL).any():
        raise InputError(
            f"dev has no pair of level {RelevanceLevel.FULL:d}, so mean AP, which decides what checkpoint is "
            f"best, is not defined: {dev.describe()}; labels of fewer levels become levels with "
            "data.label_map, such as [0, 1, 3] for labels 0, 1, 2"
        )


def held_out_queries(config: DataConfig, dev: PairArrays) -> list[str]:
    """Return the queries of dev and of test, which nothing may be learned of."""
    test = load_pairs(config.test, config.label_map) if config.test else []
    return [*dev.queries, *(pair.query for pair in test)]
