"""Types, encodings and separators of CSV and TSV, blank lines, and inputs that are no texts at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk import formats
from relsdk.errors import InputError
from relsdk.formats import Query
from relsdk.records import Document
from tests.memory import PEAK
from tests.threads import at_once

TABLE = """id,title,duration,new,sku,phone,price,mixed,flag,sparse,sci
1,a,95,true,007,13800000000,1.50,1,0,,1e5
2,b,40,False,123,8613800000000000,-2,x,1,7,2
"""


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path; bytes as they are, text as UTF-8."""

    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def types_of(path, **options):
    found = {}
    list(formats.read_documents(path, on_types=found.update, **options))
    return found


def metadata(path, **options):
    return [document.metadata for document in formats.read_documents(path, **options)]


class TestTypes:
    @pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.csv.gz"])
    def test_columns_that_are_all_numbers_or_flags_are(self, write, name):
        content = TABLE.replace(",", "\t") if "tsv" in name else TABLE
        path = write(name, gzip.compress(content.encode()) if name.endswith("gz") else content)
        assert types_of(path) == {
            "duration": "number", "new": "boolean", "price": "number", "flag": "number", "sparse": "number",
        }  # fmt: skip
        assert metadata(path) == [
            {"duration": 95, "new": True, "sku": "007", "phone": "13800000000", "price": 1.5, "mixed": "1",
             "flag": 0, "sci": "1e5"},
            {"duration": 40, "new": False, "sku": "123", "phone": "8613800000000000", "price": -2,
             "mixed": "x", "flag": 1, "sparse": 7, "sci": "2"},
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("cells", "number"),
        [
            (("1.9", "1.10"), False),  # versions: 1.1 and 1.10 are not the same
            (("1.10", "2", "2.5"), False),
            (("9.50", "10.00", "12"), True),
            (("95.0", "12.25"), True),  # as pandas writes them
            (("0.30000000000000004", "-1.5"), True),
            (("0.300000000000000040", "1.5"), False),
            (("+5", "6"), False),
            (("1_000", "6"), False),
            (("５", "6"), False),
            (("5%", "6"), False),
            (("1,000", "6"), False),
            (("2024-05-01", "6"), False),
            (("13800138000", "6"), True),
            ((" 5", "6"), True),
        ],
    )
    def test_what_is_a_number_unasked(self, write, cells, number):
        path = write("d.csv", "id,title,v\n" + "".join(f'{n},a,"{v}"\n' for n, v in enumerate(cells)))
        assert types_of(path) == ({"v": "number"} if number else {})
        values = [one["v"] for one in metadata(path)]
        assert values == ([float(v) for v in cells] if number else list(cells))

    def test_types_of_the_user_take_precedence(self, write):
        path = write("d.csv", TABLE)
        types = {"duration": "text", "sku": "number", "flag": "boolean", "sci": "number"}
        first = metadata(path, types=types)[0]
        assert (first["duration"], first["sku"], first["flag"], first["sci"]) == ("95", 7, False, 1e5)

    @pytest.mark.parametrize(
        ("types", "said"),
        [
            ({"duration": "int"}, "type 'int' of column 'duration'; allowed are text, number, boolean"),
            ({"id": "number"}, "column 'id' is always text"),
            ({"durration": "number"}, "d.csv:1: a type is given for 'durration', which is no column; the"),
            ({"mixed": "number"}, "d.csv:3: column 'mixed' holds numbers, and 'x' is no number; give"),
            ({"sku": "boolean"}, "d.csv:2: column 'sku' holds true and false (or 1 and 0), and '007'"),
        ],
    )  # fmt: skip
    def test_wrong_types(self, write, types, said):
        with pytest.raises(InputError, match=re.escape(said)):
            list(formats.read_documents(write("d.csv", TABLE), types=types))

    @given(
        st.lists(st.integers(-(10**16), 10**16) | st.floats(allow_nan=False) | st.text("01.e-+ ", max_size=4))
    )
    def test_what_is_typed_keeps_its_value(self, tmp_path_factory, values):
        cells = [repr(value) if isinstance(value, float) else str(value) for value in values]
        path = tmp_path_factory.getbasetemp() / "any.tsv"
        path.write_text("id\ttitle\tx\n" + "".join(f"{i}\tt\t{cell}\n" for i, cell in enumerate(cells)))
        if not cells:
            return
        read = [row.get("x") for row in metadata(path)]
        numbers = types_of(path) == {"x": "number"}
        for cell, value in zip(cells, read, strict=True):
            if not cell.strip():
                assert value is None
            elif numbers:
                assert isinstance(value, int | float)
                assert float(value) == float(cell)
                assert "e" not in cell
                assert not re.match(r"-?0[0-9]", cell.strip())
            else:
                assert value == cell

    def test_a_pipe_is_read_once_and_typed_by_name_only(self, tmp_path):
        path = tmp_path / "d.csv"
        os.mkfifo(path)
        with at_once(lambda: path.write_text(TABLE)):
            rows = metadata(path, types={"price": "number"})
        assert (rows[0]["price"], rows[0]["duration"]) == (1.5, "95")

    def test_a_row_that_comes_after_the_look_at_the_types(self, write):
        path = write("d.csv", TABLE)
        documents = formats.read_documents(path)
        next(documents)
        with path.open("a") as stream:
            stream.write("3,c,unknown,true,1,1,1,1,1,1,1\n")
        with pytest.raises(
            InputError, match=r"d\.csv:4: column 'duration' holds numbers, and 'unknown' is no number"
        ):
            list(documents)

    def test_other_formats_have_types_of_their_own(self, write):
        path = write("d.jsonl", '{"id": 1, "title": "t", "n": "1"}\n')
        assert types_of(path) == {}
        for option in ({"types": {"n": "number"}}, {"delimiter": ";"}):
            with pytest.raises(InputError, match="for jsonl; leave out what is for CSV and TSV"):
                formats.read_documents(path, **option)


