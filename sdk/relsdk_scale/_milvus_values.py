"""The values of a document's fields as short tokens, so that every filter asks for one token of a set.

Milvus' own operators on JSON differ by version in what they do with missing keys, null and mixed types, and
cannot compare the elements of a list. Whether an array holds one of several texts is the same everywhere.
A range is a set of tokens, too: each value has one token for every prefix of its sort key, and the values of
a range are those with one of a few prefixes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from relsdk.errors import InputError

__all__ = [
    "TOKEN_CHARACTERS",
    "document_tokens",
    "equal_tokens",
    "exists_token",
    "null_token",
    "range_tokens",
]

TOKEN_CHARACTERS = 12  # 72 bits: two of a million million tokens are the same once in 10,000 collections
# Bytes of a text that ranges see: more for what begins with a digit, such as dates.
_PREFIX_BYTES, _PREFIX_BYTES_DIGIT = 12, 32
_MAX_NAME = 1000  # of a field in a filter
# A sort key is hexadecimal, then one of these: it comes before or after all that begins as it does.
_END, _MORE = "!", "~"
_DIGITS = "0123456789abcdef"
# Sort keys of numbers have 76 bits.
_HIGHEST_KEY, _POSITIVE = 2**76 - 1, 2**75


class _Bound(NamedTuple):
    """The sort key of a range's end, and whether it is within."""

    key: str
    within: bool


def exists_token(name: str) -> str:
    """Return the token of documents in which a field is there and not null."""
    return _token("exists", name, "")


def null_token(name: str) -> str:
    """Return the token of documents in which a field is null or a list with a null."""
    return _token("null", name, "")


def equal_tokens(name: str, values: Sequence[str | int | float | bool]) -> list[str]:
    """Return the tokens of documents in which a field, or an element of its list, equals some value."""
    return [_equal_token(name, value) for value in values]


def range_tokens(name: str, bounds: Sequence[tuple[str, str | int | float]]) -> list[str]:
    """Return the tokens of documents in which a field, or an element of its list, is within all bounds.

    Args:
        name: The field.
        bounds: ("lt", 60), ("gte", 10) and such; all text, or all numbers.

    Raises:
        InputError: A text is longer than the prefix that ranges see.
    """
    kind = range_field(bounds[0][1])
    keys = [(operator, _bound_key(name, value)) for operator, value in bounds]
    # Of two bounds on one side the stricter counts; of equal ones that which excludes the value.
    above = [(key, operator == "gt") for operator, key in keys if operator in ("gt", "gte")]
    below = [(key, operator == "lte") for operator, key in keys if operator in ("lt", "lte")]
    lower = _Bound(max(above)[0], not max(above)[1]) if above else None
    upper = _Bound(*min(below)) if below else None
    return [_token(kind, name, prefix) for prefix in _cover(lower, upper, text=kind == "texts")]


