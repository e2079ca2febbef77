"""Documents as payloads of Qdrant: what a hit shows, and what filters compare.

Qdrant's own conditions know no order of texts, round whole numbers beyond 2**53, tell 1 from 1.0, and lose
integers beyond 64 bits. So a payload has, under "filter", what is compared, in forms that are exact:

- `tokens`: a text for each field that is there, and for each value of it; equality is that of texts.
- `order`: by field, texts and numbers, each as whole numbers to be compared one after the other.
- `number`: by field, floats near its numbers, for an index: they only rule out what is far from a bound.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from relsdk.records import Document

__all__ = [
    "LONGEST_BOUND",
    "SHOWN",
    "Parts",
    "canonical_number",
    "document_of",
    "near_number",
    "number_parts",
    "payload_of",
    "point_id",
    "presence_token",
    "text_parts",
    "value_token",
]

# Keys of a payload that make a document.
SHOWN = ["id", "title", "text", "metadata"]
# Parts of a document that are no metadata.
OWN = ("id", "title", "text")
# A text is compared by so many numbers of six bytes each, and the last says where a bound ends.
_PART_BYTES, _PARTS = 6, 6
LONGEST_BOUND = _PART_BYTES * _PARTS - 1  # bytes
_BASE = 257  # a byte plus one; zero is the end of the text
_LONGEST_TOKEN = 128  # characters of a text; longer ones are hashed
_LONGEST_NAME = 1000  # no filter names a longer one
_NAMESPACE = uuid.UUID("6f2f1a52-63d2-5c0b-9a0b-6c2b9d4ed1f7")
Parts = tuple[int, ...]


def point_id(identifier: str) -> str:
    """Return the id of a document's point: Qdrant takes UUIDs only."""
    return str(uuid.uuid5(_NAMESPACE, identifier))


def payload_of(document: Document) -> dict[str, Any]:
    """Return the payload of a document."""
    metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
    tokens: list[str] = []
    numbers: dict[str, list[float]] = {}
    order: dict[str, list[dict[str, int]]] = {}
    for name, value in _fields(document, json.loads(metadata)):
        own = name in OWN
        if value is not None and not (own and value == ""):
            tokens.append(presence_token(name))
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping | list):
                continue
            if isinstance(item, str):
                # SQLite compares a text of the metadata up to its first NUL, and so do we.
                item = item if own else item.partition("\0")[0]
                order.setdefault(name, []).append(_named("t", text_parts(item)))
            elif isinstance(item, int | float) and not isinstance(item, bool):
                item = canonical_number(item)
                numbers.setdefault(name, []).append(near_number(item))
                order.setdefault(name, []).append(_named("n", number_parts(item)))
            tokens.append(value_token(name, item))
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": metadata,  # as text: Qdrant would round large integers
        "filter": {"tokens": list(dict.fromkeys(tokens)), "number": numbers, "order": order},
    }


def document_of(payload: Mapping[str, Any]) -> Document:
    """Return the document of a payload.

    Raises:
        KeyError, TypeError, ValueError: It is none of `payload_of`.
    """
    return Document(payload["id"], payload["title"], payload["text"], json.loads(payload["metadata"]))


def presence_token(name: str) -> str:
    """Return the token of a document that has a field, not null (of the document's own: not empty)."""
    return f"{name}\t+"  # no name that a filter can have holds a tab


def value_token(name: str, value: str | int | float | bool | None) -> str:
    """Return the token of a document whose field, or an element of whose list, is a value."""
    if value is None:
        return f"{name}\tnull"
    if isinstance(value, bool):
        return f"{name}\t{'true' if value else 'false'}"
    if isinstance(value, str):
        if len(value) <= _LONGEST_TOKEN:
            return f"{name}\ts{value}"
        return f"{name}\th{hashlib.sha256(value.encode()).hexdigest()}"
    return f"{name}\tn{canonical_number(value)!r}"


def canonical_number(value: int | float) -> int | float:
    """Return the one form of equal numbers: whole ones within 64 bits int, all others float."""
    if isinstance(value, int):
        if abs(value) < 2**63:
            return int(value)
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


def number_parts(value: int | float) -> Parts:
    """Return whole numbers that are ordered as canonical numbers are: the nearest float, and what it misses.

    Qdrant reads a float of JSON to the last bit but one. Whole numbers below 2**53 it reads exactly.
    """
    nearest = float(value)
    (bits,) = struct.unpack(">Q", struct.pack(">d", nearest))
    # The bits of floats are in their order when those of negative ones are turned round.
    bits = bits ^ (2**64 - 1) if bits >> 63 else bits | 2**63
    return bits >> 32, bits & (2**32 - 1), value - int(nearest) if isinstance(value, int) else 0


def near_number(value: int | float) -> float:
    """Return a finite float near a canonical number."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(value)))


def text_parts(text: str) -> Parts:
    """Return whole numbers below 2**53 that are ordered as texts are, by code point, up to 36 bytes."""
    content = text.encode()[: _PART_BYTES * _PARTS]
    count = min(len(content) // _PART_BYTES + 1, _PARTS)
    return tuple(_part(content[at * _PART_BYTES : (at + 1) * _PART_BYTES]) for at in range(count))


def _part(content: bytes) -> int:
    value = 0
    for at in range(_PART_BYTES):
        value = value * _BASE + (content[at] + 1 if at < len(content) else 0)
    return value


def _named(kind: str, parts: Parts) -> dict[str, int]:
    return {f"{kind}{at}": part for at, part in enumerate(parts)}


def _fields(document: Document, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every field that a filter can name, once, and its value.

    A name with dots is a key of that very name, where there is one, else the path through objects.
    """
    yield from ((name, getattr(document, name)) for name in OWN)
    found: dict[str, Any] = {}
    objects: list[tuple[str, Mapping[str, Any]]] = [("", metadata)]
    while objects:
        above, content = objects.pop()
        for key, value in content.items():
            name = above + key
            if not key or len(name) > _LONGEST_NAME or any(c in '"\\' or ord(c) < 32 for c in key):
                continue
            if not above or "." not in key:
                found.setdefault(name, value)
                if isinstance(value, Mapping) and "." not in key:
                    objects.append((f"{name}.", value))
    for name, value in found.items():
        yield f"metadata.{name}", value
