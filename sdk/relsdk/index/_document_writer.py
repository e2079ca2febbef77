"""The writer of a generation's documents."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, RelsdkError
from relsdk.index._database import SCHEMA, placeholders, portions
from relsdk.index._writing import writing
from relsdk.records import Document

__all__ = ["DocumentWriter", "metadata_json"]


class DocumentWriter:
    """Writes a new database; nothing is durable before the caller flushes the closed file.

    Raises:
        RelsdkError: From every method, when the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._connection = sqlite3.connect(path)
            try:
                # A crash loses the whole generation anyway: no journal is needed.
                self._connection.execute("PRAGMA journal_mode = OFF")
                self._connection.execute("PRAGMA synchronous = OFF")
                self._connection.execute(SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._connection.close()

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of those ids that are there."""
        rows: dict[str, int] = {}
        with writing(self._path):
            for some in portions(ids):
                sql = f"SELECT id, row FROM documents WHERE id IN ({placeholders(some)})"
                rows.update(self._connection.execute(sql, some))
        return rows

    def remove(self, rows: Iterable[int]) -> None:
        """Delete the documents of rows."""
        with writing(self._path), self._connection:
            self._connection.executemany("DELETE FROM documents WHERE row = ?", [(row,) for row in rows])

    def copy(self, rows: Iterable[tuple[int, str, str, str, str]]) -> None:
        """Write (row, id, metadata, title, text) that another database holds."""
        sql = "INSERT INTO documents (row, id, metadata, title, text) VALUES (?, ?, ?, ?, ?)"
        with writing(self._path), self._connection:
            self._connection.executemany(sql, rows)

    def put(self, rows: Sequence[int], documents: Sequence[Document], metadata: Sequence[str]) -> None:
        """Write documents to new rows.

        Args:
            rows: Where.
            documents: What.
            metadata: Their metadata as JSON (`metadata_json`).

        Raises:
            InputError: SQLite cannot read some metadata.
        """
        try:
            self.copy(
                (row, one.id, text, one.title, one.text)
                for row, one, text in zip(rows, documents, metadata, strict=True)
            )
        except RelsdkError as error:
            if not isinstance(error.__cause__, sqlite3.IntegrityError):
                raise
            raise InputError(
                f"the metadata of a document from {documents[0].id!r} to {documents[-1].id!r} are nested too "
                f"deeply; flatten them"
            ) from error


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON text.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        if not all(isinstance(name, str) for name in metadata):
            raise TypeError("a name is not text")
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        text.encode()
        return text
    except RecursionError:
        raise InputError("its metadata are nested too deeply; flatten them") from None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"its metadata cannot be written as JSON ({error}); allowed are text, finite numbers, true, "
            f"false, null, lists and dictionaries with text as keys"
        ) from None
