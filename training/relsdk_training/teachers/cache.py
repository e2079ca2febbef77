"""Outputs of teachers, kept in a run's folder: a resume does not compute them again.

Shape letters: N texts or pairs, C numbers of each.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import TrainingError
from relsdk.files.atomic import replaced_file
from relsdk.files.folders import json_sha256
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk_training.engine.processes import gather_values, is_first, rank, value_of, world_size

__all__ = ["TEACHER_FOLDER", "forget_teachers", "teacher_outputs"]

# Of a run: what it keeps until it has ended.
TEACHER_FOLDER = "teacher"
_SHARD = 8192


def teacher_outputs(
    make: Callable[[TokenizedTexts], NDArray[np.float32]],
    width: int,
    tokens: TokenizedTexts,
    folder: Path,
    identity: str,
    *,
    on_note: Callable[[str], None] = lambda note: None,
) -> NDArray[np.float32]:
    """Let a teacher read texts shard by shard, and keep each shard for a resume.

    Processes of `torchrun` read a shard each and tell the others; the first one keeps them.

    Args:
        make: Turns n texts into (n, C) float32.
        width: C.
        tokens: Of N texts.
        folder: For the shards; made when it is not there.
        identity: Of the teacher's weights and precision: a shard of another one is not read.
        on_note: Called with a line for people after each shard.

    Returns:
        (N, C) float32.

    Raises:
        TrainingError: A shard cannot be written.
    """
    outputs = np.empty((len(tokens.ids), width), dtype=np.float32)
    shards = list(_shards(tokens))
    for at in range(0, len(shards), world_size()):
        round_ = shards[at : at + world_size()]
        paths = [folder / f"{json_sha256([identity, shard.ids])[:32]}.npy" for _, shard in round_]
        kept = [_read(path, (len(shard.ids), width)) for path, (_, shard) in zip(paths, round_, strict=True)]
        kept = value_of(0, kept)
        own = rank() < len(round_) and kept[rank()] is None
        computed = gather_values(make(round_[rank()][1]) if own else None)
        for (start, shard), path, before, now in zip(round_, paths, kept, computed, strict=False):
            rows = slice(start, start + len(shard.ids))
            if now is not None and is_first():
                _write(path, now)
            outputs[rows] = now if before is None else before
            on_note(f"teacher: {rows.stop:,} of {len(outputs):,} texts")
    return outputs


def forget_teachers(run: Path) -> None:
    """Remove what a run kept of its teachers."""
    if is_first():
        shutil.rmtree(run / TEACHER_FOLDER, ignore_errors=True)


def _shards(tokens: TokenizedTexts) -> Iterator[tuple[int, TokenizedTexts]]:
    """Yield where each shard starts, and its texts."""
    for start in range(0, len(tokens.ids), _SHARD):
        part = slice(start, start + _SHARD)
        yield start, TokenizedTexts(tokens.ids[part], tokens.type_ids[part], truncated=[])


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return a shard; None where there is none, or a damaged one."""
    try:
        outputs: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return outputs if outputs.shape == shape and outputs.dtype == np.float32 else None


def _write(path: Path, outputs: NDArray[np.float32]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as stream:
            np.save(stream, outputs)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}; make room and go on with --resume"
        ) from error
