"""Columns against SQLite, which reads the metadata themselves."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.index._columns import Columns
from relsdk.index._columns_writer import ColumnsWriter
from relsdk.index._document_writer import metadata_json
from relsdk.index._filter_sql import KINDS, filter_condition, has_field, has_kind
from relsdk.index._row_set import RowSet
from relsdk.index.filter_parser import parse_filter


class Oracle:
    """The rows in SQLite."""

    def __init__(self, rows):
        self.count = len(rows)
        self.texts = [metadata_json(row) for row in rows]
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, metadata, id, title, text)")
        self.connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, '')",
            [(i, text, f"d{i}", f"t{i % 3}") for i, text in enumerate(self.texts)],
        )

    def close(self):
        self.connection.close()

    def mask(self, condition):
        sql = f"SELECT row FROM documents WHERE {condition.sql}"
        mask = np.zeros(self.count, dtype=bool)
        mask[[row for (row,) in self.connection.execute(sql, condition.parameters)]] = True
        return mask


def columns_of(texts, chunk=3):
    writer = ColumnsWriter()
    for start in range(0, len(texts), chunk):
        writer.add(texts[start : start + chunk])
    with tempfile.TemporaryDirectory() as folder:
        writer.save(Path(folder))
        return Columns.load(Path(folder), len(texts))


def never(parsed):
    raise AssertionError(f"scanned for {parsed}")


NAMES = ["a", "b.c", "b", "b.c.d", "作 者", "metadata.or"]
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, 1.0, 2.5, 1e300, 2**53, 2**53 + 1, float(2**53), 2**60, 2**63 - 1, -(2**63)]),
    st.sampled_from([2**63, 2**64 + 1, -(2**63) - 1, 2**70, float(2**63), 2**62 + 1, float(2**62)]),
)
texts = st.sampled_from(["", "x", "y'", "X", "xy", "1", 'and "', "猫", "é", "\uffff", "😀", "\x7f", "\x01"])
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
items = st.one_of(scalars, st.just([]), st.just({}), st.just({"c": 1}), st.just(["x"]))
held = st.one_of(scalars, st.lists(items, max_size=4))
inner = st.fixed_dictionaries({}, optional={"c": st.one_of(held, st.fixed_dictionaries({"d": held}))})
rows_of_metadata = st.lists(
    st.fixed_dictionaries({}, optional={
        "a": held, "b.c": held, "b": st.one_of(held, inner), "b.c.d": held, "作 者": held, "or": held,
        "": held, 'q"\\': held,
    }),
    min_size=1, max_size=9,
)  # fmt: skip
bounds = st.sampled_from(["lt", "lte", "gt", "gte"])
leaves = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), scalars).map(lambda pair: {pair[0]: pair[1]}),
    st.tuples(st.sampled_from(["in", "nin"]), st.lists(scalars, max_size=4)).map(lambda p: {p[0]: p[1]}),
    st.dictionaries(bounds, numbers, min_size=1, max_size=3),
    st.dictionaries(bounds, texts, min_size=1, max_size=3),
    st.booleans().map(lambda there: {"exists": there}),
)
leaf = st.tuples(st.sampled_from(NAMES), leaves).map(lambda pair: {pair[0]: pair[1]})


def trees_of(leaf):
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
            inner.map(lambda one: {"not": one}),
        ),
        max_leaves=6,
    )


def parse(where):
    try:
        return parse_filter(where)
    except InputError as error:
        assume("nested more than" not in str(error))
        raise


@settings(max_examples=150, deadline=None)
@given(rows=rows_of_metadata, where=trees_of(leaf))
@example(rows=[{"b.c": None, "b": {"c": 1}}, {"b": {"c": 1}}], where={"b.c": 1})
@example(rows=[{"a": 2**53 + 1}, {"a": 2**53}], where={"a": {"gt": float(2**53)}})
def test_columns_answer_as_sqlite_does(rows, where):
    with closing(Oracle(rows)) as oracle:
        parsed = parse(where)
        columns = columns_of(oracle.texts)
        scans = []

        def scan(part, among):
            scans.append(part)
            found = RowSet(oracle.mask(filter_condition(part)), scanned=True)
            return found if among is None else found & among

        found = columns.matching(parsed, scan)
        expected = oracle.mask(filter_condition(parsed))
        assert found.mask.tolist() == expected.tolist()
        assert found.rows.tolist() == np.flatnonzero(expected).tolist()
        assert found.count == expected.sum()
        assert found.scanned == bool(scans)
        assert not scans or not columns.answers(parsed)


@settings(max_examples=150, deadline=None)
@given(rows=rows_of_metadata, name=st.sampled_from([*NAMES, "absent"]))
def test_columns_know_the_fields(rows, name):
    with closing(Oracle(rows)) as oracle:
        columns = columns_of(oracle.texts)
        field = parse_filter({name: {"exists": True}}).field
        assert columns.has_field(field) == oracle.mask(has_field(field)).any()
        for kind in KINDS:
            known = columns.has_kind(field, kind)
            assert known is None or known == oracle.mask(has_kind(field, kind)).any()
