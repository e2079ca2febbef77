"""The vectors of one generation, `vectors.npy`: streamed out, memory-mapped in.

Shape letters: N documents, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index._npy import HEADER_BYTES, map_matrix, npy_header
from relsdk.index._writing import writing

__all__ = ["UNIT_TOLERANCE", "VECTORS_FILE", "VectorWriter", "check_queries", "check_vectors", "map_vectors"]

VECTORS_FILE = "vectors.npy"
UNIT_TOLERANCE = 1e-2
_DTYPE = "<f4"


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
            self._file.seek(0)  # N is known last
            self._file.write(npy_header(_DTYPE, self._count, self._dimension))

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Write (n, D) further rows."""
        data = np.ascontiguousarray(vectors, dtype=_DTYPE)
        with writing(self._path):
            if not self._count:
                self._file.seek(HEADER_BYTES)
            self._file.write(data.tobytes())
        self._count += len(data)


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
    with np.errstate(over="ignore"):  # an infinite length is not 1
        lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(np.abs(lengths - 1.0) > UNIT_TOLERANCE)
    if len(wrong):
        raise InputError(
            f"{place}: vector {wrong[0]} has length {lengths[wrong[0]]:.4g}, length 1 is needed; {remedy}"
        )


def check_queries(vectors: NDArray[Any] | Sequence[Any], dimension: int) -> NDArray[np.float32]:
    """Return query vectors as float32, (D,) or (Q, D).

    Raises:
        InputError: They have another shape, or not length 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows has not length 1
        try:
            queries = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the query vectors are no matrix of numbers ({error}); encode the text first"
            ) from error
        if queries.ndim not in (1, 2) or queries.shape[-1] != dimension:
            raise InputError(
                f"the vectors have shape {queries.shape}; ({dimension},) or (n, {dimension}) is needed; "
                f"vectors of the index have {dimension} dimensions"
            )
        # `check_vectors` takes 20 times as long: for those only that are not surely right. NaN is not.
        if queries.ndim == 1:
            off = abs(float(queries.dot(queries)) - 1.0)
        else:
            off = float(np.abs(np.einsum("qd,qd->q", queries, queries) - 1.0).max(initial=0.0))
        if not off <= UNIT_TOLERANCE:
            remedy = "a query needs a vector of length 1, as encode_query of the model gives it"
            check_vectors(np.atleast_2d(queries), "queries", remedy)
    return queries


def map_vectors(path: Path, count: int, dimension: int) -> NDArray[np.float32]:
    """Map the vectors into memory, read-only; their values are not looked at.

    Raises:
        IndexFolderError: The file is missing, or no (count, dimension) float32.
    """
    return map_matrix(path, _DTYPE, count, dimension)
