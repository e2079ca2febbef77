"""Take the parts of a record out of a row's fields. Errors here know no place: the caller adds it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from relsdk.errors import InputError
from relsdk.formats._lines import listed
from relsdk.records import Document


class EmptyRowError(InputError):
    """A row has no text: no title and no text of a document, or no text of a query."""


def take_id(fields: dict[str, Any], names: Sequence[str]) -> str | None:
    """Remove the id, the first of `names` that is there and not null, and return it; None without one.

    Integers become strings; anything else is an error.
    """
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        for absent in names:
            fields.pop(absent, None)
        return None
    value = fields.pop(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {_describe(value)}; an id must be a string or an integer")
    if not value.strip():
        raise InputError(f"{name!r} is empty; give every row an id")
    return _check_text(value, name)


def _take_text(fields: dict[str, Any], name: str) -> str:
    """Remove a text field and return it; "" when it is absent or null."""
    value = fields.pop(name, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {_describe(value)}; it must be a string: put it in quotes")
    return _check_text(value, name)


def take_required_text(fields: dict[str, Any], name: str) -> str:
    """Remove a text field that must be there and not empty."""
    if name not in fields:
        raise missing(fields, name)
    value = _take_text(fields, name)
    if not value.strip():
        raise InputError(f"{name!r} is empty; fill it in or remove the row")
    return value


def take_document(fields: dict[str, Any], id_fields: Sequence[str], *, derive_id: bool = False) -> Document:
    """Make a document of the fields that are left; what is no id, title or text becomes metadata.

    Args:
        fields: Consumed.
        id_fields: Where the id may be, the first that is there counts.
        derive_id: Without an id, derive one from title and text; else that is an error.

    Returns:
        The document.

    Raises:
        EmptyRowError: Title and text are both empty.
        InputError: Another field is wrong or missing.
    """
    if "title" not in fields and "text" not in fields:
        raise missing(fields, "title", "text")
    names = dict(fields)
    identifier = take_id(fields, id_fields)
    title, text = _take_text(fields, "title"), _take_text(fields, "text")
    if not title.strip() and not text.strip():
        raise EmptyRowError("title and text are both empty; fill one in or remove the row")
    if identifier is None:
        if not derive_id:
            raise missing(names, *id_fields)
        identifier = _derived_id(title, text)
    return Document(identifier, title, text, _metadata(fields))


def _derived_id(title: str, text: str = "") -> str:
    """Return "d" and 16 hex digits of the SHA-256 of title and text, for a document without an id."""
    content = f"{title}\0{text}" if text else title
    return "d" + hashlib.sha256(content.encode()).hexdigest()[:16]


def missing(fields: Mapping[str, Any], *names: str) -> InputError:
    """Return the error for a field that is not there, or is null, under any of its names."""
    wanted = " or ".join(repr(name) for name in names)
    return InputError(f"no {wanted} among the fields ({listed(fields)}); add it to every row")


def _check_text(value: str, name: str) -> str:
    """Return the text, unless it holds a NUL or half of a surrogate pair, which databases refuse."""
    problem = "a NUL" if "\0" in value else None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            problem = "half of a surrogate pair"
    if problem:
        raise InputError(f"{name!r} holds {problem}; remove that character")
    return value


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the remaining fields; those of a nested `metadata` object, as BEIR writes it, join them."""
    nested = fields.get("metadata")
    if isinstance(nested, dict):
        del fields["metadata"]
        twice = fields.keys() & nested.keys()
        if twice:
            raise InputError(f"{min(twice)!r} is a field and in 'metadata' too; keep one of them")
        fields.update(nested)
    _check_strings(fields)
    return fields


def _check_strings(value: Any, name: str = "metadata") -> None:
    if isinstance(value, str):
        _check_text(value, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, name)
            _check_strings(item, key)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, name)


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
