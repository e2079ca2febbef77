"""Stage 3: which pairs the encoder learns from, labelled ones first, written ones where a level lacks them.

Shape letters: L = 4 levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import NUM_LEVELS
from relsdk_training.config.ssra import BalanceConfig, SsraConfig
from relsdk_training.ssra._shards import write_shards
from relsdk_training.ssra.job import LABELLED, Job
from relsdk_training.ssra.pair_records import (
    Record,
    distinct,
    kept_pairs,
    key_of,
    level_of,
    new_record,
    read_records,
)
from relsdk_training.ssra.stage_report import stage_report

__all__ = ["check", "identity", "work"]

# Records of a shard of the result.
_SHARD = 10_000
# From this share of unused pairs on, balance has thrown most of the work away.
_UNUSED = 0.5


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [asdict(config.balance), config.run.seed]


def check(config: SsraConfig) -> None:
    """Check the shares."""
    _normalise(config.balance.shares)


def work(job: Job) -> dict[str, Any]:
    """Put labelled, annotated and written pairs together in the wanted shares."""
    settings = job.config.balance
    stages = [*(job.paths("annotate") if settings.annotated else []), *job.paths("filter-*")]
    unused = _write_balanced(job.folder, job.path(LABELLED), stages, settings, job.config.run.seed)
    report = stage_report(read_records(job.folder))
    total = sum(unused) + report["total"] - sum(report["sources"].get("labelled", []))
    if sum(unused) > _UNUSED * total:
        job.on_note(
            f"{sum(unused):,} of {total:,} annotated and written pairs are not used, of levels 0-3 {unused}: "
            "the scarcest level decides how many keep balance.shares; set balance.size to take more, "
            "or other shares"
        )
    return {**report, "unused": unused}


def _level_counts(
    labelled: Sequence[int], available: Sequence[int], shares: Sequence[float], size: int
) -> NDArray[np.int64]:
    """Return how many pairs of each level the result has: (L,).

    All labelled pairs stay. Beyond them each level gets what its share of the size asks for, and no more than
    there is.

    Args:
        labelled: (L,) labelled pairs of each level.
        available: (L,) pairs of each level to fill up with.
        shares: (L,) of the result, above 0.
        size: Pairs wanted; 0 takes the largest that has the shares.

    Raises:
        InputError: The shares are not four numbers above 0.
    """
    wanted = _normalise(shares)
    have, more = np.asarray(labelled), np.asarray(available)
    total = size or int(((have + more) / wanted).min())
    return np.clip(np.rint(wanted * total).astype(np.int64), have, have + more)


def _normalise(shares: Sequence[float]) -> NDArray[np.float64]:
    """Return shares that sum to 1: (L,).

    Raises:
        InputError: They are not four numbers above 0.
    """
    wanted = np.asarray(shares, dtype=np.float64)
    if wanted.shape != (NUM_LEVELS,) or not ((wanted > 0) & np.isfinite(wanted)).all():
        raise InputError(f"balance.shares {list(shares)}; four numbers above 0 are needed")
    return np.asarray(wanted / wanted.sum())


def _balanced_choice(
    levels: Sequence[int], is_labelled: Sequence[bool], shares: Sequence[float], size: int, seed: int
) -> NDArray[np.int64]:
    """Choose rows: every labelled pair, and of the others a random few of each level.

    Args:
        levels: (N,) level of each pair.
        is_labelled: (N,) whether it is a labelled one.
        shares: See `_level_counts`.
        size: See `_level_counts`.
        seed: Of the choice.

    Returns:
        Row numbers in rising order.
    """
    of, labelled = np.asarray(levels), np.asarray(is_labelled, dtype=bool)
    have = np.bincount(of[labelled], minlength=NUM_LEVELS)
    more = np.bincount(of[~labelled], minlength=NUM_LEVELS)
    wanted = _level_counts(have.tolist(), more.tolist(), shares, size)
    rng = np.random.default_rng(seed)
    chosen = [np.flatnonzero(labelled)]
    for level in range(NUM_LEVELS):
        rows = np.flatnonzero(~labelled & (of == level))
        chosen.append(rng.permutation(rows)[: wanted[level] - have[level]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _write_balanced(
    work: Path, labelled: Path, stages: Sequence[Path], config: BalanceConfig, seed: int
) -> list[int]:
    """Write the chosen pairs, as records in shards and as `pairs.jsonl` to train on.

    The records are read twice, once to choose and once to write: memory grows by a hash and a level for each.

    Args:
        work: Folder of the stage.
        labelled: File of the labelled pairs.
        stages: Those whose kept records fill up.
        config: Shares and size.
        seed: Of the choice.

    Returns:
        (L,) pairs of stages, of each level, that were not chosen.

    Raises:
        InputError: The shares are wrong, or a stage is damaged.
    """
    levels, is_labelled = [], []
    for record in _distinct_records(labelled, stages):
        levels.append(level_of(record) or 0)
        is_labelled.append(record["source"] == "labelled")
    rows = set(_balanced_choice(levels, is_labelled, config.shares, config.size, seed).tolist())
    unused = Counter(level for row, level in enumerate(levels) if row not in rows)
    chosen = (record for row, record in enumerate(_distinct_records(labelled, stages)) if row in rows)
    write_shards(work, "records", chosen, _SHARD)
    write_pairs(work / "pairs.jsonl", kept_pairs(work))
    return [unused[level] for level in range(NUM_LEVELS)]


def _distinct_records(labelled: Path, stages: Sequence[Path]) -> Iterator[Record]:
    """Yield the first record of each pair: labelled ones, then those that stages kept."""
    return distinct(_records(labelled, stages), key_of)


def _records(labelled: Path, stages: Sequence[Path]) -> Iterator[Record]:
    for pair in read_pairs(labelled):
        document = {"id": pair.document.id, "title": pair.document.title, "text": pair.document.text}
        yield new_record(document, pair.query, wanted=int(pair.level), source="labelled")
    for stage in stages:
        yield from (record for record in read_records(stage) if record["kept"])
