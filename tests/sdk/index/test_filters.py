"""Filters on metadata: the SQL against a plain Python reading of the same rules."""

import json
import sqlite3

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.index import Index, IndexConfig, filter_parser
from relsdk.index._filter_sql import filter_condition
from relsdk.index.filter_parser import parse_filter
from relsdk.index.filter_text import parse_where

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
        connection.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, metadata, id, title, text)")
        connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, '')",
            [(i, json.dumps(row, ensure_ascii=False), f"d{i}", f"t{i % 3}") for i, row in enumerate(rows)],
        )
        condition = filter_condition(parse_filter(where))
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
        ({"a": {"nin": ["x", 1]}}, [i for i in range(len(ROWS)) if i not in (2, 4, 5, 10, 19)]),
        ({"a": {"exists": True}}, [i for i in range(len(ROWS)) if i not in (0, 1, 18)]),
        ({"a": {"exists": False}}, [0, 1, 18]),
        ({"a.b": 1}, [14]),
        ({"a.b.c": 1}, []),
        ({"a b.c": {"exists": True}}, [18]),
        ({"metadata.a": "X"}, [3]),
        ({"or": [{"a": "x"}, {"a": 2.5}]}, [2, 9, 10]),
        ({"and": [{"a": 1}, {"a": 10}]}, [19]),
        ({"and": [{"a": {"gt": 1}}, {"a": {"lt": 10}}]}, [9, 19]),  # another element for each
        ({"not": {"a": {"exists": True}}}, [0, 1, 18]),
        ({"not": {"or": [{"a": {"exists": True}}, {"a b.c": "x"}]}}, [0, 1]),
        ({"or": [{}]}, list(range(len(ROWS)))),
        ({"id": "d3"}, [3]),
        ({"_id": {"in": ["d3", "d5"]}}, [3, 5]),
        ({"title": "t1", "id": {"lt": "d13"}}, [1, 10]),
        ({"text": {"exists": False}, "a": "X"}, [3]),
    ],
)
def test_rules(where, wanted):
    assert select(where) == wanted


def nested_list(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


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
        {"a": "x\0"},  # SQLite would compare what stands before it
        {"_id": {"in": ["x", "x\0y"]}},
        {"title": {"lt": "\0"}},
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
        {"a": nested_list(5000)},
        {"or": []},
        {"or": {"a": 1}},
        {"and": "a=1"},
        {"not": [{"a": 1}]},
        {"or": [["a", 1]]},
        {"a": {"exists": 1}},
        {"a": {"nin": "x"}},
        {"a": {"b": {"eq": 1}}},
        {"x" * 1001: 1},
        {"\ud800": {"exists": True}},
    ],
)
def test_refused(where):
    with pytest.raises(InputError):
        filter_condition(parse_filter(where))


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


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({f"f{i}": i for i in range(1200)}, "where has 1,200 fields; at most 100"),
        ({"or": [{"a": i} for i in range(1200)]}, "1,200 filters in 'or'; at most 100"),
        ({"or": [{"a": i, "b": i, "c": i} for i in range(40)]}, "where has 120 comparisons; at most 100"),
        ({"a": {"in": range(1_000_000)}}, "where has 1,000,000 values as 'in' for 'a'; at most 100,000"),
        ({"a": "x" * 4_000_001}, "where has 4,000,001 characters of text; at most 4,000,000"),
        ({"a": {"gt": "x" * 2_000_001, "lt": "y" * 2_000_001}}, "where has 4,000,002 characters of text"),
        ({"a": {"in": range(60_000), "nin": range(60_000)}}, "where has 120,000 values; at most 100,000"),
    ],
)
def test_too_much_is_refused_with_its_number(where, said):
    with pytest.raises(InputError, match=said):
        filter_condition(parse_filter(where))


def nested(leaf, depth, build):
    for _ in range(depth):
        leaf = build(leaf)
    return leaf


@pytest.mark.parametrize("build", [
    lambda one: {"not": one},
    lambda one: {"a": 1, "or": [one, {"a": 1}]},
    lambda one: {"and": [{"a.b": {"ne": 1}}, {"or": [{"not": {"a": 2}}, one]}]},
])  # fmt: skip
def test_all_that_is_allowed_is_borne_by_sqlite(build):
    leaf = {"a.b": {"in": ["x", 1, None, True, "y"], "gte": 1, "lt": 3}}
    levels = 8 if "and" not in build({}) else 3
    select(nested(leaf, levels, build))
    with pytest.raises(InputError, match="nested more than 8 levels deep"):
        filter_condition(parse_filter(nested(leaf, 9, build)))
    with pytest.raises(InputError, match="nested more than 8 levels deep"):
        filter_condition(parse_filter(nested(leaf, 5000, build)))
    wide = {f"f{i}.x": {"in": ["x", i, None, True, f"y{i}"]} for i in range(filter_parser.MAX_COMPARISONS)}
    assert select(wide) == list(range(len(ROWS)))
    assert len(filter_condition(parse_filter({"or": [wide]})).parameters) < 999
    many = [f"x{i}" for i in range(filter_parser.MAX_VALUES - 1)]
    assert select({"a": {"in": [*many, "x"]}}) == [2, 10]


