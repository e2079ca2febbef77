"""What columns count, sort by and leave out, and what a damaged file leads to."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import IndexFolderError, InputError
from relsdk.index._columns import Columns
from relsdk.index._columns_file import ARRAYS_FILE, COLUMN_FILES, DIRECTORY_FILE
from relsdk.index._columns_writer import ColumnsWriter
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._document_writer import DocumentWriter, metadata_json
from relsdk.index._filter_compiler import FilterCompiler
from relsdk.index._filter_tree import Equals
from relsdk.index._row_filter import RowFilter
from relsdk.index._row_set import RowSet
from relsdk.index.filter_parser import parse_field, parse_filter
from relsdk.records import Document


@pytest.fixture
def folder(tmp_path):
    """Write rows to a folder of its own: their columns, and their documents."""
    made = []

    def write(rows):
        path = tmp_path / str(len(made))
        path.mkdir()
        made.append(path)
        documents = [Document(f"d{i}", f"t{i}", "", row) for i, row in enumerate(rows)]
        texts = [metadata_json(row) for row in rows]
        ColumnsWriter.of([texts]).save(path)
        with DocumentWriter(path / DOCUMENTS_FILE) as writer:
            writer.put(range(len(rows)), documents, texts)
        return path

    return write


def rows_of(where, columns, scan=None):
    return columns.matching(parse_filter(where), scan).rows.tolist()


items = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, -0.0, 2**70, "", "x", "猫"])
)
held = st.one_of(items, st.lists(items, max_size=3))
some_rows = st.lists(
    st.fixed_dictionaries({}, optional={"a": held, "b.c": held, "b": st.fixed_dictionaries({"c": held})}),
    min_size=1, max_size=8,
)  # fmt: skip


def kind(value):
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def counted(rows, field):
    counts = Counter()
    for row in rows:
        value = field.of(Document("d", "t", "", row))
        listed = value if isinstance(value, list) else [value]
        counts.update({(kind(one), one) for one in listed if one is not None})
    return counts


@settings(max_examples=80, deadline=None)
@given(rows=some_rows, name=st.sampled_from(["a", "b.c", "absent"]), seed=st.integers(0, 99))
def test_facets_count_documents(tmp_path_factory, rows, name, seed):
    path = tmp_path_factory.mktemp("facets")
    ColumnsWriter.of([[metadata_json(row) for row in rows]]).save(path)
    columns, field = Columns.load(path, len(rows)), parse_field(name)
    mask = np.random.default_rng(seed).random(len(rows)) < 0.6
    some = [row for row, allowed in zip(rows, mask, strict=True) if allowed]
    assert columns.facets(field, None) == counted(rows, field)
    assert columns.facets(field, RowSet(mask)) == counted(some, field)


def test_what_is_too_much_is_left_out(folder):
    count = 3000
    rows = [
        {
            "about": f"{i} " + "long " * 30,
            "vector": [i + j / 64 for j in range(64)],
            "wide": [i, 2**53 + 1, 0.5],
            "cut": "x\0y",
            "essay": "x" * 2000 if i == 7 else "x",
            "code": f"v{i:011x}",
        }
        for i in range(count)
    ]
    columns = Columns.load(folder(rows), count)
    for name, value in (("about", "x"), ("vector", 1), ("wide", 0.5), ("cut", "x"), ("essay", "x")):
        field = parse_field(name)
        assert not columns.answers(parse_filter({name: value})), name
        assert columns.answers(parse_filter({name: {"exists": True}}))
        assert columns.has_kind(field, kind(value)) is True
        assert columns.facets(field, None) is None
        assert rows_of({name: True}, columns) == []  # of a kind that is there whole
    assert rows_of({"code": "v00000000010"}, columns) == [16]
    assert sum((folder(rows[:1]).parent / "0" / name).stat().st_size for name in COLUMN_FILES) < 150_000


def test_only_what_no_column_answers_is_scanned_among_what_is_left(folder):
    rows = [{"a": i % 50, "about": f"{i % 3} " + "long " * 300} for i in range(200)]
    columns = Columns.load(folder(rows), len(rows))
    asked = []

    def scan(parsed, among):
        asked.append((parsed, None if among is None else among.rows.tolist()))
        return RowSet(np.ones(len(rows), dtype=bool), scanned=True)

    wanted = {"a": 3, "about": "x", "id": "d3"}
    found = columns.matching(parse_filter(wanted), scan)
    assert found.scanned
    assert found.rows.tolist() == [3, 53, 103, 153]
    ((parsed, among),) = asked
    assert among == [3, 53, 103, 153]
    assert [leaf.field.name for leaf in parsed.parts] == ["about", "id"]
    asked.clear()
    assert columns.matching(parse_filter({"a": -1, "about": "x"}), scan).count == 0
    assert not asked  # nothing is left to look at
    columns.matching(parse_filter({"or": [{"a": 3}, {"about": "x"}, {"id": "d3"}]}), scan)
    assert [type(part).__name__ for part, _ in asked] == ["Or"]


def test_many_fields_and_deep_ones(folder):
    deep = {"x": 1}
    for _ in range(20):
        deep = {"k": deep}
    rows = [{f"f{i}": i for i in range(300)}, {"k": deep, "f299": 1}]
    columns = Columns.load(folder(rows), 2)
    assert rows_of({"f3": 3}, columns) == [0]
    assert columns.has_field(parse_field("f299")) is None
    assert columns.names() is None
    assert not columns.answers(parse_filter({"f299": 1}))
    assert Columns.load(folder(rows[:1] * 2 + [{}]), 3).has_field(parse_field("f3"))


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_the_files_do_not_depend_on_chunks(tmp_path, chunk):
    texts = [
        metadata_json({"a": f"v{i % 700}", "t": [i, i % 7], "long": "y" * (i % 300), "b": i % 3 == 0})
        for i in range(9000)
    ]
    ColumnsWriter.of([texts]).save(tmp_path)
    writer = ColumnsWriter.of(texts[start : start + chunk] for start in range(0, len(texts), chunk))
    assert writer.is_saved(tmp_path)
    texts[5] = metadata_json({"a": "v6"})
    assert not ColumnsWriter.of([texts]).is_saved(tmp_path)


def test_rows_that_are_no_objects_are_refused():
    for text in ("[1]", "{", '"x"', "", '{"a":' * 3000):
        with pytest.raises(IndexFolderError, match="metadata of row 1 are no JSON object"):
            ColumnsWriter.of([["{}", text]])


def test_segments_with_and_without_columns_answer_alike(folder):
    rows = [[{"a": i % 3, "b": "x" * 400 + str(i % 2), "n": {"c": [i]}} for i in range(start, start + 40)]
            for start in (0, 40, 80)]  # fmt: skip
    rows[2][5] = {"only": True}
    paths = [folder(part) for part in rows]
    readers = [DocumentReader(path / DOCUMENTS_FILE) for path in paths]
    kept = [Columns.load(paths[0], 40), None, Columns.load(paths[2], 40)]
    mixed = FilterCompiler([RowFilter(*pair, 40) for pair in zip(readers, kept, strict=True)])
    plain = FilterCompiler([RowFilter(reader, None, 40) for reader in readers])
    for where in (
        {"a": 1}, {"b": "x" * 400 + "1", "a": {"in": [0, 2]}}, {"n.c": {"gte": 30, "lt": 90}}, {"only": True},
        {"id": {"in": ["d7", "d8", "absent"]}}, {"not": {"title": "t4"}}, {"only": None},
        {"or": [{"a": 1}, {"id": "d3"}]}, {"a": 1, "only": {"exists": False}},
    ):  # fmt: skip
        for one, other in zip(mixed.matching(where), plain.matching(where), strict=True):
            assert one.rows.tolist() == other.rows.tolist(), where
    assert [one.scanned for one in mixed.matching({"a": 1})] == [False, True, False]
    assert not any(one.scanned for one in plain.matching({"id": "d7"}))
    assert mixed.matching({"a": 1})[0] is mixed.matching({"a": 1})[0]
    assert mixed.matching({"only": True})[2].count == 1
    for where, said in (
        ({"onli": 1}, "did you mean 'only'. their fields are a, b, n, n.c, only, and id"),
        ({"a": "1"}, "'a' holds numbers only, never text"),
        ({"n": 1}, "compare one of their fields: n.c"),
    ):
        for compiler in (mixed, plain):
            with pytest.raises(InputError, match=said):
                compiler.parse(where)
    everything = RowSet(np.ones(40, dtype=bool))
    for name in ("a", "b", "n.c", "only", "title", "absent"):
        for reader, columns in zip(readers, kept, strict=True):
            one, other = RowFilter(reader, columns, 40), RowFilter(reader, None, 40)
            assert one.facets(parse_field(name), everything) == other.facets(parse_field(name), everything)
    for reader in readers:
        reader.close()


def test_true_and_one_are_two_filters(folder):
    path = folder([{"a": 1}, {"a": True}])
    reader = DocumentReader(path / DOCUMENTS_FILE)
    rows = RowFilter(reader, Columns.load(path, 2), 2)
    for value, row in ((1, 0), (True, 1), (1.0, 0)):
        assert rows.matching(Equals(parse_field("a"), (value,))).rows.tolist() == [row]
    reader.close()


def use(columns, count):
    """Whatever can be asked; a scan finds nothing."""
    for name in ("a", "t", "n", "flag", "o.x", "sparse", "absent"):
        field = parse_field(name)
        for wanted in (1, "v3", True, None, 0.5, {"gte": 2, "lt": 40}, {"gt": "v1"}, {"in": ["v1", 3, 4]},
                       {"in": [*range(200), *map(str, range(200))]}, {"exists": True}):  # fmt: skip
            where = wanted if isinstance(wanted, dict) else {"eq": wanted}
            rows = columns.matching(
                parse_filter({name: where}), lambda *_: RowSet(np.zeros(count, dtype=bool))
            )
            assert rows.mask.shape == (count,)
            assert not len(rows.rows) or (rows.rows.min() >= 0 and rows.rows.max() < count)
        columns.facets(field, None)
        columns.facets(field, RowSet(np.arange(count) % 2 == 0))
        for one in ("text", "number", "boolean"):
            columns.has_kind(field, one)


def damage(path, random):
    """Change a few bytes of a file, cut it, or change a number of the directory."""
    name = random.choice(COLUMN_FILES)
    content = bytearray((path / name).read_bytes())
    how = random.integers(3)
    if name == DIRECTORY_FILE and how < 2:
        text = content.decode()
        numbers = [part for part in json.dumps(json.loads(text)).split() if part.strip(",}]").isdigit()]
        chosen = random.choice(numbers)
        value = random.choice([0, 1, 7, 8, 12, 2**31, 2**52, int(chosen.strip(",}]")) + 8])
        content = bytearray(text.replace(f" {chosen}", f" {value}{chosen.lstrip('0123456789')}", 1).encode())
    elif how == 2:
        del content[random.integers(len(content)) :]
    else:
        for place in random.integers(8 if name == ARRAYS_FILE else 0, len(content), 6):
            content[place] = random.integers(256)
    (path / name).write_bytes(content)


def test_damaged_columns_are_refused_or_answer(folder, tmp_path):
    count = 120
    rows = [
        {"a": f"v{i % 40}", "t": [i % 5, f"x{i % 3}"], "n": i / 2, "flag": i % 2 == 0, "o": {"x": i}}
        | ({"sparse": None} if i == 50 else {})
        for i in range(count)
    ]
    whole = folder(rows)
    use(Columns.load(whole, count), count)
    said = []
    for seed in range(150):
        path = tmp_path / "damaged"
        shutil.copytree(whole, path)
        damage(path, np.random.default_rng(seed))
        try:
            use(Columns.load(path, count), count)
        except IndexFolderError as error:
            said.append(str(error))
        shutil.rmtree(path)
    assert len(said) > 80
    assert all(str(path) in one for one in said)
    with pytest.raises(IndexFolderError, match="of 120 documents, the segment has 121"):
        Columns.load(whole, 121)
    for name in COLUMN_FILES:
        path = tmp_path / "missing"
        shutil.copytree(whole, path)
        (path / name).unlink()
        with pytest.raises(IndexFolderError, match=name):
            Columns.load(path, count)
        shutil.rmtree(path)
