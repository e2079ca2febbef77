"""An encoder whose vectors were made before: those of a folder of parts, by the ids of documents.

Shape letters: n documents, D dimension.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.records import Document
from relsdk.shards.parts import PartInfo, part_paths, read_part, read_part_ids, read_part_info

__all__ = ["PartsEncoder"]

# Vectors that are kept in memory, unless one part has more.
_KEPT_BYTES = 1 << 28


class _MadeBy(Protocol):
    """What made the vectors."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def path(self) -> Path: ...


class PartsEncoder:
    """Stands for an encoder where documents go into an index: gives their vectors out of parts.

    Documents in the order of the input that was encoded need 8 bytes for each of its rows, and only at first.
    Others are looked up in a table of all ids, which takes about 150 bytes for each. Of an id that is there
    twice the last row counts, as in an index (`on_duplicate="last"`).

    Args:
        folder: What `encode_shards` filled.
        encoder: The model that filled it: its name, fingerprint, dimension and path are this one's, too.

    Attributes:
        source_digest: SHA-256 of the input that was encoded.

    Raises:
        InputError: Parts are missing, or are of queries, of several inputs, or of another model.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], encoder: _MadeBy) -> None:
        self.folder = Path(folder)
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.dimension = encoder.dimension
        self.path = encoder.path
        found = [(read_part_info(path), path) for path in part_paths(folder)]
        if not found:
            raise InputError(f"{self.folder} holds no parts; make them with: relsdk encode --as document")
        found.sort(key=lambda one: (one[0].rows[0], one[0].hash))
        self.source_digest = found[0][0].source
        _check_parts(self.folder, [info for info, _ in found], encoder)
        self._paths = [path for _, path in found]
        self._starts = [info.rows[0] for info, _ in found]
        self._total = found[0][0].rows[2]
        self._next = 0  # the row after the last one that was asked for
        self._open: OrderedDict[int, tuple[list[str], NDArray[np.float32]]] = OrderedDict()
        self._ids: list[str] | None = None  # of all rows, when the order is another one
        self._row_of: dict[str, int] = {}
        self._last_of: dict[str, int] | None = None  # the last row of each id that is there twice

    def encode_document(self, inputs: Sequence[Document], /) -> NDArray[np.float32]:
        """Return the vectors of n documents, (n, D).

        Raises:
            InputError: A document has no vector or is given twice, or a part is damaged.
        """
        rows = [self._find(document) for document in inputs]
        if len(set(rows)) < len(rows):
            twice = next(
                document.id for document, row in zip(inputs, rows, strict=True) if rows.count(row) > 1
            )
            raise InputError(
                f"{self.folder} has one vector of {twice!r}, which comes more than once; ids must be unique, "
                "and documents that are split into passages have to be encoded anew"
            )
        result = np.empty((len(rows), self.dimension), dtype=np.float32)
        parts = np.array([self._part_of(row) for row in rows], dtype=np.int64)
        wanted = np.array(rows, dtype=np.int64)
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            result[places] = self._load(part)[1][wanted[places] - self._starts[part]]
        return result

    def _find(self, document: Document) -> int:
        """Return the row of a document in the input that was encoded."""
        identifier = document.id
        if self._last_of is None:
            self._last_of = self._rows_of_twice()
        follows = self._next < self._total and self._id_at(self._next) == identifier
        row = self._last_of.get(identifier)
        if row is None:
            row = self._next if follows else self._look_up(identifier)
        self._next = (self._next if follows else row) + 1
        return row

    def _id_at(self, row: int) -> str:
        if self._ids is not None:
            return self._ids[row]
        part = self._part_of(row)
        return self._load(part)[0][row - self._starts[part]]

    def _look_up(self, identifier: str) -> int:
        if self._ids is None:
            self._ids = list(self._every_id())
            self._row_of = {one: row for row, one in enumerate(self._ids)}
        if identifier not in self._row_of:
            raise InputError(
                f"{self.folder} has no vector of the document {identifier!r}; encode the same input: "
                "relsdk encode --as document"
            )
        return self._row_of[identifier]

    def _every_id(self) -> Iterator[str]:
        return (identifier for path in self._paths for identifier in read_part_ids(path))

    def _rows_of_twice(self) -> dict[str, int]:
        """Return the last row of each id that is there twice; hashes of all ids say which may be."""
        hashes = np.fromiter((hash(identifier) for identifier in self._every_id()), np.int64)
        hashes.sort()
        suspects = {*hashes[1:][hashes[1:] == hashes[:-1]].tolist()}
        rows: dict[str, list[int]] = {}
        for row, identifier in enumerate(self._every_id() if suspects else ()):
            if hash(identifier) in suspects:
                rows.setdefault(identifier, []).append(row)
        return {identifier: places[-1] for identifier, places in rows.items() if len(places) > 1}

    def _part_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _load(self, part: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return ids and vectors of a part, verified; the last few are kept."""
        if part not in self._open:
            _, columns = read_part(self._paths[part])
            ids: Any = columns["id"]
            vectors: Any = columns["vector"]
            self._open[part] = ids, vectors
            while len(self._open) > max(2, _KEPT_BYTES // max(vectors.nbytes, 1)):
                self._open.popitem(last=False)
        self._open.move_to_end(part)
        return self._open[part]


def _check_parts(folder: Path, infos: Sequence[PartInfo], encoder: _MadeBy) -> None:
    """Raise unless parts, in the order of their rows, are all those of documents that the encoder made."""
    first, expected = infos[0], 0
    for info in infos:
        if info.kind != "document":
            raise InputError(
                f"{folder} holds parts of kind {info.kind!r}; vectors of documents are needed: relsdk encode "
                "--as document"
            )
        made = (info.fingerprint, info.dimension)
        if made != (encoder.fingerprint, encoder.dimension):
            raise InputError(
                f"{folder} was made by {info.model} ({info.fingerprint}, {info.dimension} dimensions), and "
                f"the model here is {encoder.name} ({encoder.fingerprint}, {encoder.dimension}); encode "
                "again with it"
            )
        if (info.source, info.variant, info.rows[2]) != (first.source, first.variant, first.rows[2]):
            raise InputError(f"{folder} holds parts of several inputs; encode again with --overwrite")
        if info.rows[0] != expected:
            break
        expected = info.rows[1]
    held = sum(info.rows[1] - info.rows[0] for info in infos)
    if expected != first.rows[2] or held != expected:
        raise InputError(
            f"{folder} is not complete: row {min(expected + 1, first.rows[2]):,} of {first.rows[2]:,} is "
            "missing or there twice; run the same relsdk encode again, which makes what is missing, and says "
            "what does not belong there"
        )
