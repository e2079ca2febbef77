"""Check filters over the segments of an index, and refuse those that can find nothing.

Such a filter asks for a field that no document has, or compares it with a type that it never holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relsdk.errors import InputError
from relsdk.index._field_column import kind_of
from relsdk.index._filter_sql import KINDS
from relsdk.index._filter_tree import OWN_FIELDS, Equals, Exists, Field, Filter, Within, comparisons
from relsdk.index._row_filter import RowFilter
from relsdk.index._row_set import RowSet
from relsdk.index.filter_parser import parse_filter

__all__ = ["FilterCompiler"]

# Kinds of values in words: some of them, and one.
_SOME = {"text": "text", "number": "numbers", "boolean": "booleans"}
_ONE = {"text": "text", "number": "a number", "boolean": "true or false"}

_NAMES_SHOWN, _NAME_SHOWN = 20, 80


class FilterCompiler:
    """Answers the filters of one generation, and knows which fields its documents have.

    Args:
        segments: The rows of each.
    """

    def __init__(self, segments: Sequence[RowFilter]) -> None:
        self._segments = tuple(segments)

    def matching(self, where: Mapping[str, Any]) -> tuple[RowSet, ...]:
        """Return the rows of each segment that a filter allows, dead documents too.

        Raises:
            InputError: See `parse`.
        """
        parsed = self.parse(where)
        return tuple(segment.matching(parsed) for segment in self._segments)

    def parse(self, where: Mapping[str, Any]) -> Filter:
        """Parse and check a filter.

        Raises:
            InputError: The filter is wrong, no document has one of its fields, or a field never holds what it
                is compared with.
        """
        parsed = parse_filter(where)
        for leaf in comparisons(parsed) if self._segments else ():  # without documents all is allowed
            self._check(leaf)
        return parsed

    def check_field(self, field: Field) -> None:
        """Refuse a field that no document has.

        Raises:
            InputError: The message says which fields there are.
        """
        if self._segments and not self._has(field):
            raise InputError(self._unknown(field))

    def _check(self, leaf: Equals | Within | Exists) -> None:
        field = leaf.field
        kinds = _kinds(leaf)
        if field.column is not None:
            self._check_own(field)
            if kinds and "text" not in kinds:
                raise InputError(f'{field.name!r} is text; compare it with text, as in {field.name}="5"')
            return
        if not kinds:
            if not self._has(field):
                raise InputError(self._unknown(field))
        elif not any(self._has(field, kind) for kind in kinds):
            if not self._has(field):
                raise InputError(self._unknown(field))
            self._refuse_types(field, kinds)

    def _check_own(self, field: Field) -> None:
        """Refuse a name that is the document's own and a key of metadata, too; `_id` is always the own."""
        if field.name != "_id" and self._has(Field(field.name, None, ((field.name,),))):
            other = " ('_id' is the document's own)" if field.column == "id" else ""
            raise InputError(
                f"{field.name!r} is a part of every document and a field of its metadata, too; write "
                f"'metadata.{field.name}' for the field{other}"
            )

    def _refuse_types(self, field: Field, wanted: set[str]) -> None:
        kinds = {kind for segment in self._segments for kind in segment.kinds(field)}
        held = [kind for kind in KINDS if kind in kinds]
        if held:
            remedy = f"compare it with {' or '.join(_ONE[kind] for kind in held)}"
            if held == ["number"]:
                remedy += f", as in {field.name}=5, without quotes"
            if held == ["boolean"]:
                remedy = f"write {field.name}=true or {field.name}=false"
            if held == ["text"]:
                remedy += f', as in {field.name}="5"; if the file was CSV: --types {field.name}={min(wanted)}'
            never = " or ".join(_SOME[kind] for kind in sorted(wanted))
            holds = " and ".join(_SOME[kind] for kind in held)
            raise InputError(f"{field.name!r} holds {holds} only, never {never}; {remedy}")
        if "object" in kinds:
            above = field.name + "."
            inner = [name for name in self._names() if name.rpartition(".")[0] + "." == above]
            have = _join_names(inner) or "they have none"
            raise InputError(f"{field.name!r} holds objects; compare one of their fields: {have}")
        # What is left holds null or empty lists: finding nothing is the right answer.

    def _unknown(self, field: Field) -> str:
        names = self._names()
        near = difflib.get_close_matches(field.name, [*names, *OWN_FIELDS], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        have = f"their fields are {_join_names(names)}" if names else "they have no metadata"
        return f"no document has the field {field.name!r}; {hint}{have}, and id, title, text"

    def _names(self) -> list[str]:
        """Return the names of all fields, nested ones with dots, in alphabetical order."""
        return sorted({name for segment in self._segments for name in segment.names()})

    def _has(self, field: Field, kind: str | None = None) -> bool:
        return any(segment.has(field, kind) for segment in self._segments)


def _kinds(leaf: Equals | Within | Exists) -> set[str]:
    """Return the kinds that a comparison needs one of; none when the field's being there is enough."""
    if isinstance(leaf, Exists) or (isinstance(leaf, Equals) and None in leaf.values):
        return set()
    values: Iterable[object] = leaf.values if isinstance(leaf, Equals) else [v for _, v in leaf.bounds]
    return {kind_of(value) for value in values}


def _join_names(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(name[:_NAME_SHOWN] for name in names[:_NAMES_SHOWN]) + (
        f" and {more:,} more" if more > 0 else ""
    )
