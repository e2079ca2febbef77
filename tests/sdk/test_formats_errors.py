"""Every wrong input of the file readers: one line that names the file, the line and the remedy."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from relsdk import formats
from relsdk.errors import InputError

READERS = {
    "documents": formats.read_documents,
    "pairs": formats.read_pairs,
    "unlabelled": formats.read_unlabelled_pairs,
    "queries": formats.read_queries,
    "qrels": formats.read_qrels,
    "run": formats.read_run,
}
GOOD = '{"id": "a", "title": "t"}\n'
PAIR = '{"query": "q", "title": "t", "label": 1}\n'
# Reader and file name: what the file holds, how the message goes on behind `name:`.
WRONG = {
    "documents d.jsonl": [
        (GOOD * 16 + "{'id': 1}\n", "17: not JSON (Expecting property name"),
        (GOOD + "\n\n" + "[1]", "4: JSON, but list and not an object"),
        ("3", "1: JSON, but int and not an object"),
        ('{"id": 1, "title": "t", "n": NaN}', "1: not JSON (NaN is no JSON number)"),
        ('{"id": 1, "title": "t", "n": 1e999}', "1: not JSON (1e999 is too large"),
        ('{"id": ' + "1" * 5000 + "}", "1: not JSON (Exceeds the limit"),
        ("{" + '"a":{' * 100_000, "1: not JSON (maximum recursion depth"),
        ('{"title": "t"}', "1: no '_id' or 'id' or 'doc_id' among the fields (title)"),
        ('{"id": null, "title": "t"}', "1: no '_id' or 'id' or 'doc_id'"),
        ('{"id": " ", "title": "t"}', "1: 'id' is empty"),
        ('{"id": true, "title": "t"}', "1: 'id' is True (bool)"),
        ('{"id": 1.0, "title": "t"}', "1: 'id' is 1.0 (float)"),
        ('{"id": 1, "title": 5}', "1: 'title' is 5 (int); it must be a string"),
        ('{"id": 1, "body": "t"}', "1: no 'title' or 'text' among the fields (id, body)"),
        (GOOD + '{"id": 1, "title": " ", "text": ""}', "2: title and text are both"),
        ('{"id": 1, "title": "t\\u0000"}', "1: 'title' holds a NUL"),
        ('{"id": 1, "title": "t", "m": [{"x": "\\ud83d"}]}', "1: 'x' holds half of a"),
        ('{"id": 1, "title": "t", "u": 1, "metadata": {"u": 2}}', "1: 'u' is a field and"),
        (GOOD + "\0\n", "2: character 1 is a NUL"),
        (GOOD.encode() + b'{"id": "\xff"}', "2: not UTF-8: byte 9 of the line is 0xff"),
        (GOOD.encode("utf-16"), "1: not UTF-8: byte 1 of the line is 0xff"),
    ],
    "documents d.json": [
        ('[\n{"id": 1,\n"title": "t"}\n\n{"id": 2}]', "5: not JSON (Expecting ',' or ']'"),
        ('[{"id": 1, "title": "t"},\n\n{"id": 2, "title": ""}]', "3: title and text"),
        ('[\n{"id": 1, "title": "t"}\n]\n\n{}', "5: not JSON (Extra data"),
        ('[\n{"id": 1, "title": "t"},\n', "2: not JSON (Expecting value"),
        ("[" * 100_000, "1: not JSON (maximum recursion depth"),
        ('[\n{"id": 1, "title": "t", "m": ' + '{"a":' * 100_000, "2: not JSON (maximum recursion depth"),
        ('[{"id": 1, "title": "t"},\n{"id": 2, "id": 3}]', "2: not JSON (the name 'id' is there twice"),
    ],
    "documents d.csv": [
        ("id,title\n1,t\n\n2\n", "4: 1 columns, but the first row names 2 (id, title)"),
        ('id,title\n1,"a\nb"\n2,"a\nb",\n', "4: 3 columns"),
        ('id,title\n1,"a\nb\n', "2: not CSV (unexpected end of data)"),
        ('id,title\n1,"a" b\n', "2: not CSV (',' expected after '\"')"),
        ("id,id\n", "1: column name 'id' is there twice"),
        (",id\n", "1: column name '' is empty"),
        ("1,t\n2,u\n", "2: no 'title' or 'text' among the fields (1, t)"),
    ],
    "documents d.tsv": [
        ("id\ttitle\n\t\n", "2: 'id' is empty"),
    ],
    "pairs p.jsonl": [
        ('{"query": "q", "title": "t", "label": null}', "1: label is null; put one in its place"),
        (PAIR + '{"title": "t", "label": 1}', "2: no 'query' among the fields (title)"),
        ('{"query": "", "title": "t", "label": 1}', "1: 'query' is empty"),
        (PAIR + "\n" + '{"query": "q", "title": "t"}', "3: no 'label' among the fields"),
        (PAIR.replace("1", "7"), "1: label 7 is not a relevance level; allowed are 0, 1"),
        ('{"query": "q", "title": "", "label": 1}', "1: title and text are both empty"),
    ],
    "pairs p.tsv": [
        ("query\ttitle\tlabel\nq\tt\t1.5\n", "2: label '1.5' is not a relevance level"),
    ],
    "unlabelled p.jsonl": [
        ('{"query": "q", "title": 1}', "1: 'title' is 1 (int)"),
    ],
    "queries q.jsonl": [
        ('{"text": "a"}', "1: no '_id' or 'id' or 'query_id' or 'query-id' or 'qid'"),
        ('{"id": 1, "t": "a"}', "1: no 'text' or 'query' among the fields (id, t)"),
        ('{"id": 1, "text": ""}', "1: 'text' is empty"),
    ],
    "queries q.txt": [
        (b"a\n\n\xe4\xb8\n", "3: not UTF-8: byte 1 of the line is 0xe4"),
    ],
    "qrels q": [
        ("q 0 d 1\n\nq 0 e\n", "3: 3 columns; qrels have four"),
        ("q 0 d 1.0\n", "1: label '1.0' is not an integer"),
        ("q 0 d 1\nq 0 d 1\n", "2: document 'd' occurred before for query 'q'"),
        ("query-id\tcorpus-id\tscore\nq d 1\n", "2: 1 columns; qrels have three"),
        ("query-id\tcorpus-id\tscore\n\td\t1\n", "2: an id is empty"),
    ],
    "run r": [
        ("q Q0 d 1 0.5 t\nq Q0 e 2 0.5\n", "2: 5 columns; a run has six"),
        ("q Q0 d 1 nan t\n", "1: score 'nan' is not a finite number"),
        ("q Q0 d 1 1e999 t\n", "1: score '1e999' is not a finite number"),
        ("q Q0 d first 1 t\n", "1: rank 'first' is not an integer"),
        ("q Q0 d 1 1 t\nq Q0 d 2 0 t\n", "2: document 'd' occurred before"),
    ],
}


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path; bytes as they are, text as UTF-8."""

    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def reason_of(kind, path, **options):
    """The message that reading raises, without the folder."""
    with pytest.raises(InputError) as caught:
        list(READERS[kind](path, **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert "; " in message, "says what to do"
    return message.removeprefix(f"{Path(path).parent}{os.sep}")


@pytest.mark.parametrize(
    ("place", "content", "expected"), [(place, *row) for place, rows in WRONG.items() for row in rows]
)
def test_a_wrong_row_is_named(write, place, content, expected):
    kind, name = place.split()
    assert reason_of(kind, write(name, content)).startswith(f"{name}:{expected}")


def outcome_of(path):
    """What reading comes to: "read", or the message of the error."""
    try:
        list(formats.read_documents(path))
    except InputError as error:
        return str(error)
    return "read"


def test_deep_metadata_are_read_or_refused_but_never_crash(write):
    """How deep is too deep depends on the Python version and on the stack that is left."""
    for depth in [*range(800, 1050, 3), 5_000, 100_000]:
        deep = '{"id": 1, "title": "t", "m": ' + "[" * depth + "]" * depth + "}"
        outcome = outcome_of(write("d.jsonl", GOOD + deep))
        assert outcome == "read" or "d.jsonl:2: " in outcome
    assert outcome != "read"


class TestWrongFiles:
    @pytest.mark.parametrize("kind", READERS)
    def test_missing_folder_empty(self, kind, tmp_path, write):
        assert reason_of(kind, tmp_path / "x.jsonl") == "x.jsonl: there is no such file; check the path"
        (tmp_path / "folder.jsonl").mkdir()
        assert reason_of(kind, tmp_path / "folder.jsonl") == "folder.jsonl: this is a folder; name a file"
        for content in ("", "\n \r\n", "\ufeff"):
            assert reason_of(kind, write("e.jsonl", content)).startswith(
                "e.jsonl: there are no rows in this file"
            )

    def test_header_only(self, write):
        for name, content in (("d.csv", "id,title\n"), ("d.tsv", "id\ttitle\n"), ("d.json", "[ ]")):
            assert reason_of("documents", write(name, content)).startswith(f"{name}: there are no rows")

    def test_unknown_suffix_and_format(self, write):
        reason = reason_of("documents", write("d.xlsx", ""))
        assert reason.startswith(
            "d.xlsx: the suffix '.xlsx' names no known format; allowed are .jsonl, .ndjson, .json"
        )
        assert "allowed are jsonl, csv, tsv, parquet" in reason_of(
            "documents", write("d.x", ""), format="xml"
        )
        assert "the suffix '.doc'" in reason_of("queries", write("q.doc.gz", ""))

    @pytest.mark.parametrize("cut", [0.5, 0.9])
    def test_gzip_cut_short(self, write, cut):
        packed = gzip.compress("".join(f'{{"id": {i}, "title": "t{i}"}}\n' for i in range(2000)).encode())
        assert "the gzip file ends too early" in reason_of(
            "documents", write("d.jsonl.gz", packed[: int(len(packed) * cut)])
        )

    def test_gzip_by_name_only_or_damaged(self, write):
        assert reason_of("documents", write("d.jsonl.gz", GOOD)).startswith(
            "d.jsonl.gz:1: not a sound gzip file"
        )
        packed = bytearray(gzip.compress(GOOD.encode() * 100))
        packed[-8] ^= 0xFF  # the checksum
        assert "not a sound gzip file" in reason_of("documents", write("d.jsonl.gz", bytes(packed)))

    def test_operating_system_errors(self, write, monkeypatch):
        path = write("d.jsonl", GOOD)
        assert "cannot be read (Not a directory)" in reason_of("documents", path / "x.jsonl")
        assert "cannot be read" in reason_of("documents", "a\0b.jsonl")

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        assert reason_of("documents", path) == (
            "d.jsonl: cannot be read (Permission denied); check the path and its permissions"
        )
