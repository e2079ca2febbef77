"""A parsed filter as a filter of Qdrant, over what `payload_of` stores for it: with the same answers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

from qdrant_client import models

from relsdk.errors import InputError
from relsdk.index.filter_parser import And, Equals, Exists, Field, Filter, Not, Or, Within
from relsdk_scale._qdrant_payload import (
    LONGEST_BOUND,
    Parts,
    canonical_number,
    near_number,
    number_parts,
    presence_token,
    text_parts,
    value_token,
)

__all__ = ["TOKENS", "qdrant_filter"]

TOKENS = "filter.tokens"
_NEAR = 1e-14  # of a number: more than is lost when JSON is read and written
_NOWHERE = "\t"  # a token that no document has
_Condition: TypeAlias = Any  # one of Qdrant's: of a field, of nested objects, or a filter


def qdrant_filter(parsed: Filter) -> models.Filter:
    """Turn a parsed filter into Qdrant's.

    Raises:
        InputError: It compares a text with a bound that is too long for the order that is stored.
    """
    return models.Filter(must=[_condition(parsed)])


def _condition(parsed: Filter) -> _Condition:
    if isinstance(parsed, And):
        if not parsed.parts:
            return models.Filter(must_not=[_has([_NOWHERE])])
        return models.Filter(must=[_condition(part) for part in parsed.parts])
    if isinstance(parsed, Or):
        return models.Filter(should=[_condition(part) for part in parsed.parts])
    if isinstance(parsed, Not):
        return models.Filter(must_not=[_condition(parsed.part)])
    if isinstance(parsed, Exists):
        return _has([presence_token(_name(parsed.field))])
    return _equals(parsed) if isinstance(parsed, Equals) else _within(parsed)


def _name(field: Field) -> str:
    """Return the name under which a payload has a field."""
    return field.column if field.column is not None else f"metadata.{field.paths[0][0]}"


def _has(tokens: Sequence[str]) -> models.FieldCondition:
    """Return that a document has one of the tokens."""
    if len(tokens) == 1:
        return models.FieldCondition(key=TOKENS, match=models.MatchValue(value=tokens[0]))
    return models.FieldCondition(key=TOKENS, match=models.MatchAny(any=list(tokens)))


def _equals(wanted: Equals) -> _Condition:
    name = _name(wanted.field)
    some = _has(list(dict.fromkeys(value_token(name, value) for value in wanted.values)) or [_NOWHERE])
    if None not in wanted.values:
        return some
    absent = models.Filter(must_not=[_has([presence_token(name)])])
    return models.Filter(should=[some, absent])


def _within(wanted: Within) -> _Condition:
    name = _name(wanted.field)
    if isinstance(wanted.bounds[0][1], str):
        texts = [(operator, str(bound)) for operator, bound in wanted.bounds]
        for _, bound in texts:
            if len(bound.encode()) > LONGEST_BOUND:
                raise InputError(
                    f"where compares {wanted.field.name!r} with the bound {bound!r:.80}; a store in Qdrant "
                    f"orders texts by at most {LONGEST_BOUND} bytes of UTF-8: shorten the bound"
                )
        return _ordered(name, "t", [(operator, text_parts(bound)) for operator, bound in texts])
    numbers = [
        (operator, canonical_number(bound)) for operator, bound in wanted.bounds if not isinstance(bound, str)
    ]
    near = models.FieldCondition(key=f'filter.number."{name}"', range=_near_range(numbers))
    exact = _ordered(name, "n", [(operator, number_parts(bound)) for operator, bound in numbers])
    return models.Filter(must=[near, exact])


def _near_range(bounds: Sequence[tuple[str, int | float]]) -> models.Range:
    """Return bounds that floats near these are within, too."""
    limits: dict[str, float] = {}
    for operator, bound in bounds:
        near = near_number(bound)
        room = abs(near) * _NEAR + sys.float_info.min
        if operator in ("lt", "lte"):
            limits["lte"] = min(limits.get("lte", math.inf), near_number(near + room))
        else:
            limits["gte"] = max(limits.get("gte", -math.inf), near_number(near - room))
    return models.Range(**limits)


def _ordered(name: str, kind: str, bounds: Sequence[tuple[str, Parts]]) -> models.NestedCondition:
    """Return that one element of a field is within all bounds."""
    every = [_beyond(kind, operator, parts, 0) for operator, parts in bounds]
    nested = models.Nested(key=f'filter.order."{name}"', filter=models.Filter(must=every))
    return models.NestedCondition(nested=nested)


def _beyond(kind: str, operator: str, parts: Parts, at: int) -> _Condition:
    """Return that the parts from `at` compare so: the first that differs decides."""
    key = f"{kind}{at}"
    if at == len(parts) - 1:
        return models.FieldCondition(key=key, range=models.Range(**{operator: parts[at]}))
    differs = models.FieldCondition(key=key, range=models.Range(**{operator.rstrip("e"): parts[at]}))
    equal = models.FieldCondition(key=key, range=models.Range(gte=parts[at], lte=parts[at]))
    return models.Filter(
        should=[differs, models.Filter(must=[equal, _beyond(kind, operator, parts, at + 1)])]
    )
