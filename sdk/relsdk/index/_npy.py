"""NPY files as this package writes them: one header, byte for byte, and nothing else is read.

numpy's own reader takes whatever a header declares, and a damaged one leads it to many errors of Python. Our
header follows from the kind of number, the rows and the columns, so it is compared, not interpreted.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError

__all__ = ["HEADER_BYTES", "map_matrix", "npy_header"]

# NPY format 1.0: magic, version, length of the text, text padded with spaces.
HEADER_BYTES = 128


def npy_header(dtype: str, rows: int, columns: int) -> bytes:
    """Return the header of a matrix in C order; `numpy.save` writes the same bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    size = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + text.encode().ljust(size - 1) + b"\n"


def map_matrix(path: Path, dtype: str, rows: int | None, columns: int) -> NDArray[Any]:
    """Map a matrix into memory, read-only.

    Args:
        path: The NPY file.
        dtype: As the header has it, such as "<f4".
        rows: How many; None takes what the size of the file says.
        columns: How many.

    Raises:
        IndexFolderError: It is missing, no NPY file, or holds another matrix.
    """
    item = np.dtype(dtype).itemsize * columns
    try:
        size = path.stat().st_size
        if rows is None:
            rows = max(size - HEADER_BYTES, 0) // item
        if size != HEADER_BYTES + rows * item:
            raise IndexFolderError(
                f"{path} has {size:,} bytes, {HEADER_BYTES + rows * item:,} are needed for {dtype} "
                f"{(rows, columns)}; build the index again"
            )
        with path.open("rb") as stream:
            header = stream.read(HEADER_BYTES)
        if header != npy_header(dtype, rows, columns):
            raise IndexFolderError(
                f"{path} does not begin as a matrix of {dtype} {(rows, columns)} does; build the index again"
            )
        # A view that is no np.memmap: its methods are faster.
        return np.asarray(np.memmap(path, dtype, mode="r", offset=HEADER_BYTES, shape=(rows, columns)))
    except (OSError, ValueError) as error:  # ValueError: it shrank meanwhile
        raise IndexFolderError(f"cannot read {path} ({error}); build the index again") from error
