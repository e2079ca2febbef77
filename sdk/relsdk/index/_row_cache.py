"""A cache of the rows read lately, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["RowCache", "RowFields"]

RowFields = tuple[int, str, str, str, str]  # row, id, title, text, metadata
_ROW_CHARACTERS = 400  # what a row's objects take beside their characters


class RowCache:
    """Fields of rows, of which the latest are kept: two dictionaries that take turns.

    Rows go into the young one; when that is full it becomes the old one, and what was the old one is
    forgotten. A row found in the old one goes into the young one again. No step needs a lock, which a fork
    could copy while it is held: threads that meet lose an entry or miscount one at worst.

    Args:
        characters: The young one is full when it holds more than so many.
    """

    def __init__(self, characters: int) -> None:
        self._full = characters
        self._characters = 0
        self._young: dict[int, RowFields] = {}
        self._old: dict[int, RowFields] = {}

    def get(self, row: int) -> RowFields | None:
        """Return the fields of a row, or None when it was not read lately."""
        fields = self._young.get(row)
        if fields is None:
            fields = self._old.get(row)
            if fields is not None:
                self.keep([fields])
        return fields

    def keep(self, rows: Sequence[RowFields]) -> None:
        """Keep the fields of rows."""
        for fields in rows:
            self._young[fields[0]] = fields
            self._characters += _ROW_CHARACTERS + sum(map(len, fields[1:]))
            if self._characters > self._full:
                self._old, self._young, self._characters = self._young, {}, 0