# Random filters against a plain reading of the rules.
names = st.sampled_from(["a", "b.c", "作 者", "metadata.or"])
some = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, "", "x", "y'", 'and "', "猫"])
)
held = st.one_of(some, st.lists(some, max_size=2))
metadata = st.fixed_dictionaries({}, optional={
    "a": held, "b.c": held, "b": st.one_of(held, st.fixed_dictionaries({}, optional={"c": held})),
    "作 者": held, "or": held,
})  # fmt: skip
leaf = st.one_of(
    st.tuples(names, st.sampled_from(["eq", "ne"]), some),
    st.tuples(names, st.sampled_from(["lt", "lte"]), st.integers(-2, 2) | st.sampled_from(["x", "z"])),
    st.tuples(names, st.sampled_from(["in", "nin"]), st.lists(some, min_size=1, max_size=3)),
    st.tuples(names, st.just("exists"), st.booleans()),
).map(lambda parts: {parts[0]: {parts[1]: parts[2]}})
trees = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
        inner.map(lambda one: {"not": one}),
    ),
    max_leaves=6,
)
TEXT = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def holds(where, row):
    ((name, wanted),) = where.items()
    if name == "or":
        return any(holds(one, row) for one in wanted)
    if name == "and":
        return all(holds(one, row) for one in wanted)
    if name == "not":
        return not holds(wanted, row)
    key = name.removeprefix("metadata.")
    value = row.get(key)
    if key not in row and "." in key:
        outer, inner = key.split(".")
        value = row[outer].get(inner) if isinstance(row.get(outer), dict) else None
    ((operator, other),) = wanted.items()
    return compares(value, operator, other)


def compares(value, operator, other):
    items = [] if isinstance(value, dict) else value if isinstance(value, list) else [value]
    number = (int, float)

    def same(one, two):
        if isinstance(one, number) and not isinstance(one, bool):
            return isinstance(two, number) and not isinstance(two, bool) and one == two
        return type(one) is type(two) and one == two

    def less(one):
        if isinstance(other, str):
            comparable = isinstance(one, str)
        else:
            comparable = isinstance(one, number) and not isinstance(one, bool)
        return comparable and (one < other or (operator == "lte" and one == other))

    if operator == "exists":
        return (value is not None) == other
    if operator in ("lt", "lte"):
        return any(map(less, items))
    among = other if operator in ("in", "nin") else [other]
    found = any(same(item, one) for item in items for one in among)
    return found != (operator in ("ne", "nin"))


