"""The vectors that a student learns, computed once: a run that goes on does not compute them again.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relsdk.folders import json_sha256
from relsdk.tokenizer import TextTokenizer, TokenizedTexts
from relsdk_training.encoder import TextEncoder
from relsdk_training.errors import TrainingError
from relsdk_training.measures import embed_tokens
from relsdk_training.processes import is_first

__all__ = ["teacher_vectors"]

_SHARD = 8192


def teacher_vectors(
    teacher: TextEncoder,
    tokenizer: TextTokenizer,
    tokens: TokenizedTexts,
    folder: Path,
    identity: str,
    *,
    device: torch.device,
    on_note: Callable[[str], None] = lambda note: None,
) -> NDArray[np.float32]:
    """Embed texts shard by shard, and keep each shard; those that are there are read.

    Args:
        teacher: Embeds.
        tokenizer: Pads.
        tokens: Of N texts.
        folder: For the shards; made when it is not there.
        identity: Of the teacher's weights and precision: a shard of another one is not read.
        device: Where the teacher is.
        on_note: Called with a line for people after each shard.

    Returns:
        (N, D) float32, not normalised.

    Raises:
        TrainingError: A shard cannot be written.
    """
    found = np.empty((len(tokens.ids), teacher.settings.dimension), dtype=np.float32)
    for start, shard in _shards(tokens):
        rows = slice(start, start + len(shard.ids))
        path = folder / f"{json_sha256([identity, shard.ids])[:32]}.npy"
        vectors = _read(path, found[rows].shape)
        if vectors is None:
            vectors = embed_tokens(teacher, tokenizer, shard, device=device)
            if is_first():
                _write(path, vectors)
        found[rows] = vectors
        on_note(f"teacher: {rows.stop:,} of {len(found):,} texts")
    return found


def _shards(tokens: TokenizedTexts) -> Iterator[tuple[int, TokenizedTexts]]:
    """Yield where each shard starts, and its texts."""
    for start in range(0, len(tokens.ids), _SHARD):
        part = slice(start, start + _SHARD)
        yield start, TokenizedTexts(tokens.ids[part], tokens.type_ids[part], truncated=[])


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return a shard; None where there is none, or a damaged one."""
    try:
        vectors: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _write(path: Path, vectors: NDArray[np.float32]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, vectors)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}; make room and go on with --resume"
        ) from error
