"""Filters on metadata: the SQL against a plain Python reading of the same rules."""

import json
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.index import Index, IndexConfig
from relsdk.index.filters import compile_filter

ROWS = [
    {},
    {"a": None},
    {"a": "x"},
    {"a": "X"},
    {"a": 1},
    {"a": 1.0},
    {"a": "1"},
    {"a": True},
    {"a": False},
    {"a": 2.5},
    {"a": ["x", 1]},
    {"a": []},
    {"a": [None, "y"]},
    {"a": [["x"]]},
    {"a": {"x": "x", "b": 1}},
    {"a": "2024-05-01", "b": 3},
    {"a": 2**70},
    {"作者": "张三", "a": "it's; DROP TABLE documents --"},
    {"a b.c": "x"},
    {"a": [1, 10]},
]


def select(where, rows=ROWS):
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, metadata TEXT)")
        connection.executemany(
            "INSERT INTO documents VALUES (?, ?)",
            [(i, json.dumps(row, ensure_ascii=False)) for i, row in enumerate(rows)],
        )
        condition = compile_filter(where)
        sql = f"SELECT row FROM documents WHERE {condition.sql} ORDER BY row"
        return [row for (row,) in connection.execute(sql, condition.parameters)]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({}, list(range(len(ROWS)))),
        ({"a": "x"}, [2, 10]),
        ({"a": {"eq": "x"}}, [2, 10]),
        ({"a": 1}, [4, 5, 10, 19]),
        ({"a": "1"}, [6]),
        ({"a": True}, [7]),
        ({"a": False}, [8]),
        ({"a": None}, [0, 1, 12, 18]),
        ({"a": 2**70}, [16]),
        ({"a": {"in": ["x", "y", True]}}, [2, 7, 10, 12]),
        ({"a": {"in": [1, 2.5]}}, [4, 5, 9, 10, 19]),
        ({"a": {"in": [None, "X"]}}, [0, 1, 3, 12, 18]),
        ({"a": {"in": []}}, []),
        ({"a": {"in": {"x"}}}, [2, 10]),
        ({"a": {"lt": 2}}, [4, 5, 10, 19]),
        ({"a": {"gte": 1, "lte": 2.5}}, [4, 5, 9, 10, 19]),
        ({"a": {"gt": 1, "lt": 10}}, [9]),  # 1 and 10 of one list are not between
        ({"a": {"gte": "2024-01-01", "lt": "2025-01-01"}}, [15]),
        ({"a": {"ne": "x"}}, [i for i in range(len(ROWS)) if i not in (2, 10)]),
        ({"a": {"ne": None, "lt": 2}}, [4, 5, 10, 19]),
        ({"a": "2024-05-01", "b": {"gt": 2}}, [15]),
        ({"a": "2024-05-01", "b": {"gt": 3}}, []),
        ({"作者": "张三"}, [17]),
        ({"a": "it's; DROP TABLE documents --"}, [17]),
        ({"a b.c": "x"}, [18]),
        ({"absent": "x"}, []),
    ],
)
def test_rules(where, wanted):
    assert select(where) == wanted


@pytest.mark.parametrize(
    "where",
    [
        [("a", 1)],
        "a=1",
        {1: "x"},
        {"": "x"},
        {'a"': "x"},
        {"a\\": "x"},
        {"a\0": "x"},
        {"a": {"like": "x"}},
        {"a": {}},
        {"a": [1, 2]},
        {"a": {"in": "xy"}},
        {"a": {"in": 3}},
        {"a": {"in": [{"b": 1}]}},
        {"a": {"lt": None}},
        {"a": {"lt": True}},
        {"a": {"lt": 1, "gt": "0"}},
        {"a": float("nan")},
        {"a": 10**400},
        {"a": "\ud800"},
        {"\ud800": "x"},
        {"a": object()},
    ],
)
def test_refused(where):
    with pytest.raises(InputError):
        compile_filter(where)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "x", "y", "1", "'", '"', "作"])
)
fields = st.one_of(scalars, st.lists(scalars, max_size=3))


def equal(value, wanted):
    items = value if isinstance(value, list) else [value]
    return any(type(item) is type(wanted) and item == wanted for item in items)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional={"a": fields}), max_size=8),
    wanted=st.lists(scalars, max_size=3),
)
def test_equality_and_in_follow_the_rules(rows, wanted):
    def matches(row):
        return any(equal(row.get("a"), one) for one in wanted)

    expected = [i for i, row in enumerate(rows) if matches(row)]
    assert select({"a": {"in": wanted}}, rows) == expected
    for one in wanted[:1]:
        assert select({"a": one}, rows) == [i for i, row in enumerate(rows) if equal(row.get("a"), one)]
        assert select({"a": {"ne": one}}, rows) == [
            i for i, row in enumerate(rows) if not equal(row.get("a"), one)
        ]


@pytest.fixture(scope="module")
def filtered_index(tmp_path_factory, document_factory):
    class Encoder:
        name, fingerprint, dimension = "random", "r", 24
        random = np.random.default_rng(5)

        def encode_document(self, inputs):
            vectors = self.random.standard_normal((len(inputs), 24)).astype(np.float32)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    path = tmp_path_factory.mktemp("filtered") / "x"
    config = IndexConfig(exact_rows=300, ef_construction=80)
    with Index.build(path, document_factory(4000), Encoder(), config=config) as index:
        yield index


@pytest.mark.parametrize(
    ("where", "rule"),
    [
        ({"author": "a3"}, lambda m: m["author"] == "a3"),
        ({"n": {"lt": 40}}, lambda m: m["n"] < 40),
        ({"n": {"gte": 400, "lt": 1900}}, lambda m: 400 <= m["n"] < 1900),
        ({"ratio": {"gt": 0.05}}, lambda m: m["ratio"] > 0.05),
        ({"tags": "t3"}, lambda m: "t3" in m["tags"]),
        ({"tags": {"in": ["t9", "t10"]}, "flag": True}, lambda m: {"t9", "t10"} & {*m["tags"]} and m["flag"]),
        ({"author": {"ne": "a0"}}, lambda m: m["author"] != "a0"),
    ],
)
def test_filtered_search_equals_brute_force(filtered_index, document_factory, where, rule):
    allowed = np.array([i for i, d in enumerate(document_factory(4000)) if rule(d.metadata)])
    queries = filtered_index.vectors[:40]
    truth = np.argsort(-(queries @ filtered_index.vectors[allowed].T), axis=1)[:, :10]
    for exact, least in ((True, 1.0), (False, 0.95)):
        found = filtered_index.search(queries, 10, where=where, exact=exact)
        shares = []
        for hits, order in zip(found, truth, strict=True):
            assert all(rule(hit.document.metadata) for hit in hits)
            wanted = {f"d{allowed[row]}" for row in order}
            shares.append(len(wanted & {hit.document.id for hit in hits}) / len(wanted))
        assert np.mean(shares) >= least


def test_filter_that_leaves_few_or_none(filtered_index):
    query = filtered_index.vectors[0]
    assert len(filtered_index.search(query, 10, where={"n": {"lt": 3}})) == 3
    assert filtered_index.search(query, 10, where={"n": -1}) == []
    assert filtered_index.search(query[None], 10, where={"n": -1}) == [[]]
    assert len(filtered_index.search(query, 10, where={})) == 10
