"""Stage 3: which pairs the encoder learns from, labelled ones first, written ones where a level lacks them.

Shape letters: L = 4 levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
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
from relsdk_training.ssra.job import LABELLED, WEAK, Job
from relsdk_training.ssra.pair_records import (
    Record,
    distinct,
    kept_pairs,
    key_of,
    labelled_key,
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
    opinions = {labelled_key(pair) for path in job.paths(WEAK) for pair in read_pairs(path)}
    unused = _write_balanced(
        job.folder, job.path(LABELLED), stages, settings, job.config.run.seed, opinions=opinions
    )
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
    levels: Sequence[int],
    is_labelled: Sequence[bool],
    shares: Sequence[float],
    size: int,
    seed: int,
    is_written: Sequence[bool] = (),
) -> NDArray[np.int64]:
    """Choose rows: every labelled pair, and of the others a random few of each level.

    What a language model wrote goes first: this run's own query model learned from it.

    Args:
        levels: (N,) level of each pair.
        is_labelled: (N,) whether it is a labelled one.
        shares: See `_level_counts`.
        size: See `_level_counts`.
        seed: Of the choice.
        is_written: (N,) whether a language model wrote it; none means no pair.

    Returns:
        Row numbers in rising order.
    """
    of, labelled = np.asarray(levels), np.asarray(is_labelled, dtype=bool)
    written = np.asarray(is_written, dtype=bool) if len(is_written) else np.zeros(len(of), dtype=bool)
    have = np.bincount(of[labelled], minlength=NUM_LEVELS)
    more = np.bincount(of[~labelled], minlength=NUM_LEVELS)
    wanted = _level_counts(have.tolist(), more.tolist(), shares, size)
    rng = np.random.default_rng(seed)
    chosen = [np.flatnonzero(labelled)]
    for level in range(NUM_LEVELS):
        rows = rng.permutation(np.flatnonzero(~labelled & (of == level)))
        rows = rows[np.argsort(~written[rows], kind="stable")]
        chosen.append(rows[: wanted[level] - have[level]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _write_balanced(
    work: Path,
    labelled: Path,
    stages: Sequence[Path],
    config: BalanceConfig,
    seed: int,
    *,
    opinions: Collection[tuple[str, str]] = (),
) -> list[int]:
    """Write the chosen pairs, as records in shards and as `pairs.jsonl` to train on.

    The records are read twice, once to choose and once to write: memory grows by a hash and a level for each.

    Args:
        work: Folder of the stage.
        labelled: File of the labelled pairs.
        stages: Those whose kept records fill up.
        config: Shares and size.
        seed: Of the choice.
        opinions: Pairs that a model graded, as `pair_key` gives them: the encoder learns its grade of them,
            so those of stages are left out.

    Returns:
        (L,) pairs of stages, of each level, that were not chosen.

    Raises:
        InputError: The shares are wrong, or a stage is damaged.
    """
    levels, sources = list[int](), list[str]()
    for record in _distinct_records(labelled, stages, opinions):
        levels.append(level_of(record) or 0)
        sources.append(record["source"])
    of = {name: [source == name for source in sources] for name in ("labelled", "written")}
    choice = _balanced_choice(levels, of["labelled"], config.shares, config.size, seed, of["written"])
    rows = set(choice.tolist())
    unused = Counter(level for row, level in enumerate(levels) if row not in rows)
    records = _distinct_records(labelled, stages, opinions)
    chosen = (record for row, record in enumerate(records) if row in rows)
    write_shards(work, "records", chosen, _SHARD)
    write_pairs(work / "pairs.jsonl", kept_pairs(work))
    return [unused[level] for level in range(NUM_LEVELS)]


def _distinct_records(
    labelled: Path, stages: Sequence[Path], opinions: Collection[tuple[str, str]]
) -> Iterator[Record]:
    """Yield the first record of each pair: labelled ones, then kept ones without an opinion."""
    return distinct(_records(labelled, stages, opinions), key_of)


def _records(
    labelled: Path, stages: Sequence[Path], opinions: Collection[tuple[str, str]]
) -> Iterator[Record]:
    for pair in read_pairs(labelled):
        document = {"id": pair.document.id, "title": pair.document.title, "text": pair.document.text}
        yield new_record(document, pair.query, wanted=int(pair.level), source="labelled")
    for stage in stages:
        kept = (record for record in read_records(stage) if record["kept"])
        yield from (record for record in kept if key_of(record) not in opinions) if opinions else kept
