"""What goes into an index from files: how many documents there will be, and vectors made elsewhere."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
from numpy.typing import NDArray

from relsdk.cli._warnings import warn
from relsdk.errors import InputError
from relsdk.files.folders import file_sha256
from relsdk.models.embedder import Embedder
from relsdk.shards import PartsEncoder

__all__ = ["count_lines", "input_option", "open_parts", "open_vectors", "vectors_option"]

input_option = click.option(
    "--input", "-i", "source", required=True, help="Documents: .jsonl, .csv, .tsv, .parquet (or .gz)."
)
vectors_option = click.option(
    "--vectors",
    metavar="FILE.npy|FOLDER",
    type=click.Path(path_type=Path),
    help="Vectors of the same model, made before: row n of a file is document n; a folder of parts has "
    "them by id. Nothing is encoded.",
)

# Of NPY files: bytes of the number that says how long the header is, by version; the longest one.
_LENGTH_BYTES = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}
_LONGEST_HEADER = 10_000
_TYPES = {f"{order}f{size}": f"float{8 * size}" for order in "<>" for size in (2, 4, 8)}


def count_lines(source: str) -> int | None:
    """Return the lines of a file of JSON lines, for a progress line; None where counting is not cheap."""
    if not source.endswith(".jsonl") or not os.path.isfile(source):
        return None
    try:
        with open(source, "rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except OSError:
        return None  # who reads it says why


def open_parts(folder: Path, embedder: Embedder, source: str) -> PartsEncoder:
    """Take the vectors of documents out of a folder of parts; say so when those were made of another file.

    Args:
        folder: What `relsdk encode` filled.
        embedder: The model that did.
        source: The documents.

    Raises:
        InputError: See `PartsEncoder`.
    """
    parts = PartsEncoder(folder, embedder)
    path = Path(source)
    if path.is_file() and file_sha256(path) != parts.source_digest:
        warn(
            f"{folder} was made of another file than {source}; vectors are taken by id, also where a text "
            "has changed"
        )
    return parts


def open_vectors(path: Path, dimension: int) -> NDArray[Any]:
    """Map the vectors of an NPY file into memory, read-only.

    numpy's own reader takes whatever a header declares; this one takes matrices of floating point, and
    compares the size of the file.

    Args:
        path: The file.
        dimension: D.

    Returns:
        (n, D) float16, float32 or float64.

    Raises:
        InputError: It is missing, no NPY file, holds something else, or is cut off.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path} is no regular file; name an .npy file of vectors")
        with path.open("rb") as stream:
            kind, by_columns, shape = _read_header(path, stream)
            start, size = stream.tell(), os.fstat(stream.fileno()).st_size
        if kind not in _TYPES or len(shape) != 2 or shape[0] < 1 or shape[1] != dimension:
            raise InputError(
                f"{path} holds {_TYPES.get(kind, kind)} of shape {shape}; float16, float32 or float64 of "
                f"shape (documents, {dimension}) is needed, by the index's model"
            )
        dtype = np.dtype(kind)
        needed = start + shape[0] * dimension * dtype.itemsize
        if size != needed:
            raise InputError(
                f"{path} has {size:,} bytes, and {_TYPES[kind]} of shape {shape} takes {needed:,}; it is cut "
                "off or damaged: write it again"
            )
        return np.memmap(
            path, dtype, mode="r", offset=start, shape=(shape[0], dimension), order="F" if by_columns else "C"
        )
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or it shrank meanwhile
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read ({reason}); name an .npy file or a folder of parts"
        ) from None


def _read_header(path: Path, stream: BinaryIO) -> tuple[str, bool, tuple[int, ...]]:
    """Return the kind of number, whether columns come first, and the shape."""
    length = int.from_bytes(stream.read(_LENGTH_BYTES.get(stream.read(8), 0)), "little")
    header: object = None
    if 0 < length <= _LONGEST_HEADER:
        try:
            header = ast.literal_eval(stream.read(length).decode("latin-1"))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
    fields = header if isinstance(header, dict) else {}
    kind, by_columns, shape = (fields.get(name) for name in ("descr", "fortran_order", "shape"))
    sizes = shape if isinstance(shape, tuple) else (None,)
    if not isinstance(by_columns, bool) or not all(type(size) is int for size in sizes):
        raise InputError(
            f"{path} is no .npy file; numpy.save writes one, and so does relsdk encode --as document"
        )
    return (kind if isinstance(kind, str) else "records"), by_columns, sizes
