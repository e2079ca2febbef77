"""A parsed filter as SQL over a row of `documents`. A value reaches SQLite only as a bound parameter."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from relsdk.index._filter_tree import And, Equals, Field, Filter, Not, Or, Within, comparisons

__all__ = ["KINDS", "Condition", "filter_condition", "has_field", "has_kind", "kinds_query"]

# What a filter tells apart: SQLite's names of the JSON types.
KINDS = {"text": ("text",), "number": ("integer", "real"), "boolean": ("true", "false")}
_RANGES = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
Parameter = str | int | float


@dataclass(frozen=True)
class Condition:
    """A boolean SQL expression over a row of `documents`.

    Attributes:
        sql: The expression.
        parameters: The values of its numbered parameters.
        comparisons: How many there are in it.
    """

    sql: str
    parameters: tuple[Parameter, ...] = ()
    comparisons: int = 1


def filter_condition(parsed: Filter) -> Condition:
    """Turn a parsed filter into SQL."""
    writer = _Writer()
    written = writer.condition(writer.filter(parsed))
    return replace(written, comparisons=sum(1 for _ in comparisons(parsed)))


def has_field(field: Field) -> Condition:
    """Return whether the metadata have a field, null or not."""
    writer = _Writer()
    return writer.condition(f"json_type(documents.metadata, {writer.path(field)}) IS NOT NULL")


def has_kind(field: Field, kind: str) -> Condition:
    """Return whether a field, or an element of its list, is of a kind of `KINDS`."""
    writer = _Writer()
    return writer.condition(writer.some_item(field, _of_kind(kind)))


def kinds_query(field: Field) -> Condition:
    """Return the query for the JSON types that a field and the elements of its lists have."""
    writer = _Writer()
    path = writer.path(field)
    return writer.condition(
        f"SELECT DISTINCT CASE json_type(documents.metadata, {path}) WHEN 'object' THEN 'object' "
        f"ELSE item.type END FROM documents, json_each(documents.metadata, {path}) AS item"
    )


class _Writer:
    """Writes SQL and collects its parameters; equal ones are bound once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[type, Parameter], int] = {}

    def condition(self, sql: str) -> Condition:
        return Condition(sql, tuple(value for _, value in self._numbers))

    def bind(self, value: Parameter) -> str:
        return f"?{self._numbers.setdefault((type(value), value), len(self._numbers) + 1)}"

    def filter(self, parsed: Filter) -> str:
        if isinstance(parsed, And | Or):
            word = " AND " if isinstance(parsed, And) else " OR "
            return f"({word.join(map(self.filter, parsed.parts))})" if parsed.parts else "1"
        if isinstance(parsed, Not):
            return f"NOT {self.filter(parsed.part)}"
        if isinstance(parsed, Equals):
            return self._equals(parsed)
        return self._within(parsed) if isinstance(parsed, Within) else self._exists(parsed.field)

    def path(self, field: Field) -> str:
        """Return the JSON path of a field in the metadata: of two, the first that the document has."""
        steps = ("$" + "".join(f'."{key}"' for key in keys) for keys in field.paths)
        first, *others = map(self.bind, steps)
        if not others:
            return first
        return f"CASE WHEN json_type(documents.metadata, {first}) IS NULL THEN {others[0]} ELSE {first} END"

    def some_item(self, field: Field, condition: str) -> str:
        """Some element of the field, or the field itself when it is no list, fulfils a condition."""
        if field.column is not None:
            source = f"(SELECT 'text' AS type, documents.{field.column} AS value)"
            return f"EXISTS (SELECT 1 FROM {source} AS item WHERE {condition})"
        path = self.path(field)
        return (
            f"(ifnull(json_type(documents.metadata, {path}), 'object') <> 'object' AND EXISTS "
            f"(SELECT 1 FROM json_each(documents.metadata, {path}) AS item WHERE {condition}))"
        )

    def _equals(self, wanted: Equals) -> str:
        texts = [value for value in wanted.values if isinstance(value, str)]
        flags = sorted({value for value in wanted.values if isinstance(value, bool)})
        numbers = [v for v in wanted.values if isinstance(v, int | float) and not isinstance(v, bool)]
        choices = [f"item.type = '{'true' if flag else 'false'}'" for flag in flags]
        for kind, values in (("text", texts), ("number", numbers)):
            if values:
                choices.append(f"({_of_kind(kind)} AND item.value {self._among(values)})")
        if None in wanted.values:
            choices.append("item.type = 'null'")
        parts = [self.some_item(wanted.field, " OR ".join(choices))] if choices else ["0"]
        if None in wanted.values:
            parts.append(f"NOT {self._exists(wanted.field)}")
        return f"({' OR '.join(parts)})"

    def _among(self, values: list[Any]) -> str:
        if len(values) == 1:
            return f"= {self.bind(values[0])}"
        return f"IN (SELECT value FROM json_each({self.bind(json.dumps(values, ensure_ascii=False))}))"

    def _within(self, wanted: Within) -> str:
        kind = "text" if isinstance(wanted.bounds[0][1], str) else "number"
        bounds = [f"item.value {_RANGES[operator]} {self.bind(value)}" for operator, value in wanted.bounds]
        return self.some_item(wanted.field, " AND ".join([_of_kind(kind), *bounds]))

    def _exists(self, field: Field) -> str:
        if field.column is not None:
            return f"(documents.{field.column} <> '')"
        return f"(ifnull(json_type(documents.metadata, {self.path(field)}), 'null') <> 'null')"


def _of_kind(kind: str) -> str:
    return f"item.type IN ({', '.join(map(repr, KINDS[kind]))})"