class TestEncodings:
    @pytest.mark.parametrize(
        "encoding", ["gb18030", "gbk", "utf-8-sig", "utf-16", "utf-16-le", "big5", "utf-32"]
    )
    def test_any_reader_reads_it(self, write, encoding):
        rows = 'id,title,作者\r\n1,"紅燒肉\n的做法",老王\r\n'.encode(encoding)
        assert list(formats.read_documents(write("d.csv", rows), encoding=encoding)) == [
            Document("1", "紅燒肉\n的做法", "", {"作者": "老王"})
        ]
        lines = '{"id": 1, "title": "紅燒肉"}\n'.encode(encoding)
        path = write("d.jsonl.gz", gzip.compress(lines))
        assert list(formats.read_documents(path, encoding=encoding)) == [Document("1", "紅燒肉")]
        path = write("q.txt", "紅燒肉\n貓\n".encode(encoding))
        assert list(formats.read_queries(path, encoding=encoding)) == [Query("1", "紅燒肉"), Query("2", "貓")]
        path = write("p.tsv", "query\ttitle\tlabel\n問\t紅燒肉\t2\n".encode(encoding))
        assert [pair.query for pair in formats.read_pairs(path, encoding=encoding)] == ["問"]
        assert [query for query, _ in formats.read_unlabelled_pairs(path, encoding=encoding)] == ["問"]

    def test_wide_standard_input_stays_open(self, monkeypatch):
        stdin = io.TextIOWrapper(io.BytesIO("猫\n狗".encode("utf-16")))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert [query.text for query in formats.read_queries("-", encoding="utf-16")] == ["猫", "狗"]
        assert not stdin.closed

    @pytest.mark.parametrize(
        ("content", "encoding", "said"),
        [
            ("红烧肉".encode("gbk"), "utf-8", "q.txt:1: not UTF-8: byte 1 of the line is 0xba; save the "
             "file as UTF-8, or give its encoding, as in --encoding gb18030"),
            ("猫".encode("utf-16"), "utf-8", "byte 1 of the line is 0xff; save the file as UTF-8, or give "
             "its encoding: --encoding utf-16"),
            ("cat".encode("utf-16-le"), "utf-8", "2 is a NUL; remove it (UTF-16 needs --encoding utf-16)"),
            (gzip.compress(b"cat", mtime=0), "utf-8", "it is compressed: give it a name that ends in .gz"),
            (b"a\n\xff\xff\n", "gb18030", "q.txt:2: not gb18030: byte 1 of the line is 0xff"),
            ("a\n猫".encode("utf-16")[:-1], "utf-16", "not utf-16 (truncated data)"),
            (b"cat", "utf-16", "q.txt:1: not utf-16 ("),
            (b"cat", "hex", "encoding 'hex' is none that texts are read in; utf-8, gb18030"),
            (b"cat", "no-such", "encoding 'no-such' is none"),
            (b"cat", "a\0b", "is none"),
            (b"cat", "cp037", "is none"),
        ],
    )  # fmt: skip
    def test_what_is_in_another_encoding(self, write, content, encoding, said):
        with pytest.raises(InputError, match=re.escape(said)):
            list(formats.read_queries(write("q.txt", content), encoding=encoding))

    def test_delimiters(self, write):
        path = write("d.csv", 'id;title;n\n1;"a;b";3\n')
        assert list(formats.read_documents(path, delimiter=";")) == [Document("1", "a;b", "", {"n": 3})]
        with pytest.raises(
            InputError, match=r"d\.csv:1: the first row is the one column 'id;title;n'; give --del"
        ):
            list(formats.read_documents(path))
        path = write("d.tsv", "id|title\n1|a\tb\n")
        assert list(formats.read_documents(path, delimiter="|")) == [Document("1", "a\tb")]
        for wrong in ("", ";;", "\n", '"'):
            with pytest.raises(InputError, match="one character is needed"):
                formats.read_documents(path, delimiter=wrong)
        with pytest.raises(InputError, match="no delimiter for text"):
            formats.read_queries(write("q.txt", "a"), delimiter=";")


