"""The parser of filters: it checks a mapping and returns its tree, whose parts are here, too, for stores.

The types of JSON are kept apart: 1 is not "1" and not true.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relsdk.errors import InputError
from relsdk.index._filter_tree import (
    OWN_FIELDS,
    And,
    Equals,
    Exists,
    Field,
    Filter,
    Not,
    Or,
    Value,
    Within,
    comparisons,
)

__all__ = [
    "MAX_CHARACTERS",
    "MAX_COMPARISONS",
    "MAX_DEPTH",
    "MAX_VALUES",
    "And",
    "Equals",
    "Exists",
    "Field",
    "Filter",
    "Not",
    "Or",
    "Within",
    "comparisons",
    "parse_field",
    "parse_filter",
]

# What every SQLite bears with room to spare: it allows 1,000 levels of an expression, 100 entries of its
# parser's stack and, before 3.32, 999 parameters. So many values cost a tenth of a second.
MAX_COMPARISONS, MAX_DEPTH, MAX_VALUES = 100, 8, 100_000
MAX_CHARACTERS = 4_000_000  # of all texts that are compared
_MAX_NAME = 1000
_METADATA = "metadata."
_RANGES = ("lt", "lte", "gt", "gte")
_OPERATORS = ("eq", "ne", "in", "nin", *_RANGES, "exists")


def parse_filter(where: Mapping[str, Any]) -> Filter:
    """Check a filter and return its parsed form.

    All entries of a filter must hold. An entry is a field and what it is compared with:

    - `{"author": "x"}` or `{"author": {"eq": "x"}}`: equal. Text, numbers, true and false; None matches null
      and documents without the field.
    - `{"author": {"ne": "x"}}`: all that `eq` does not match, documents without the field included.
    - `{"author": {"in": ["x", "y"]}}`, `{"author": {"nin": ["x", "y"]}}`: equal to one of them, to none.
    - `{"duration": {"gte": 10, "lt": 60}}`: within bounds; numbers with numbers, text with text (by code
      point, which orders ISO dates).
    - `{"author": {"exists": True}}`: there and not null.

    or filters put together: `{"or": [FILTER, ...]}`, `{"and": [FILTER, ...]}`, `{"not": FILTER}`.

    A field that holds a list matches when one of its elements does: `{"tags": "cat"}` means that the tags
    contain "cat", and both bounds of a range must hold for the same element.

    `id` (or `_id`), `title` and `text` are the document's own; every other field is a key of the metadata. A
    name with dots, `author.name`, is the key of that very name in a document that has it, else the key `name`
    of the object `author`. `metadata.NAME` is the key NAME of the metadata, whatever it is called. SQLite
    compares a text of the metadata up to its first NUL character; a filter may hold none.

    Args:
        where: The filter: at most 100 comparisons, 100,000 values, 4,000,000 characters of text and 8 levels
            of `and`, `or` and `not`.

    Raises:
        InputError: An unknown operator, a name or value that cannot be compared, or more than is allowed.
    """
    parsed = _parse(where, 0)
    leaves = list(comparisons(parsed))
    if len(leaves) > MAX_COMPARISONS:
        raise InputError(
            f"where has {len(leaves):,} comparisons; at most {MAX_COMPARISONS:,} are allowed: use 'in' for "
            f"many values of one field"
        )
    values = [value for leaf in leaves for value in _compared_values(leaf)]
    characters = sum(len(value) for value in values if isinstance(value, str))
    for count, most, what in (
        (len(values), MAX_VALUES, "values"),
        (characters, MAX_CHARACTERS, "characters of text"),
    ):
        if count > most:
            raise InputError(
                f"where has {count:,} {what}; at most {most:,} are allowed: search in several parts, or "
                f"build the index with a field that says what they have in common"
            )
    return parsed


def _compared_values(leaf: Equals | Within | Exists) -> Iterable[Value]:
    if isinstance(leaf, Equals):
        return leaf.values
    return [value for _, value in leaf.bounds] if isinstance(leaf, Within) else ()


def _parse(where: object, depth: int) -> Filter:
    if not isinstance(where, Mapping):
        raise InputError(f'where is {_show(where)}; write a mapping such as {{"author": "x"}}')
    if depth > MAX_DEPTH:
        raise InputError(f"where is nested more than {MAX_DEPTH} levels deep; write it flatter")
    if len(where) > MAX_COMPARISONS:
        raise InputError(f"where has {len(where):,} fields; at most {MAX_COMPARISONS:,} are allowed")
    parts: list[Filter] = []
    for name, wanted in where.items():
        if name in ("and", "or"):
            listed = _filters(name, wanted, depth)
            parts.append(And(listed) if name == "and" else Or(listed))
        elif name == "not":
            if not isinstance(wanted, Mapping):
                raise InputError(f"where has {_show(wanted)} as 'not'; a filter is needed{_field_hint(name)}")
            parts.append(Not(_parse(wanted, depth + 1)))
        else:
            operators = wanted if isinstance(wanted, Mapping) else {"eq": wanted}
            parts += _field_parts(parse_field(name), operators)
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _filters(name: str, wanted: object, depth: int) -> tuple[Filter, ...]:
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Sequence) or not wanted:
        raise InputError(
            f"where has {_show(wanted)} as {name!r}; a list of filters is needed{_field_hint(name)}"
        )
    if len(wanted) > MAX_COMPARISONS:
        raise InputError(
            f"where has {len(wanted):,} filters in {name!r}; at most {MAX_COMPARISONS:,} are allowed: use "
            f"'in' for many values of one field"
        )
    return tuple(_parse(one, depth + 1) for one in wanted)


def _field_hint(name: str) -> str:
    return f" (a field of that name is {_METADATA + name!r})"


def parse_field(name: object) -> Field:
    """Return the field that a name means.

    Raises:
        InputError: No field can have this name.
    """
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME:
        raise InputError(
            f"where has the field {_show(name)}; a field is a name, as text of 1 to {_MAX_NAME:,} characters"
        )
    if any(character in '"\\' or ord(character) < 32 for character in name):
        raise InputError(
            f"where has the field {name!r}; quotes, backslashes and control characters cannot be"
        )
    _text(name, name)
    if name in OWN_FIELDS:
        return Field(name, OWN_FIELDS[name], ())
    key = name.removeprefix(_METADATA) or name
    steps = tuple(key.split("."))
    return Field(name, None, ((key,), steps) if len(steps) > 1 and all(steps) else ((key,),))


def _field_parts(field: Field, operators: Mapping[str, Any]) -> list[Filter]:
    unknown = [operator for operator in operators if operator not in _OPERATORS]
    if unknown or not operators:
        got = repr(unknown[0]) if unknown else "no operator"
        hint = f"; a field of an object is {field.name + '.' + unknown[0]!r}" if unknown else ""
        raise InputError(f"where has {got} for {field.name!r}; allowed are {', '.join(_OPERATORS)}{hint}")
    parts: list[Filter] = []
    for operator, value in operators.items():
        if operator in ("eq", "ne"):
            equal = Equals(field, (_value(value, field.name),))
            parts.append(equal if operator == "eq" else Not(equal))
        elif operator in ("in", "nin"):
            among = Equals(field, _values(operator, value, field.name))
            parts.append(among if operator == "in" else Not(among))
        elif operator == "exists":
            if not isinstance(value, bool):
                raise InputError(f"where has {_show(value)} as 'exists' for {field.name!r}; true or false")
            parts.append(Exists(field) if value else Not(Exists(field)))
    bounds = {operator: operators[operator] for operator in _RANGES if operator in operators}
    if bounds:
        parts.append(Within(field, _bounds(bounds, field.name)))
    return parts


def _values(operator: str, values: object, name: str) -> tuple[Value, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence | set | frozenset):
        raise InputError(
            f"where has {_show(values)} as {operator!r} for {name!r}; a list of values is needed"
        )
    if len(values) > MAX_VALUES:
        raise InputError(
            f"where has {len(values):,} values as {operator!r} for {name!r}; at most {MAX_VALUES:,} are "
            f"allowed: search in several parts"
        )
    return tuple(_value(value, name) for value in values)


def _value(value: object, name: str) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, name)
    if isinstance(value, int | float):
        return _number(value, name)
    raise InputError(
        f"where compares {name!r} with {_show(value)}; allowed are text, numbers, true, false and null "
        f"(a list goes to 'in')"
    )


def _bounds(bounds: Mapping[str, Any], name: str) -> tuple[tuple[str, str | int | float], ...]:
    values = list(bounds.values())
    if all(isinstance(value, str) for value in values):
        return tuple((operator, _text(value, name)) for operator, value in bounds.items())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return tuple((operator, _number(value, name)) for operator, value in bounds.items())
    raise InputError(f"where has the bounds {_show(dict(bounds))} for {name!r}; numbers only, or text only")


def _number(value: int | float, name: str) -> int | float:
    """Return the number as databases hold it: integers beyond 64 bits are floating point."""
    try:
        number = value if isinstance(value, int) and abs(value) < 2**63 else float(value)
    except OverflowError:
        number = math.inf
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"where compares {name!r} with {_show(value)}; a finite number is needed")
    return number


def _text(value: str, name: str) -> str:
    if "\0" in value:  # SQLite takes the text in JSON for what stands before it
        raise InputError(f"where holds a NUL character for {name!r}, which no filter can compare; remove it")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"where holds half of a surrogate pair for {name!r}; remove it") from None
    return value


def _show(value: object) -> str:
    try:
        text = reprlib.repr(value)  # of a part, where it is long or nested
    except ValueError:  # an integer of more digits than Python prints
        text = "a very long number"
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
