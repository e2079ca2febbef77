"""Conditions on metadata, as SQL.

A value reaches SQLite only as a bound parameter. The types of JSON are kept apart: 1 is not "1" and not true.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relsdk.errors import InputError

__all__ = ["Condition", "compile_filter"]

_RANGES = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = ("eq", "ne", "in", *_RANGES)
_NUMBERS = "item.type IN ('integer', 'real')"


@dataclass(frozen=True)
class Condition:
    """A boolean SQL expression over a row of `documents`, and the values of its question marks."""

    sql: str
    parameters: tuple[str | int | float, ...] = ()


def compile_filter(where: Mapping[str, Any]) -> Condition:
    """Turn a filter into SQL; all its fields must match.

    A field is a top-level key of the metadata. What it is compared with:

    - `{"author": "x"}` or `{"author": {"eq": "x"}}`: equal. Text, numbers, true and false; None matches null
      and documents without the field.
    - `{"author": {"ne": "x"}}`: all that `eq` does not match, documents without the field included.
    - `{"author": {"in": ["x", "y"]}}`: equal to one of them.
    - `{"duration": {"gte": 10, "lt": 60}}`: within bounds; numbers with numbers, text with text (by code
      point, which orders ISO dates).

    A field that holds a list matches when one of its elements does: `{"tags": "cat"}` means that the tags
    contain "cat", and both bounds of a range must hold for the same element.

    Args:
        where: The filter.

    Returns:
        The condition; an empty filter gives one that is always true.

    Raises:
        InputError: An unknown operator, or a name or value that cannot be compared.
    """
    if not isinstance(where, Mapping):
        raise InputError(f'where is {_shown(where)}; write a mapping such as {{"author": "x"}}')
    parts = []
    for name, wanted in where.items():
        path = _path(name)
        operators = wanted if isinstance(wanted, Mapping) else {"eq": wanted}
        parts.extend(_field_conditions(name, path, operators))
    return _join(" AND ", parts) if parts else Condition("1")


def _path(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"where has the field {name!r}; a field is a name, as text that is not empty")
    if any(character in '"\\' or ord(character) < 32 for character in name):
        raise InputError(
            f"where has the field {name!r}; quotes, backslashes and control characters cannot be"
        )
    return _text(f'$."{name}"', name)


def _field_conditions(name: str, path: str, operators: Mapping[str, Any]) -> list[Condition]:
    unknown = [operator for operator in operators if operator not in _OPERATORS]
    if unknown or not operators:
        got = repr(unknown[0]) if unknown else "no operator"
        raise InputError(f"where has {got} for {name!r}; allowed are {', '.join(_OPERATORS)}")
    parts = []
    if "eq" in operators:
        parts.append(_equals(name, path, [operators["eq"]]))
    if "ne" in operators:
        equal = _equals(name, path, [operators["ne"]])
        parts.append(Condition(f"NOT {equal.sql}", equal.parameters))
    if "in" in operators:
        values = operators["in"]
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence | set | frozenset):
            raise InputError(f"where has {_shown(values)} as 'in' for {name!r}; a list of values is needed")
        parts.append(_equals(name, path, list(values)))
    bounds = {operator: operators[operator] for operator in _RANGES if operator in operators}
    if bounds:
        parts.append(_within(name, path, bounds))
    return parts


def _equals(name: str, path: str, values: list[Any]) -> Condition:
    """The field, or an element of it, equals one of the values."""
    texts = [_text(value, name) for value in values if isinstance(value, str)]
    numbers = [_number(value, name) for value in values if _is_number(value)]
    flags = sorted({value for value in values if isinstance(value, bool)})
    if len(texts) + len(numbers) + sum(isinstance(value, bool) or value is None for value in values) < len(
        values
    ):
        wrong = next(v for v in values if not (v is None or isinstance(v, str | bool) or _is_number(v)))
        raise InputError(
            f"where compares {name!r} with {_shown(wrong)}; allowed are text, numbers, true, false and null "
            f"(a list goes to 'in')"
        )
    choices = [Condition(f"item.type = '{'true' if flag else 'false'}'") for flag in flags]
    for kind, found in (("item.type = 'text'", texts), (_NUMBERS, numbers)):
        if len(found) == 1:
            choices.append(Condition(f"{kind} AND item.value = ?", (found[0],)))
        elif found:
            listed = json.dumps(found, ensure_ascii=False)
            choices.append(Condition(f"{kind} AND item.value IN (SELECT value FROM json_each(?))", (listed,)))
    found_any = [_some_item(path, _join(" OR ", choices))] if choices else []
    if None in values:
        null = "ifnull(json_type(documents.metadata, ?), 'null') = 'null'"
        found_any += [Condition(null, (path,)), _some_item(path, Condition("item.type = 'null'"))]
    return _join(" OR ", found_any) if found_any else Condition("0")


def _within(name: str, path: str, bounds: Mapping[str, Any]) -> Condition:
    """The field, or an element of it, lies within the bounds."""
    take: Callable[[Any, str], str | int | float]
    if all(isinstance(value, str) for value in bounds.values()):
        kind, take = "item.type = 'text'", _text
    elif all(_is_number(value) for value in bounds.values()):
        kind, take = _NUMBERS, _number
    else:
        raise InputError(
            f"where has the bounds {dict(bounds)!r} for {name!r}; give numbers only, or text only"
        )
    parts = [Condition(kind)]
    parts += [
        Condition(f"item.value {_RANGES[operator]} ?", (take(value, name),))
        for operator, value in bounds.items()
    ]
    return _some_item(path, _join(" AND ", parts))


def _some_item(path: str, condition: Condition) -> Condition:
    """Some element of the field, or the field itself when it is no list, fulfils a condition on `item`."""
    sql = (
        "(ifnull(json_type(documents.metadata, ?), 'object') <> 'object' AND EXISTS "
        f"(SELECT 1 FROM json_each(documents.metadata, ?) AS item WHERE {condition.sql}))"
    )
    return Condition(sql, (path, path, *condition.parameters))


def _join(word: str, parts: Sequence[Condition]) -> Condition:
    sql = word.join(f"({part.sql})" for part in parts)
    return Condition(f"({sql})", tuple(value for part in parts for value in part.parameters))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: int | float, name: str) -> int | float:
    """Return the number as SQLite holds it: integers beyond 64 bits are floating point."""
    try:
        number = value if isinstance(value, int) and abs(value) < 2**63 else float(value)
    except OverflowError:
        number = math.inf
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"where compares {name!r} with {value!r}; a finite number is needed")
    return number


def _text(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"where holds half of a surrogate pair for {name!r}; remove it") from None
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
