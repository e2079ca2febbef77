"""Filters for Milvus: one token of a set is there exactly when the comparison holds."""

from __future__ import annotations

import json
import math
import operator
import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.index._document_writer import metadata_json
from relsdk.index._filter_sql import filter_condition
from relsdk.index.filter_parser import And, Equals, Exists, Filter, Not, Or, Within, parse_filter
from relsdk_scale._milvus_filter import filter_expression, quote
from relsdk_scale._milvus_values import (
    TOKEN_CHARACTERS,
    document_tokens,
    equal_tokens,
    exists_token,
    null_token,
    range_tokens,
)

COMPARE = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}
EDGES = [
    0,
    -0.0,
    1,
    -1,
    0.1,
    10,
    60,
    1e-300,
    -1e300,
    2**53,
    2**53 + 1,
    2.0**53,
    2**63 - 1,
    -(2**63) + 1,
    -(2**53) - 1,
    -10,
]
NUMBERS = st.one_of(
    st.sampled_from([*EDGES, 2.0**63, 2**63, 10**30, 5e-324]),
    st.integers(-100, 100),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "ab", "abc", "2024-01-05", "2024-01-05T12:34:56+08:00", "2025", "9", "中", "中文"]
    ),
    st.sampled_from(
        ["abcdefghijkl", "abcdefghijklm", "中文标题", "中文标题很长", "0" * 32, "0" * 33, "😀", "\x7f"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=14),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
NAMES = st.sampled_from(["a", "b", "c.d", "a.b", "中.文", ""])
VALUES = st.recursive(
    st.one_of(SCALARS, st.lists(SCALARS, max_size=4)),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
METADATA = st.dictionaries(NAMES, VALUES, max_size=4)
FIELDS = st.sampled_from(
    ["a", "b", "c.d", "a.b", "a.a", "b.a.b", "中.文", "metadata.a", "a.c.d", "metadata.c.d"]
)


def bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(list(COMPARE)), values, min_size=1, max_size=3)


SHORT = TEXTS.filter(lambda text: "\0" not in text and len(text.encode()) <= 12)
WANTED = TEXTS.filter(lambda text: "\0" not in text)
COMPARISONS = st.builds(
    lambda field, wanted: {field: wanted},
    FIELDS,
    st.one_of(
        st.one_of(st.none(), st.booleans(), NUMBERS, WANTED),
        st.builds(
            lambda values: {"in": values},
            st.lists(st.one_of(st.none(), st.booleans(), NUMBERS, WANTED), max_size=3),
        ),
        st.builds(lambda value: {"ne": value}, st.one_of(st.none(), NUMBERS, WANTED)),
        st.builds(lambda flag: {"exists": flag}, st.booleans()),
        bounds(NUMBERS),
        bounds(SHORT),
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(lambda part: {"not": part}, inner),
        st.builds(
            lambda word, parts: {word: parts},
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=4,
)


def holds(condition: Filter, tokens: set[str]) -> bool:
    """Evaluate a filter on metadata by tokens alone, as the expression does."""
    if isinstance(condition, And):
        return all(holds(part, tokens) for part in condition.parts)
    if isinstance(condition, Or):
        return any(holds(part, tokens) for part in condition.parts)
    if isinstance(condition, Not):
        return not holds(condition.part, tokens)
    name = condition.field.paths[0][0]
    if isinstance(condition, Exists):
        return exists_token(name) in tokens
    if isinstance(condition, Within):
        return bool(tokens & set(range_tokens(name, condition.bounds)))
    wanted = {*equal_tokens(name, [value for value in condition.values if value is not None])}
    assert isinstance(condition, Equals)
    if None in condition.values:
        return bool(tokens & {*wanted, null_token(name)}) or exists_token(name) not in tokens
    return bool(tokens & wanted)


def sql_holds(condition: Filter, metadata: dict[str, Any]) -> bool:
    """Evaluate it as an `Index` does: by SQLite."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE documents (id, title, text, metadata)")
        connection.execute("INSERT INTO documents VALUES ('1', 't', '', ?)", [metadata_json(metadata)])
        written = filter_condition(condition)
        return bool(
            connection.execute(f"SELECT {written.sql} FROM documents", written.parameters).fetchone()[0]
        )
    finally:
        connection.close()


@settings(max_examples=40, deadline=None)
@given(METADATA, FILTERS)
def test_tokens_say_what_sqlite_says(metadata: dict[str, Any], where: dict[str, Any]) -> None:
    condition = parse_filter(where)
    stored = json.loads(metadata_json(metadata))
    tokens = {token for some in document_tokens(stored).values() for token in some}
    assert all(len(token) == TOKEN_CHARACTERS for token in tokens)
    assert holds(condition, tokens) == sql_holds(condition, stored)


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, max_size=3), bounds(NUMBERS))
def test_one_number_is_within_all_bounds(numbers: list[float], wanted: dict[str, float]) -> None:
    # Python compares integers and floating point exactly; databases hold integers beyond 64 bits as such.
    def held(value: float) -> float:
        return value if abs(value) < 2**63 else float(value)

    prefixes = document_tokens({"n": numbers})["numbers"]
    matches = bool({*prefixes} & {*range_tokens("n", list(wanted.items()))})
    assert matches == any(
        all(COMPARE[word](held(number), held(bound)) for word, bound in wanted.items()) for number in numbers
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, max_size=3), bounds(SHORT))
def test_one_text_is_within_all_bounds(texts: list[str], wanted: dict[str, str]) -> None:
    prefixes = document_tokens({"t": texts})["texts"]
    matches = bool({*prefixes} & {*range_tokens("t", list(wanted.items()))})
    seen = [text.partition("\0")[0] for text in texts]
    assert matches == any(all(COMPARE[word](text, bound) for word, bound in wanted.items()) for text in seen)


def test_a_long_bound_is_refused_and_a_date_is_not() -> None:
    with pytest.raises(InputError, match=r"'author' with a text of 15 bytes.*at most 12 bytes.*shorten it"):
        filter_expression(parse_filter({"author": {"gte": "王小明先生"}}))
    filter_expression(parse_filter({"at": {"gte": "2024-01-05T12:34:56.123456+08:00"}}))
    with pytest.raises(InputError, match="33 bytes"):
        filter_expression(parse_filter({"at": {"gte": "0" * 33}}))


def test_a_range_asks_for_few_tokens() -> None:
    """An expression is a few kilobytes."""
    assert len(range_tokens("n", [("gte", 10), ("lt", 60)])) < 60
    assert len(range_tokens("n", [("gt", 10), ("lte", 60)])) < 70
    assert len(range_tokens("n", [("gt", 0.1), ("lt", math.pi)])) < 300
    assert len(range_tokens("at", [("gte", "2024-01-01"), ("lt", "2025-01-01")])) < 400


def test_the_own_fields_and_quotes() -> None:
    assert quote('引"号\\\n\r\t') == '"引\\"号\\\\\\n\\r\t"'
    expression = filter_expression(parse_filter({"title": {"gte": "中", "lt": "乙"}}))
    assert expression == '(title < "乙" and title >= "中")'
    assert filter_expression(parse_filter({"text": {"in": ["x", None]}})) == 'text in ["x", ""]'
    assert filter_expression(parse_filter({"id": 5})) == 'id == ""'
    assert filter_expression(parse_filter({"title": {"exists": False}})) == '(not (title != ""))'
