"""Long documents split into passages, each with a vector, and which document each belongs to: `passages.npy`.

Shape letters: V vectors, N documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._npy import map_matrix, npy_header
from relsdk.records import Document

__all__ = ["PASSAGES_FILE", "load_passages", "save_passages", "split"]

PASSAGES_FILE = "passages.npy"
# A sentence with the marks that end it, a line, or what is left.
_SENTENCE = re.compile(r"[^。！？!?；;\n]*?(?:[。！？!?；;]+[”’\"'）)」』]*|\.(?=\s)|\n+|$)\s*")
# The end of a passage that the next one repeats, so that what stands across a border is found, too.
_OVERLAP = 0.2


def split(documents: Sequence[Document], characters: int) -> tuple[list[Document], NDArray[np.int64]]:
    """Split texts at the ends of sentences; each passage keeps its document's title.

    Args:
        documents: N.
        characters: A passage has at most so many, a longer sentence is cut; 0 does not split.

    Returns:
        V passages as documents to encode, and (V, 3): number of the document, first character and end in its
        text.
    """
    if not characters:
        spans = [(number, 0, len(document.text)) for number, document in enumerate(documents)]
        return list(documents), np.array(spans, dtype=np.int64).reshape(-1, 3)
    passages, spans = [], []
    for number, document in enumerate(documents):
        for start, end in _spans(document.text, characters):
            passages.append(replace(document, text=document.text[start:end]))
            spans.append((number, start, end))
    return passages, np.array(spans, dtype=np.int64).reshape(-1, 3)


def _spans(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """Yield where the passages of a text start and end: at least one."""
    sentences = list(_sentences(text, characters))
    if not sentences:
        yield 0, len(text)
    first = 0
    while first < len(sentences):
        start, last = sentences[first][0], first
        while last + 1 < len(sentences) and sentences[last + 1][1] - start <= characters:
            last += 1
        end = sentences[last][1]
        yield start, end
        if last + 1 == len(sentences):
            return
        following = last + 1
        while following - 1 > first and end - sentences[following - 1][0] <= _OVERLAP * characters:
            following -= 1
        first = following


def _sentences(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """Yield where sentences start and end; one that is too long is cut."""
    for found in _SENTENCE.finditer(text):
        start, end = found.span()
        for first in range(start, end, characters):
            last = min(first + characters, end)
            if text[first:last].strip():  # nothing is found by a passage of spaces
                yield first, last


def save_passages(folder: Path, passages: NDArray[np.int64]) -> None:
    """Write passages.

    Args:
        folder: Where.
        passages: (V, 3): document row, first character and end in its text; sorted by row, each row there.
    """
    content = npy_header("<i8", *passages.shape) + passages.astype("<i8").tobytes()
    (folder / PASSAGES_FILE).write_bytes(content)


def load_passages(folder: Path, rows: int, count: int) -> NDArray[np.int64]:
    """Map what `save_passages` wrote: (V, 3).

    Args:
        folder: Where.
        rows: V.
        count: N.

    Raises:
        IndexFolderError: They are damaged.
    """
    path = folder / PASSAGES_FILE
    passages: NDArray[np.int64] = map_matrix(path, "<i8", rows, 3)
    owners, starts, ends = passages.T
    steps = np.diff(owners, prepend=-1)
    in_order = bool(((steps == 0) | (steps == 1)).all()) and owners[0] == 0 and owners[-1] == count - 1
    if not in_order or (starts < 0).any() or (ends < starts).any():
        raise IndexFolderError(
            f"{path} is damaged: it must name the {count:,} documents in their order; build the index again"
        )
    return passages
