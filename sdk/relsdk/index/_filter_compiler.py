"""Compile filters to SQL, and refuse those that can find nothing.

Such a filter asks for a field that no document has, or compares it with a type that it never holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from relsdk.errors import InputError
from relsdk.index._document_reader import DocumentReader
from relsdk.index._filter_sql import (
    KINDS,
    Condition,
    filter_condition,
    has_field,
    has_kind,
    kinds_query,
)
from relsdk.index._filter_tree import OWN_FIELDS, Equals, Exists, Field, Within, comparisons
from relsdk.index.filter_parser import parse_filter

__all__ = ["FilterCompiler"]

_ANSWERS_KEPT = 1024
_NAMES_READ, _NAMES_SHOWN, _NAME_SHOWN = 10_000, 20, 80
# Every key of every object that is not inside a list, with the path of that object.
_NAMES = f"""
SELECT DISTINCT node.path, node.key FROM documents, json_tree(documents.metadata) AS node
WHERE typeof(node.key) = 'text' AND instr(node.path, '[') = 0 LIMIT {_NAMES_READ}
"""


class FilterCompiler:
    """Compiles the filters of one generation, and knows which fields its documents have.

    The check of a field reads documents up to the first that has it; only an error reads all of them. Answers
    are kept.

    Args:
        documents: Of the generation.
    """

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents
        # Of the reader, not of this object: no reference cycle keeps closed files open.
        self._has = lru_cache(maxsize=_ANSWERS_KEPT)(partial(_has, documents))

    def compile(self, where: Mapping[str, Any]) -> Condition:
        """Turn a filter into SQL.

        Raises:
            InputError: The filter is wrong, no document has one of its fields, or a field never holds what it
                is compared with.
        """
        parsed = parse_filter(where)
        for leaf in comparisons(parsed):
            self._check(leaf)
        return filter_condition(parsed)

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
        query = kinds_query(field)
        types = {kind for (kind,) in self._documents.select(query.sql, query.parameters)}
        held = [kind for kind, names in KINDS.items() if types & set(names)]
        if held:
            remedy = f"compare it with {' or '.join(held)}"
            if held == ["boolean"]:
                remedy = f"write {field.name}=true or {field.name}=false"
            if held == ["text"]:
                remedy += f', as in {field.name}="5"; if the file was CSV: --types {field.name}={min(wanted)}'
            never = " or ".join(sorted(wanted))
            raise InputError(f"{field.name!r} holds {' and '.join(held)} only, never {never}; {remedy}")
        if "object" in types:
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
        keys = self._documents.select(_NAMES)
        parents = ((path.removeprefix("$").removeprefix(".").replace('"', ""), key) for path, key in keys)
        return sorted(f"{parent}.{key}" if parent else key for parent, key in parents)


def _has(documents: DocumentReader, field: Field, kind: str | None = None) -> bool:
    """Tell whether a document has a field in its metadata, of a kind if one is given."""
    return documents.any(has_field(field) if kind is None else has_kind(field, kind))


def _kinds(leaf: Equals | Within | Exists) -> set[str]:
    """Return the kinds that a comparison needs one of; none when the field's being there is enough."""
    if isinstance(leaf, Exists) or (isinstance(leaf, Equals) and None in leaf.values):
        return set()
    values: Iterable[object] = leaf.values if isinstance(leaf, Equals) else [v for _, v in leaf.bounds]
    return {
        "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        for value in values
    }


def _join_names(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(name[:_NAME_SHOWN] for name in names[:_NAMES_SHOWN]) + (
        f" and {more:,} more" if more > 0 else ""
    )