class TestLines:
    @pytest.mark.parametrize(("name", "content"), [
        ("q.txt", "a\n\nb\n\n\n"),
        ("q.jsonl", '{"id": 1, "text": "a"}\n \n{"id": 2, "text": "b"}\n\n'),
    ])  # fmt: skip
    def test_row_n_is_line_n_or_an_error(self, write, name, content):
        path = write(name, content)
        assert [query.text for query in formats.read_queries(path)] == ["a", "b"]
        with pytest.raises(
            InputError, match=f"{re.escape(name)}:2: a blank line, and row n is line n; remove it"
        ):
            list(formats.read_queries(path, row_is_line=True))
        path = write(name, content.replace("\n\n", "\n").replace("\n \n", "\n") + "\n\n")
        assert [query.text for query in formats.read_queries(path, row_is_line=True)] == ["a", "b"]

    def test_queries_without_a_text_are_left_out_when_asked(self, write, caplog):
        path = write("q.jsonl", '{"id": 1, "text": ""}\n{"id": 2, "text": null}\n{"id": 3, "text": "c"}\n')
        assert list(formats.read_queries(path, skip_empty=True)) == [Query("3", "c")]
        assert "left out 2 rows" in caplog.text
        with pytest.raises(InputError, match=r"q\.jsonl:1: 'text' is empty; fill it in"):
            list(formats.read_queries(path))

    @pytest.mark.parametrize(("reader", "name", "content", "line"), [
        ("read_queries", "q.txt", "a\rb\r", 1),
        ("read_qrels", "q", "q 0 d 1\rq 0 e 1\r", 1),
        ("read_run", "r", "q Q0 d 1 0.5 t\nq Q0 e\r 2 0.4 t\n", 2),
        ("read_documents", "d.tsv", "id\ttitle\r1\ta\r", 1),
        ("read_documents", "d.csv", "id,title\r1,a\r", 1),
    ])  # fmt: skip
    def test_line_ends_of_another_age(self, write, reader, name, content, line):
        with pytest.raises(InputError, match=f"{name}:{line}: .*carriage return"):
            list(getattr(formats, reader)(write(name, content)))

    def test_a_name_twice_in_one_object(self, write):
        path = write("d.jsonl", '{"id": 1, "title": "a"}\n{"id": 2, "title": "b", "m": {"x": 1, "x": 2}}\n')
        with pytest.raises(
            InputError, match=r"d\.jsonl:2: not JSON \(the name 'x' is there twice in one object\)"
        ):
            list(formats.read_documents(path))


class TestWithoutEnd:
    """What has no line end is refused in bounded memory; a child process has little of it."""

    PROGRAM = f"""{PEAK}
import resource, sys
from relsdk import formats
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**29, 3 * 2**29))
try:
    list(getattr(formats, sys.argv[1])(sys.argv[2], *sys.argv[3:]))
except formats.documents.InputError as error:
    print(error)
print(peak() // 2**20)
"""

    def run(self, *arguments, **options):
        done = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, *map(str, arguments)],
            capture_output=True, text=True, timeout=300, **options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        message, megabytes = done.stdout.splitlines()
        assert int(megabytes) < 800  # a table of 32 MiB as Python objects
        return message

    @pytest.mark.parametrize("reader", ["read_documents", "read_queries", "read_pairs"])
    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
    def test_devices(self, reader, device):
        assert f"{device}:1: the line is longer than 64 MiB" in self.run(reader, device, "jsonl")

    def test_a_gzip_file_of_gigabytes(self, tmp_path):
        path = tmp_path / "d.csv.gz"
        with gzip.open(path, "wb", compresslevel=1) as stream:
            stream.write(b"id,title\n1,")
            for _ in range(100):
                stream.write(b"x" * 2**20)
        assert ":2: the line is longer than 64 MiB" in self.run("read_documents", path)

    def test_a_quote_that_is_never_closed(self, tmp_path):
        path = tmp_path / "d.csv"
        path.write_bytes(b'id,title\n1,"' + (b"x" * 511 + b"\n") * 2**16)
        assert "d.csv:2: not CSV (field larger than field limit" in self.run("read_documents", path)
        path.write_bytes(b"id,title\n1" + (b',"' + b"x" * 508 + b'\n"') * 2**17)
        assert "a row of more than 32 MiB; close every quote" in self.run("read_documents", path)

    def test_half_a_gzip_file(self, write):
        content = gzip.compress(os.urandom(1000).hex().encode())
        for size in (5, 30, len(content) - 3):
            with pytest.raises(
                InputError, match=r"d\.jsonl\.gz:1: (the gzip file ends too early|not a sound gzip)"
            ):
                list(formats.read_documents(write("d.jsonl.gz", content[:size])))