def written(where):
    """The same filter as text of the command line."""
    ((name, wanted),) = where.items()
    if name in ("or", "and"):
        return f" {name.upper()} ".join(f"({written(one)})" for one in wanted)
    if name == "not":
        return f"not ({written(wanted)})"
    ((operator, value),) = wanted.items()
    field = json.dumps(name, ensure_ascii=False)
    if operator == "exists":
        return f"{field} exists" if value else f"not {field} exists"
    if operator in ("in", "nin"):
        listed = ", ".join(json.dumps(one, ensure_ascii=False) for one in value)
        return f"{field} {'not in' if operator == 'nin' else 'in'} ({listed})"
    return f"{field} {TEXT[operator]} {json.dumps(value, ensure_ascii=False)}"


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(metadata, min_size=1, max_size=6), where=trees)
def test_any_filter_follows_the_rules_as_mapping_and_as_text(rows, where):
    try:
        as_mapping, as_text = select(where, rows), select(parse_where([written(where)]), rows)
    except InputError as error:
        assume("nested more than" not in str(error))
        raise
    assert as_mapping == as_text == [i for i, row in enumerate(rows) if holds(where, row)]


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


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    class Encoder:
        name, fingerprint, dimension = "same", "s", 2

        def encode_document(self, inputs):
            return np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(inputs), 1))

    rows = [
        {
            "_id": "a",
            "title": "one",
            "duration": "95",
            "tags": ["x"],
            "by": {"name": "w", "age": 3},
            "none": None,
        },
        {"_id": "b", "title": "two", "price": 5, "tags": [1], "new": True, "id": "7", "empty": []},
    ]
    path = tmp_path_factory.mktemp("shop") / "x"
    with Index.build(path, rows, Encoder()) as index:
        yield index


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({"title": "one"}, "a"),
        ({"_id": "b"}, "b"),
        ({"metadata.id": "7"}, "b"),
        ({"by.name": "w"}, "a"),
        ({"tags": 1}, "b"),
        ({"price": {"lt": 4}}, ""),
        ({"none": "x"}, ""),
        ({"empty": "x"}, ""),
        ({"price": None}, "a"),
        ({"price": {"in": ["x", 5]}}, "b"),
        ({"not": {"duration": {"exists": True}}}, "b"),
    ],
)
def test_fields_of_an_index(shop, where, wanted):
    found = shop.search(np.array([1.0, 0.0]), 5, where=where)
    assert "".join(hit.document.id for hit in found) == wanted
    assert shop.count(where) == len(wanted)
    assert shop.count() == 2


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"durration": "1"}, "no document has the field 'durration'; did you mean 'duration'? their fields "
                              "are by, by.age, by.name, duration, empty, id, new, none, price, tags, and id"),
        ({"durration": {"ne": "95"}}, "did you mean 'duration'"),
        ({"durration": {"exists": False}}, "did you mean 'duration'"),
        ({"or": [{"price": 5}, {"titel": None}]}, "did you mean 'title'"),
        ({"by.nam": "w"}, "did you mean 'by.name'"),
        ({"duration": {"lt": 60}}, "'duration' holds text only, never numbers; compare it with text, as in "
                                   "duration=\"5\"; if the file was CSV: --types duration=number"),
        ({"price": {"ne": "5"}}, "'price' holds numbers only, never text; compare it with a number, "
         "as in price=5, without quotes"),
        ({"new": "true"}, "'new' holds booleans only, never text; write new=true or new=false"),
        ({"new": 1}, "'new' holds booleans only, never numbers; write new=true or new=false"),
        ({"tags": True}, "'tags' holds text and numbers only, never booleans; compare it with text or "
                         "a number"),
        ({"by": "w"}, "'by' holds objects; compare one of their fields: by.age, by.name"),
        ({"title": 5}, "'title' is text; compare it with text"),
        ({"id": "7"}, "'id' is a part of every document and a field of its metadata, too"),
    ],
)  # fmt: skip
def test_a_filter_that_can_find_nothing_is_refused(shop, where, said):
    for ask in (lambda: shop.search(np.array([1.0, 0.0]), 5, where=where), lambda: shop.count(where)):
        with pytest.raises(InputError) as caught:
            ask()
        assert said in str(caught.value)


@pytest.mark.parametrize("where", ["", [], 0, False, "a=1", [{}]])
def test_what_is_no_filter_is_no_empty_one(shop, where):
    asks = (lambda: shop.search(np.array([1.0, 0.0]), 5, where=where), lambda: shop.count(where),
            lambda: shop.rows(where), lambda: shop.documents(where))  # fmt: skip
    for ask in asks:
        with pytest.raises(InputError, match="write a mapping"):
            ask()


def test_long_lists_bear_the_largest_filters(tmp_path, encoder):
    """The bound on SQLite's steps is for damaged files: no filter that is allowed reaches it."""
    documents = [{"_id": str(number), "text": "x", "n": [number] * 6000} for number in range(10)]
    config = IndexConfig(kind="flat")
    with Index.build(tmp_path / "long", documents, encoder, config=config) as index:
        wide = [{"n": {"in": [20 + number, True, None, "x"]}} for number in range(99)]
        with pytest.raises(InputError, match="holds numbers only"):
            index.count({"or": [{"n": "x"}]})
        assert index.count({"or": [*wide, {"n": 3}]}) == 1


def test_a_small_index_bears_the_largest_filters(shop):
    most = filter_parser.MAX_VALUES - 1
    assert shop.count({"price": {"in": [*(number / 7 for number in range(1, most)), 5]}}) == 1
    assert shop.count({"duration": {"in": ["95", *("\x01" * 40 for _ in range(most))]}}) == 1
    assert shop.count({"duration": "猫" * filter_parser.MAX_CHARACTERS}) == 0
    assert shop.count({"or": [{"by.age": {"gte": number, "lt": 9}} for number in range(100)]}) == 1
    wide = [{"by.name": {"in": [f"x{i}.{j}" for j in range(990)] + [None, "w"]}} for i in range(100)]
    assert shop.count({"and": wide}) == 2


def test_without_metadata_only_the_own_fields_can_be_asked_for(tmp_path, shop):
    class Encoder:
        name, fingerprint, dimension = "same", "s", 2

        def encode_document(self, inputs):
            return np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(inputs), 1))

    with (
        Index.build(tmp_path / "x", [{"_id": "a", "title": "t"}], Encoder()) as index,
        pytest.raises(InputError, match=r"'author'; they have no metadata, and id, title, text"),
    ):
        index.count({"author": "x"})
