"""The vectors of one generation, `vectors.npy`: streamed out, memory-mapped in.

Shape letters: N documents, D dimension.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError, InputError
from relsdk.index.storage import writing

__all__ = ["UNIT_TOLERANCE", "VECTORS_FILE", "VectorWriter", "check_vectors", "map_vectors"]

VECTORS_FILE = "vectors.npy"
UNIT_TOLERANCE = 1e-2
# NPY format 1.0: magic, version, length of the text, text padded with spaces. N is known last, so the header
# has a fixed size and is written again at the end.
_HEADER_BYTES = 128


class VectorWriter:
    """Writes an NPY file of float32 rows whose number is not known in advance.

    Raises:
        RelsdkError: From every method, when the file system refuses.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._dimension = dimension
        self._count = 0
        with writing(path):
            self._file = path.open("xb")

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(OSError):  # the first error counts
                self._file.close()
            return
        with writing(self._path), self._file:
            self._file.seek(0)
            self._file.write(_header(self._count, self._dimension))

    def put(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Write vectors (n, D) to their rows, at the end or over earlier ones; the end must leave no gap."""
        data = np.ascontiguousarray(vectors, dtype="<f4")
        starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)  # of the runs of adjacent rows
        with writing(self._path):
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                self._file.seek(_HEADER_BYTES + int(rows[start]) * 4 * self._dimension)
                self._file.write(data[start:stop].tobytes())
        self._count = max(self._count, int(rows.max()) + 1)


def check_vectors(vectors: NDArray[np.float32], place: str, remedy: str) -> None:
    """Refuse rows that are not finite unit vectors.

    Args:
        vectors: (n, D).
        place: What they are, for the message.
        remedy: What to do, for the message.

    Raises:
        InputError: A row is not finite, or its length is off by more than `UNIT_TOLERANCE`.
    """
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InputError(f"{place}: vector {row} holds NaN or infinity; {remedy}")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(np.abs(lengths - 1.0) > UNIT_TOLERANCE)
    if len(wrong):
        raise InputError(
            f"{place}: vector {wrong[0]} has length {lengths[wrong[0]]:.4g}, length 1 is needed; {remedy}"
        )


def map_vectors(path: Path, count: int, dimension: int) -> NDArray[np.float32]:
    """Map an NPY file into memory, read-only.

    Raises:
        IndexFolderError: It is missing, no NPY file, or not (count, dimension) float32.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise IndexFolderError(f"cannot read {path} ({error}); build the index again") from error
    fits = isinstance(mapped, np.memmap) and mapped.shape == (count, dimension) and mapped.flags.c_contiguous
    if not fits or mapped.dtype != np.dtype("<f4"):
        raise IndexFolderError(
            f"{path} holds {getattr(mapped, 'dtype', '?')} {getattr(mapped, 'shape', '?')}; the manifest "
            f"says float32 {(count, dimension)}; build the index again"
        )
    return np.asarray(mapped)


def _header(count: int, dimension: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimension}), }}"
    size = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + text.encode().ljust(size - 1) + b"\n"