def test_a_table_of_very_many_columns(write):
    names = ",".join(f"c{number}" for number in range(100_000))
    path = write("d.csv", f"id,{names}\n1{',x' * 100_000}\n")
    with pytest.raises(InputError, match="c18 and 99,981 more") as caught:
        list(formats.read_documents(path))
    assert len(str(caught.value)) < 500


SEEDS = {
    "d.jsonl": '{"_id": "v1", "title": "红烧肉", "by": {"name": "王"}, "n": 95, "tags": ["x", null, 1.5e3]}\n'
    * 2,
    "d.json": '[{"id": 1, "title": "a"},\n {"id": 2, "title": "b", "m": {"x": [[1]]}}]',
    "d.csv": 'id,title,n,new,s\r\n1,"a ""b"", c",3,true,007\r\n2,"x\r\ny",4.5,false,1\r\n',
    "d.tsv": "id\ttitle\tquery\tlabel\n1\ta\tq\t3\n2\tb\tr\t0\n",
    "q.txt": "红烧肉\n\nb\r\n",
    "q.jsonl": '{"id": "q1", "text": "a"}\n{"qid": 2, "query": "b", "title": "t", "label": "3"}\n',
    "qrels.txt": "q1 0 v1 3\nq2 0 v2 -1\n",
    "beir.tsv": "query-id\tcorpus-id\tscore\nq\td\t1\n",
    "run.txt": "q1 Q0 v1 1 0.925 relsdk\nq1 Q0 v2 2 4.1e-1 relsdk\n",
}
PARTS = ['"', ",", "\n", "\r", "\t", "{", "}", "[", "]", "\0", "\ufeff", "1e999", "NaN", "\\ud800", "\\u0000",
         "9" * 5000, "[" * 3000, '{"a":' * 3000, "\u2028", ":", "null"]  # fmt: skip


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    """Whatever a file holds: records, or one `InputError`; no other error, none when a reader is dropped."""
    left = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    random = np.random.default_rng(sum(name.encode()))
    path = tmp_path / name
    for _ in range(60):
        content = bytearray(SEEDS[name].encode())
        for _ in range(random.integers(1, 5)):
            at = int(random.integers(len(content) + 1))
            choice = random.integers(4)
            if choice == 0:
                content[at : at + 1] = bytes([random.integers(256)])
            elif choice == 1:
                content[at:at] = str(random.choice(PARTS)).encode()
            elif choice == 2:
                del content[at : at + int(random.integers(1, 30))]
            else:
                content[at:at] = content[: int(random.integers(40))]
        path.write_bytes(content)
        for reader in ("read_documents", "read_queries", "read_pairs", "read_qrels", "read_run"):
            tables = reader not in ("read_qrels", "read_run")
            encoding = str(random.choice(["utf-8", "utf-8", "gb18030", "utf-16", "latin-1"]))
            options = {"encoding": encoding, "skip_empty": bool(random.integers(2))} if tables else {}
            with contextlib.suppress(InputError):
                list(getattr(formats, reader)(path, **options))
    assert not left


@pytest.mark.parametrize("reader", ["read_documents", "read_queries", "read_pairs", "read_qrels", "read_run"])
def test_standard_input_that_is_closed(reader, monkeypatch):
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stdin in (None, closed, io.StringIO("text")):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(InputError, match="standard input is closed; name a file"):
            list(getattr(formats, reader)("-"))


def test_parquet_columns_of_one_name(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays(
        [pa.array(["1"]), pa.array(["t"]), pa.array(["u"])], ["id", "title", "title"]
    )
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InputError, match="column name 'title' is there twice"):
        list(formats.read_documents(tmp_path / "d.parquet"))


@pytest.mark.parametrize("name", ["s3:docs.parquet", os.fsdecode(b"d\xff.parquet")])
def test_parquet_names_that_mean_something_to_pyarrow(tmp_path, monkeypatch, name):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"id": ["a"], "title": ["大理"]}), tmp_path / "d.parquet")
    (tmp_path / "d.parquet").rename(name)
    assert [document.id for document in formats.read_documents(name)] == ["a"]
