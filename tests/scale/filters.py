"""Documents and filters at random, and a plain Python reading of what filters mean."""

import random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from relsdk.index.filter_parser import And, Equals, Exists, Not, Or
from relsdk.records import Document

TEXTS = ["", "x", "X", "猫", "猫和狗", 'it\'s "so"', "back\\slash", "两\n行", "1", "true", "null", "é"]
TEXTS += ["\U0001f600"]
LONG = ["长" * 200, "长" * 200 + "x", "a" * 36, "a" * 37]
DATES = ["2024-05-01", "2024-05-02", "2024-12-31", "2025-01-01T08:00:00+08:00"]
LARGE = [2**53, 2**53 + 1, 2**60, 2**60 + 1, -(2**63), 2**63 - 1, 2**70, 1e300]
NUMBERS = [0, 1, 1.0, -1, 2.5, -0.0, 7, 0.1, *LARGE]
SCALARS = [None, True, False, *TEXTS, *LONG, *DATES, *NUMBERS]
NAMES = ["any", "number", "date", "tags", "o.p", "o.q.r", "a.b", "作者", "two words"]
NAMES += ["metadata.any", "_id", "title", "text"]


def random_documents(count, seed=0):
    """Return documents whose metadata have every type, in fields that filters name."""
    chance = random.Random(seed)
    each = [Document(f"each{at}", "每个", "", {"each": value}) for at, value in enumerate(SCALARS)]
    return [*(_document(number, chance) for number in range(count)), *each]


def every_comparison():
    """Return filters that compare a field with each value, in each way."""
    bounds = [*TEXTS, *DATES, *NUMBERS, "a" * 35]
    ranges = [{"each": {operator: bound}} for bound in bounds for operator in ("lt", "lte", "gt", "gte")]
    return [*({"each": value} for value in SCALARS), *ranges]


def _document(number, chance):
    def some(values, most=3):
        return [chance.choice(values) for _ in range(chance.randint(0, most))]

    metadata = {
        "any": chance.choice([chance.choice(SCALARS), some(SCALARS), {"x": 1}, [["x"], {"y": 1}]]),
        "number": chance.choice([chance.choice(NUMBERS), some(NUMBERS), chance.randint(-3, 9)]),
        "date": chance.choice([*DATES, None, some(DATES)]),
        "tags": some(["猫", "狗", "x", 1, True, None]),
        "o": {"p": chance.choice(SCALARS), "q": chance.choice([{"r": chance.choice(SCALARS)}, "x", None])},
        "a": {"b": chance.choice(["x", 1])},
        "a.b": chance.choice(["猫", None, 2]),
        "作者": chance.choice(["张三", "李四", "x"]),
        "two words": chance.choice([1, "x"]),
    }
    for name in [name for name in metadata if chance.random() < 0.2]:
        del metadata[name]
    title = chance.choice(["标题", "", "x"])
    text = chance.choice(["正文 " * 60, "x"]) if chance.random() < 0.6 else ""
    return Document(f"d{number}", title, text or ("" if title else "无"), metadata)


scalars = st.sampled_from(SCALARS)
_bounds = st.sampled_from(["lt", "lte", "gt", "gte"])
_comparable = st.one_of(st.sampled_from(NUMBERS), st.sampled_from([*TEXTS, *DATES, "d13", "标"]))
_one_field = st.one_of(
    scalars,
    st.builds(lambda value: {"eq": value}, scalars),
    st.builds(lambda value: {"ne": value}, scalars),
    st.builds(lambda values: {"in": values}, st.lists(scalars, max_size=5)),
    st.builds(lambda values: {"nin": values}, st.lists(scalars, max_size=5)),
    st.builds(lambda value: {"exists": value}, st.booleans()),
    st.builds(lambda operator, value: {operator: value}, _bounds, _comparable),
    st.builds(lambda low, high: {"gte": low, "lt": high}, st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)),
    st.builds(lambda low, high: {"gt": low, "lte": high}, st.sampled_from(DATES), st.sampled_from(DATES)),
)
_fields = st.dictionaries(st.sampled_from(NAMES), _one_field, min_size=1, max_size=2)
wheres = st.recursive(
    _fields,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=4,
)


def at_random(examples):
    """Let hypothesis make so many filters, the same ones each time, and not look for smaller ones."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def allows(parsed, document):
    """Tell whether a filter allows a document."""
    if isinstance(parsed, And):
        return all(allows(part, document) for part in parsed.parts)
    if isinstance(parsed, Or):
        return any(allows(part, document) for part in parsed.parts)
    if isinstance(parsed, Not):
        return not allows(parsed.part, document)
    value = parsed.field.of(document)
    exists = value != "" if parsed.field.column is not None else value is not None
    if isinstance(parsed, Exists):
        return exists
    items = [_stored(item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(parsed, Equals):
        equal = any(
            _kind(item) == _kind(one) != "object" and item == one for item in items for one in parsed.values
        )
        return equal or (None in parsed.values and not exists)
    return any(all(_compares(item, operator, bound) for operator, bound in parsed.bounds) for item in items)


def _stored(item):
    """Return a number as databases hold it: integers beyond 64 bits are floating point."""
    return float(item) if type(item) is int and not -(2**63) <= item < 2**63 else item


def _kind(item):
    if isinstance(item, bool):
        return "boolean"
    if isinstance(item, int | float):
        return "number"
    return "text" if isinstance(item, str) else "null" if item is None else "object"


def _compares(item, operator, bound):
    if _kind(item) != _kind(bound):
        return False
    return {"lt": item < bound, "lte": item <= bound, "gt": item > bound, "gte": item >= bound}[operator]