def document_tokens(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tokens of a document's fields, by kind.

    Args:
        metadata: As JSON gives them back.

    Returns:
        "values": of values and existence; "numbers" and "texts": of the prefixes of their sort keys.
    """
    tokens: dict[str, dict[str, None]] = {"values": {}, "numbers": {}, "texts": {}}
    for name, content in _fields(metadata):
        if content is not None:
            tokens["values"][exists_token(name)] = None
        for item in content if isinstance(content, list) else [content]:
            if item is None:
                tokens["values"][null_token(name)] = None
            elif isinstance(item, str | int | float):
                tokens["values"][_equal_token(name, item)] = None
                if not isinstance(item, bool):
                    kind = range_field(item)
                    tokens[kind].update(dict.fromkeys(_prefix_tokens(name, item)))
    return {kind: list(some) for kind, some in tokens.items()}


def range_field(value: object) -> str:
    """Return which kind of tokens tell the range of a value."""
    return "texts" if isinstance(value, str) else "numbers"


def _token(kind: str, name: str, content: str) -> str:
    # No name that a filter can have holds control characters.
    digest = hashlib.blake2b(f"{kind}\0{name}\0{content}".encode(), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _equal_token(name: str, value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return _token("boolean", name, json.dumps(value))
    if isinstance(value, str):
        return _token("equal text", name, value.partition("\0")[0])  # as `Index` compares texts
    return _token("equal number", name, _number_key(value))


def _fields(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what filters can name: every key, and keys of objects with dots, where no key has that name."""
    for key, content in metadata.items():
        if _can_be_named(key):
            yield key, content
    stack = [("", metadata)]
    while stack:
        above, mapping = stack.pop()
        for key, content in mapping.items():
            if not key or "." in key or not _can_be_named(above + key):
                continue
            if above and above + key not in metadata:
                yield above + key, content
            if isinstance(content, Mapping):
                stack.append((f"{above}{key}.", content))


def _can_be_named(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and not any(sign in '"\\' or ord(sign) < 32 for sign in name)


def _prefix_tokens(name: str, value: str | int | float) -> Iterator[str]:
    key = _text_key(value) if isinstance(value, str) else _number_key(value)
    for length in range(1, len(key) + 1):
        yield _token(range_field(value), name, key[:length])


def _text_key(text: str) -> str:
    """Return a text that sorts as the given one does, and that no other key begins with."""
    content = text.partition("\0")[0].encode()
    seen = _prefix_bytes(content)
    return content[:seen].hex() + (_MORE if len(content) > seen else _END)


def _prefix_bytes(content: bytes) -> int:
    return _PREFIX_BYTES_DIGIT if content[:1].isdigit() else _PREFIX_BYTES


def _number_key(value: int | float) -> str:
    """Return a text that sorts as the number does, and that no other key begins with.

    It has 19 hexadecimal digits, of the double next below the magnitude, and of what an integer is more;
    without the last ones, where all are 0, or f below zero.
    """
    rest = 0
    try:
        magnitude = abs(float(value))
    except OverflowError:
        magnitude = math.inf
    if isinstance(value, int) and abs(value) < 2**63:  # databases hold others as floating point
        if int(magnitude) > abs(value):
            magnitude = math.nextafter(magnitude, 0.0)
        rest = abs(value) - int(magnitude)  # below 1,024
    (bits,) = struct.unpack(">Q", struct.pack(">d", magnitude))
    key = bits << 12 | rest | _POSITIVE
    if value < 0:
        return f"{_HIGHEST_KEY - key:019x}".rstrip("f") + _MORE
    return f"{key:019x}".rstrip("0") + _END


def _bound_key(name: str, value: str | int | float) -> str:
    if not isinstance(value, str):
        return _number_key(value)
    content = value.encode()
    if len(content) > _prefix_bytes(content):
        raise InputError(
            f"where compares {name!r} with a text of {len(content):,} bytes; in Milvus the bounds of a range "
            f"have at most {_PREFIX_BYTES} bytes of UTF-8, or {_PREFIX_BYTES_DIGIT} where they begin with a "
            "digit: shorten it"
        )
    return _text_key(value)


def _cover(lower: _Bound | None, upper: _Bound | None, *, text: bool) -> Iterator[str]:
    """Yield prefixes: a key within the bounds begins with one of them, and no other key does.

    Args:
        lower: None has no bound.
        upper: The same.
        text: Whether keys are those of texts.
    """
    if lower is None or upper is None:
        shared = 0
    elif lower.key >= upper.key:
        if lower.key == upper.key and lower.within and upper.within:
            yield lower.key
        return
    else:
        shared = next(
            at for at, (low, high) in enumerate(zip(lower.key, upper.key, strict=False)) if low != high
        )
        for character in _characters(shared, text):
            if lower.key[shared] < character < upper.key[shared]:
                yield lower.key[:shared] + character
    parted = lower is not None and upper is not None
    for bound, sign in ((lower, 1), (upper, -1)):
        if bound is not None:
            yield from _one_side(bound, sign, shared + 1 if parted else 0, text=text)


def _one_side(bound: _Bound, sign: int, start: int, *, text: bool) -> Iterator[str]:
    """Yield prefixes of all above (sign 1) or below (-1) a bound that begins as it does up to `start`."""
    key = bound.key
    furthest = 0 if sign > 0 else -1
    while bound.within and len(key) > max(start, 1) and key[-1] == _characters(len(key) - 1, text)[furthest]:
        key = key[:-1]  # all that begins so is within
    if bound.within:
        yield key
    for at in range(start, len(key)):
        for character in _characters(at, text):
            if character > key[at] if sign > 0 else character < key[at]:
                yield key[:at] + character


def _characters(at: int, text: bool) -> str:
    """Return what can stand at a place of a key, in order."""
    if not text:
        return _END + _DIGITS + _MORE
    if at % 2:
        return _DIGITS
    return _END + _DIGITS + (_MORE if at in (2 * _PREFIX_BYTES, 2 * _PREFIX_BYTES_DIGIT) else "")
