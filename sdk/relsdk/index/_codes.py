"""The file of vectors in 8 bits a number: `codes.npy`, and the scale of each row: `scales.npy`.

Shape letters: V vectors, D dimension.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._npy import map_matrix, npy_header
from relsdk.index.flat import Codes, encode_int8

__all__ = ["CODES_FILE", "CODE_FILES", "check_codes", "load_codes", "write_codes"]

CODES_FILE, _SCALES_FILE = "codes.npy", "scales.npy"
CODE_FILES = (CODES_FILE, _SCALES_FILE)
_BLOCK = 16_384


def write_codes(folder: Path, vectors: NDArray[np.float32]) -> None:
    """Write vectors (V, D) in 8 bits, block by block."""
    with (folder / CODES_FILE).open("xb") as numbers, (folder / _SCALES_FILE).open("xb") as scales:
        numbers.write(npy_header("|i1", *vectors.shape))
        scales.write(npy_header("<f4", len(vectors), 1))
        for start in range(0, len(vectors), _BLOCK):
            codes, steps = encode_int8(vectors[start : start + _BLOCK])
            numbers.write(codes.tobytes())
            scales.write(steps.astype("<f4").tobytes())


def load_codes(folder: Path, rows: int, dimension: int) -> Codes:
    """Map what `write_codes` wrote.

    Args:
        folder: Of the segment.
        rows: V.
        dimension: D.

    Raises:
        IndexFolderError: A file is missing or damaged.
    """
    numbers, scales = _map(folder, rows, dimension)
    # A row of length 1 has no number above 1.
    if not (scales.min(initial=1.0) > 0 and scales.max(initial=0.0) <= 1.1 / 127):  # NaN, too
        raise IndexFolderError(f"{folder / _SCALES_FILE} is damaged; build the index again")
    return Codes(numbers, scales)


def check_codes(folder: Path, vectors: NDArray[np.float32]) -> bool:
    """Tell whether the files hold what `write_codes` would write for vectors (V, D)."""
    numbers, scales = _map(folder, *vectors.shape)
    for start in range(0, len(vectors), _BLOCK):
        with np.errstate(all="ignore"):  # damaged vectors have other codes, or are told elsewhere
            codes, steps = encode_int8(vectors[start : start + _BLOCK])
        stop = start + len(codes)
        if not (np.array_equal(codes, numbers[start:stop]) and np.array_equal(steps, scales[start:stop])):
            return False
    return True


def _map(folder: Path, rows: int, dimension: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    numbers = map_matrix(folder / CODES_FILE, "|i1", rows, dimension)
    return numbers, map_matrix(folder / _SCALES_FILE, "<f4", rows, 1)[:, 0]
