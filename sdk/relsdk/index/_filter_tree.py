"""Filters on documents as a small closed algebra: comparisons, and, or, not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from relsdk.records import Document

__all__ = [
    "OWN_FIELDS",
    "And",
    "Equals",
    "Exists",
    "Field",
    "Filter",
    "Not",
    "Or",
    "Value",
    "Within",
    "comparisons",
]

# The parts of a document that are no metadata, by the names they have in a filter.
OWN_FIELDS = {"_id": "id", "id": "id", "title": "title", "text": "text"}
Value: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Field:
    """The field that a comparison looks at.

    Attributes:
        name: As the filter has it, for messages.
        column: "id", "title" or "text" of the document; None for metadata.
        paths: Keys from the top of the metadata downwards; of two ways, the first that a document has counts.
    """

    name: str
    column: str | None
    paths: tuple[tuple[str, ...], ...]

    def of(self, document: Document) -> Any:
        """Return what a document has in the field, None where it has none."""
        if self.column is not None:
            return getattr(document, self.column)
        for *above, last in self.paths:
            content: Any = document.metadata
            for key in above:
                content = content.get(key) if isinstance(content, Mapping) else None
            if isinstance(content, Mapping) and last in content:
                return content[last]
        return None


@dataclass(frozen=True, slots=True)
class Equals:
    """The field, or an element of its list, equals one of the values; None is null, or no field."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """The field, or one and the same element of its list, is within all bounds: ("lt", 60), ("gte", 10)."""

    field: Field
    bounds: tuple[tuple[str, str | int | float], ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there and not null; a title or a text is there when it is not empty."""

    field: Field


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold; without parts always true."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter: TypeAlias = "Equals | Within | Exists | And | Or | Not"


def comparisons(parsed: Filter) -> Iterator[Equals | Within | Exists]:
    """Yield the comparisons of a filter, from left to right."""
    if isinstance(parsed, And | Or):
        for part in parsed.parts:
            yield from comparisons(part)
    elif isinstance(parsed, Not):
        yield from comparisons(parsed.part)
    else:
        yield parsed
