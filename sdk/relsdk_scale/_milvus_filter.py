"""A parsed filter as a Milvus expression over the fields of relsdk's collections."""

from __future__ import annotations

from collections.abc import Sequence

from relsdk.index.filter_parser import And, Equals, Exists, Field, Filter, Not, Or, Within
from relsdk_scale._milvus_values import equal_tokens, exists_token, null_token, range_field, range_tokens

__all__ = ["ALL", "filter_expression", "id_expression", "quote"]

# Ids are never empty.
ALL, _NONE = 'id != ""', 'id == ""'
_RANGES = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def quote(text: str) -> str:
    """Return a text as a literal; other signs stand for themselves."""
    return f'"{text.translate(_ESCAPES)}"'


def id_expression(ids: Sequence[str]) -> str:
    """Return the expression that allows some ids."""
    return f"id in [{', '.join(map(quote, ids))}]"


def filter_expression(condition: Filter) -> str:
    """Return the expression that allows the same documents as a filter.

    Raises:
        InputError: A bound of a range is a text that is too long.
    """
    if isinstance(condition, And | Or):
        if not condition.parts:
            return ALL
        word = " and " if isinstance(condition, And) else " or "
        return f"({word.join(map(filter_expression, condition.parts))})"
    if isinstance(condition, Not):
        return f"(not ({filter_expression(condition.part)}))"  # a server's "not" binds more than "=="
    if condition.field.column is not None:
        return _own(condition, condition.field.column)
    return _metadata(condition, _name(condition.field))


def _name(field: Field) -> str:
    """Return the name by which `document_tokens` knows a field: its first path is that very key."""
    return field.paths[0][0]


def _metadata(condition: Equals | Within | Exists, name: str) -> str:
    if isinstance(condition, Exists):
        return _has("values", [exists_token(name)])
    if isinstance(condition, Within):
        return _has(range_field(condition.bounds[0][1]), range_tokens(name, condition.bounds))
    wanted = equal_tokens(name, [value for value in condition.values if value is not None])
    if None not in condition.values:
        return _has("values", wanted)
    return f"({_has('values', [*wanted, null_token(name)])} or not {_has('values', [exists_token(name)])})"


def _has(field: str, tokens: Sequence[str]) -> str:
    if not tokens:
        return _NONE
    return f"array_contains_any({field}, [{', '.join(map(quote, dict.fromkeys(tokens)))}])"


def _own(condition: Equals | Within | Exists, column: str) -> str:
    """Return the expression for id, title or text, which are text and never null."""
    if isinstance(condition, Exists):
        return f'{column} != ""'
    if isinstance(condition, Within):
        if not isinstance(condition.bounds[0][1], str):
            return _NONE
        bounds = [f"{column} {_RANGES[operator]} {quote(str(value))}" for operator, value in condition.bounds]
        return f"({' and '.join(bounds)})"
    texts = [value for value in condition.values if isinstance(value, str)]
    if None in condition.values:
        texts.append("")  # no title, or no text
    return f"{column} in [{', '.join(map(quote, texts))}]" if texts else _NONE
