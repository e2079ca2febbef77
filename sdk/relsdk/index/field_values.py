"""The value that a document has in a field, by the names that filters use: to sort and to group hits."""

from __future__ import annotations

import json
from typing import Any

from relsdk.errors import InputError
from relsdk.index.filter_parser import parse_field
from relsdk.records import Document

__all__ = ["check_sort", "group_key", "sort_key"]


def sort_key(document: Document, name: str) -> tuple[int, float | str] | None:
    """Return what a document is sorted by: numbers before text; of a list the least.

    Returns:
        None when it has neither a number nor text there.

    Raises:
        InputError: The name is none that a field can have.
    """
    value = parse_field(name).of(document)
    keys = [_scalar_key(one) for one in (value if isinstance(value, list) else [value])]
    known = [key for key in keys if key is not None]
    return min(known) if known else None


def _scalar_key(value: Any) -> tuple[int, float | str] | None:
    if isinstance(value, str):
        return 1, value
    return (0, value) if isinstance(value, int | float) else None


def group_key(document: Document, name: str) -> str | None:
    """Return the group of a document, None when it has no such field.

    A list is one group, that of a single element the same as the element's own: filters see no difference.

    Raises:
        InputError: The name is none that a field can have.
    """
    value = parse_field(name).of(document)
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


def check_sort(sort: object) -> tuple[str, bool]:
    """Return the field of "field" or "-field", and whether it falls.

    Raises:
        InputError: It is none of these.
    """
    if not isinstance(sort, str) or not sort.removeprefix("-"):
        raise InputError(f"sort={sort!r}; a field, or -field for falling values, is needed")
    parse_field(sort.removeprefix("-"))
    return sort.removeprefix("-"), sort.startswith("-")
