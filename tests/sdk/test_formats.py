"""Every format there and back, every wrong line by its number, and nothing read before it is needed."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk import formats
from relsdk.errors import InputError, MissingExtraError
from relsdk.formats import Query
from relsdk.records import Document, LabelledPair

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
READERS = {
    "documents": formats.read_documents,
    "pairs": formats.read_pairs,
    "unlabelled": formats.read_unlabelled_pairs,
    "queries": formats.read_queries,
    "qrels": formats.read_qrels,
    "run": formats.read_run,
}
DOCUMENTS = [
    Document(
        "a",
        "大宅门 演员表",
        'a "quoted", text\nof two lines\u2028or three',
        {"views": 3, "tags": ["x", None]},
    ),
    Document("b", "", "text only", {"metadata": {"_id": 1, "title": "nested"}}),
    Document("c d", "title only", "", {}),
]


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
    assert "; " in message or ": write" in message or ": put" in message, "says what to do"
    return message.removeprefix(f"{Path(path).parent}{os.sep}")


class TestDocuments:
    @pytest.mark.parametrize("name", ["d.jsonl", "d.ndjson", "d.jsonl.gz", "D.JSONL.GZ", "d.json"])
    def test_written_documents_are_read_back_equal(self, tmp_path, name):
        path = tmp_path / name
        assert formats.write_documents(path, iter(DOCUMENTS)) == 3
        assert list(formats.read_documents(path)) == DOCUMENTS
        assert list(formats.read_documents(str(path))) == DOCUMENTS

    @given(
        st.lists(
            st.builds(
                Document,
                st.text(min_size=1).filter(str.strip),
                st.text(),
                st.text(min_size=1).filter(str.strip),
                st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
            ),
            min_size=1,
        )
    )
    def test_any_text_survives(self, tmp_path_factory, documents):
        if any("\0" in repr(document).encode().decode("unicode_escape") for document in documents):
            return  # refused, see below
        path = tmp_path_factory.getbasetemp() / "any.jsonl"
        formats.write_documents(path, documents)
        assert list(formats.read_documents(path)) == documents

    def test_beir_form(self, write):
        path = write(
            "d.jsonl", '{"_id": 7, "title": null, "text": "t", "metadata": {"url": "u"}, "n": 1.5}\n'
        )
        assert list(formats.read_documents(path)) == [Document("7", "", "t", {"url": "u", "n": 1.5})]

    @pytest.mark.parametrize(("fields", "identifier", "metadata"), [
        ({"id": "i", "doc_id": "d"}, "i", {"doc_id": "d"}),
        ({"_id": "u", "id": 1}, "u", {"id": 1}),
        ({"_id": None, "doc_id": "d"}, "d", {"_id": None}),
        ({"_id": "u", "metadata": "a string"}, "u", {"metadata": "a string"}),
    ])  # fmt: skip
    def test_which_field_is_the_id(self, fields, identifier, metadata):
        document = formats.document_from_mapping({**fields, "title": "t"})
        assert document == Document(identifier, "t", "", metadata)

    def test_bom_and_crlf_and_blank_lines(self, write):
        path = write("d.jsonl", '\ufeff\r\n{"id": "a", "title": "t"}\r\n  \r\n{"id": "b", "title": "u"}')
        assert [document.id for document in formats.read_documents(path)] == ["a", "b"]

    def test_csv(self, write):
        path = write("d.csv", '\ufeffid,title,text,lang\r\n1,"a, ""b""","two\r\nlines",zh\r\n\r\n2,c,,\r\n')
        assert list(formats.read_documents(path)) == [
            Document("1", 'a, "b"', "two\r\nlines", {"lang": "zh"}),
            Document("2", "c", "", {}),
        ]

    def test_csv_takes_long_fields(self, write):
        path = write("d.csv", "id,text\n1," + "x" * 1_000_000 + "\n")
        assert len(next(formats.read_documents(path)).text) == 1_000_000

    def test_quotes_in_tsv_are_text(self, write):
        path = write("d.tsv", 'id\ttitle\n1\t"T台走秀 "牛仔裤\n2\t"\n')
        assert [document.title for document in formats.read_documents(path)] == ['"T台走秀 "牛仔裤', '"']

    def test_json_array(self, write):
        path = write("d.json", '[\n{"id": 1, "title": "[a]"},\n\n{"id": 2,\n"title": "b"}]\n')
        assert [document.id for document in formats.read_documents(path)] == ["1", "2"]

    def test_format_overrides_the_suffix(self, write):
        path = write("d.dat", "id\ttitle\n1\tt\n")
        assert list(formats.read_documents(path, "tsv")) == [Document("1", "t")]

    def test_standard_input(self, monkeypatch):
        stdin = io.TextIOWrapper(io.BytesIO(b'{"id": "a", "title": "t"}\n{"id": 1.5}\n'))
        monkeypatch.setattr(sys, "stdin", stdin)
        documents = formats.read_documents("-")
        assert next(documents) == Document("a", "t")
        with pytest.raises(InputError, match=r"^<stdin>:2: no 'title' or 'text'"):
            next(documents)
        assert not stdin.closed

    def test_skip_empty_leaves_out_and_says_so(self, write, caplog):
        path = write("d.jsonl", '{"id": "a", "title": ""}\n{"id": "b", "title": "t"}\n')
        assert list(formats.read_documents(path, skip_empty=True)) == [Document("b", "t")]
        assert "left out 1 row without text" in caplog.text
        path = write("e.jsonl", '{"id": "a", "title": ""}\n')
        assert "no row has a text" in reason_of("documents", path, skip_empty=True)

    def test_reads_from_a_pipe(self, tmp_path):
        script = (
            "from relsdk import formats; print([d.id for d in formats.read_documents('/dev/stdin', 'jsonl')])"
        )
        lines = b'{"id": "a", "title": "t"}\n'
        done = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, check=True)
        assert done.stdout.strip() == b"['a']"


class TestParquet:
    @pytest.fixture(autouse=True)
    def _needs_pyarrow(self):
        pytest.importorskip("pyarrow")

    def save(self, path, columns, **options):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path, **options)
        return path

    def test_documents(self, tmp_path):
        import datetime
        import decimal

        columns = {
            "id": [1, 2],
            "title": ["t", None],
            "text": [None, "u"],
            "price": [1.5, float("nan")],
            "day": [datetime.date(2024, 1, 31), None],
            "cost": [decimal.Decimal("1.10"), None],
            "tags": [["x", "y"], []],
        }
        path = self.save(tmp_path / "d.parquet", columns)
        first = {"price": 1.5, "day": "2024-01-31", "cost": "1.10", "tags": ["x", "y"]}
        second = {"price": None, "day": None, "cost": None, "tags": []}
        assert list(formats.read_documents(path)) == [
            Document("1", "t", "", first),
            Document("2", "", "u", second),
        ]

    def test_error_names_the_row_across_batches(self, tmp_path):
        titles = ["t"] * 3000
        titles[2500] = ""
        path = self.save(
            tmp_path / "d.parquet", {"id": list(range(3000)), "title": titles}, row_group_size=700
        )
        documents = formats.read_documents(path)
        assert len(list(itertools.islice(documents, 2500))) == 2500
        with pytest.raises(InputError, match=r"d\.parquet:2501: title and text are both empty"):
            next(documents)

    def test_pairs(self, tmp_path):
        path = self.save(
            tmp_path / "p.parquet", {"query": ["q"], "doc_id": ["d"], "title": ["t"], "label": [3]}
        )
        assert list(formats.read_pairs(path)) == [LabelledPair("q", Document("d", "t"), 3)]

    def test_bad_files(self, tmp_path, write):
        assert reason_of("documents", write("x.parquet", b"PAR1 no")).startswith(
            "x.parquet:1: not readable as Parquet"
        )
        assert "plain file" in reason_of("documents", write("x.parquet.gz", b""))
        assert "plain file" in reason_of("documents", "-", format="parquet")
        path = self.save(tmp_path / "b.parquet", {"id": ["1"], "title": ["t"], "raw": [b"\0"]})
        assert reason_of("documents", path).startswith("b.parquet:1: a field of type bytes has no JSON form")
        path = self.save(tmp_path / "i.parquet", {"id": ["1"], "title": ["t"], "n": [float("inf")]})
        assert reason_of("documents", path).startswith("i.parquet:1: a field is infinite")
        path = self.save(tmp_path / "e.parquet", {"id": np.zeros(0, int), "title": np.zeros(0, str)})
        assert "no rows" in reason_of("documents", path)

    def test_without_pyarrow_says_which_extra(self, write, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(MissingExtraError, match=r"relsdk\[parquet\]"):
            formats.read_documents(write("d.parquet", b""))


def test_reading_text_formats_imports_no_pyarrow():
    script = "import sys, relsdk.formats; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


class TestStreaming:
    @pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.tsv", "d.jsonl.gz"])
    def test_a_bad_third_row_comes_after_two_good_ones(self, write, name):
        rows = {"csv": "id,title\n1,t\n2,t\n3,\n", "tsv": "id\ttitle\n1\tt\n2\tt\n3\t\n"}
        objects = '{"id": 1, "title": "t"}\n{"id": 2, "title": "t"}\n{"id": 3, "title": ""}\n'
        content = rows.get(name.rsplit(".")[-1], objects).encode()
        documents = formats.read_documents(
            write(name, gzip.compress(content) if name.endswith("gz") else content)
        )
        assert [next(documents).id, next(documents).id] == ["1", "2"]
        with pytest.raises(InputError, match="both empty"):
            next(documents)

    def test_an_endless_input_is_read_only_as_far_as_asked(self, monkeypatch):
        class Endless(io.RawIOBase):
            served = 0

            def readable(self):
                return True

            def readinto(self, buffer):
                line = b'{"id": %d, "title": "t"}\n' % self.served
                buffer[: len(line)] = line
                self.served += 1
                return len(line)

        source = Endless()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(source, 64)))
        assert [document.id for document in itertools.islice(formats.read_documents("-"), 5)] == list("01234")
        assert source.served < 50

    def test_an_iterator_that_is_dropped_leaves_no_file_open(self, write):
        path = write("d.jsonl", '{"id": 1, "title": "t"}\n' * 3)
        documents = formats.read_documents(path)

        def is_open():
            return str(path) in {file.path for file in psutil.Process().open_files()}

        next(documents)
        assert is_open()
        documents.close()
        assert not is_open()

    def test_the_file_is_checked_before_the_first_row(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            formats.read_documents(tmp_path / "none.jsonl")


class TestPairs:
    pairs: tuple[LabelledPair, ...] = (
        LabelledPair("问", Document("d1", "标题", "text", {"id": "p1"}), 2),
        LabelledPair('"q', Document("d2", "t"), 0),
    )

    def test_written_pairs_are_read_back_equal(self, tmp_path):
        path = tmp_path / "p.jsonl"
        assert formats.write_pairs(path, self.pairs) == 2
        assert list(formats.read_pairs(path)) == list(self.pairs)
        assert [document for _, document in formats.read_unlabelled_pairs(path)] == [
            p.document for p in self.pairs
        ]

    @pytest.mark.parametrize(("name", "separator"), [("p.csv", ","), ("p.tsv", "\t"), ("p.tsv.gz", "\t")])
    def test_tables(self, write, name, separator):
        content = "query,doc_id,title,label\nq,d,t,3\nr,d,t,0\n".replace(",", separator).encode()
        path = write(name, gzip.compress(content) if name.endswith("gz") else content)
        document = Document("d", "t")
        assert list(formats.read_pairs(path)) == [
            LabelledPair("q", document, 3),
            LabelledPair("r", document, 0),
        ]

    def test_kuake_qtr_as_published(self, write):
        rows = [{"id": f"s{i}", "query": "q", "title": f"t{i // 2}", "label": str(i)} for i in range(4)]
        path = write("KUAKE-QTR_train.json", json.dumps(rows, ensure_ascii=False, indent=2))
        pairs = list(formats.read_pairs(path))
        assert [pair.level for pair in pairs] == [0, 1, 2, 3]
        assert len({pair.document.id for pair in pairs}) == 2, (
            "one document for each title, not for each pair"
        )
        assert pairs[1].document.metadata == {"id": "s1"}

    def test_qbqtc_as_published_and_mapped(self, write):
        rows = ({"id": i, "query": "q", "title": "t", "label": str(i)} for i in range(3))
        path = write("train.json", "\n".join(map(json.dumps, rows)))
        assert [pair.level for pair in formats.read_pairs(path)] == [0, 1, 2]
        assert [pair.level for pair in formats.read_pairs(path, label_map={0: 0, 1: 1, 2: 3})] == [0, 1, 3]
        assert "train.json:3: label '2' is not in the label map; it has 0, 1" == reason_of(
            "pairs", path, label_map={0: 0, 1: 3}
        )

    def test_a_map_to_no_level_is_refused_at_once(self, write):
        with pytest.raises(InputError, match="label 4 is not a relevance level"):
            formats.read_pairs(write("p.tsv", ""), label_map={0: 4})

    def test_derived_ids_depend_on_title_and_text(self, write):
        titles = [("a", ""), ("a", ""), ("a", "b"), ("ab", ""), ("", "a")]
        lines = [json.dumps({"query": "q", "title": title, "text": text}) for title, text in titles]
        ids = [
            document.id for _, document in formats.read_unlabelled_pairs(write("p.jsonl", "\n".join(lines)))
        ]
        assert ids[0] == ids[1] == "dca978112ca1bbdca"
        assert len(set(ids)) == 4

    def test_id_field(self, write):
        path = write("p.jsonl", '{"query": "q", "id": 5, "title": "t", "label": 1}\n')
        assert next(formats.read_pairs(path, id_field="id")).document.id == "5"
        assert reason_of("pairs", path, id_field="vid").startswith(
            "p.jsonl:1: no 'vid' among the fields (id, title)"
        )


class TestQueries:
    def test_plain_text(self, write):
        path = write("q.txt", "\ufeff大宅门\n\n  哥哥 \r\nlast")
        assert list(formats.read_queries(path)) == [
            Query("1", "大宅门"),
            Query("3", "哥哥"),
            Query("4", "last"),
        ]

    def test_rows(self, write):
        path = write("q.jsonl", '{"_id": 1, "text": "a"}\n{"qid": "x", "query": "b", "more": 0}\n')
        assert list(formats.read_queries(path)) == [Query("1", "a"), Query("x", "b")]
        assert list(formats.read_queries(write("q.tsv", "id\ttext\n1\ta\n"))) == [Query("1", "a")]

    def test_a_second_query_of_the_same_id(self, write):
        path = write("q.jsonl", '{"_id": 1, "text": "a"}\n\n{"_id": "1", "text": "b"}\n')
        assert reason_of("queries", path) == "q.jsonl:3: query id '1' occurred before; make the ids unique"


class TestWriting:
    def test_a_failure_keeps_the_old_file_and_leaves_no_other(self, tmp_path):
        path = tmp_path / "d.jsonl"
        formats.write_documents(path, DOCUMENTS)
        for bad in ({"x": float("nan")}, {"x": {1, 2}}):
            with pytest.raises(InputError, match="row 2 to write"):
                formats.write_documents(path, [DOCUMENTS[0], Document("b", "t", "", bad)])
        with pytest.raises(InputError, match=r"line 1 to write: .* half of a surrogate pair"):
            formats.write_documents(path, [Document("b", "\ud83d")])
        assert list(formats.read_documents(path)) == DOCUMENTS
        assert list(tmp_path.iterdir()) == [path]

    def test_places_that_cannot_be_written(self, tmp_path):
        for path in (tmp_path, tmp_path / "none" / "d.jsonl"):
            with pytest.raises(InputError, match="cannot be written"):
                formats.write_documents(path, DOCUMENTS)
        with pytest.raises(InputError, match="reading only"):
            formats.write_documents("-", DOCUMENTS)

    def test_gzip_is_the_same_every_time(self, tmp_path):
        for name in ("a.jsonl.gz", "b.jsonl.gz"):
            formats.write_documents(tmp_path / name, DOCUMENTS)
        assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()

    def test_a_pipe_is_written_not_replaced(self):
        formats.write_documents(os.devnull, DOCUMENTS)
        assert not Path(os.devnull).is_file()


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
class TestSharedData:
    @pytest.mark.parametrize(("name", "rows", "queries"), [
        ("kuake_qtr/train", 17_885, 5_112),
        ("kuake_qtr/dev", 2_241, 637),
        ("kuake_qtr/test", 2_072, 584),
        ("qbqtc/train", 20_000, 18_802),
    ])  # fmt: skip
    def test_pairs(self, name, rows, queries):
        pairs = list(formats.read_pairs(SHARED / f"{name}.jsonl"))
        assert len(pairs) == rows
        assert len({pair.query for pair in pairs}) == queries
        assert set(pairs[0].document.metadata) == set()

    def test_unlabelled_has_one_empty_title(self, caplog):
        path = SHARED / "kuake_qtr" / "unlabelled.jsonl"
        assert reason_of("unlabelled", path).startswith(
            "unlabelled.jsonl:4127: title and text are both empty"
        )
        assert len(list(formats.read_unlabelled_pairs(path, skip_empty=True))) == 5_464
        assert "left out 1 row without text" in caplog.text

    def test_queries(self):
        assert len(list(formats.read_queries(SHARED / "queries" / "video_search.txt"))) == 94_999


def test_ids_come_from_text_and_from_rows(tmp_path):
    from relsdk.formats import read_ids

    (tmp_path / "ids.txt").write_text("\ufeffa 1\r\n\n b\t\n七\n", encoding="utf-8")
    assert list(read_ids(tmp_path / "ids.txt")) == ["a 1", "b", "七"]
    (tmp_path / "ids.jsonl").write_text('{"_id": 7, "title": ""}\n{"doc_id": " b"}\n')
    assert list(read_ids(tmp_path / "ids.jsonl")) == ["7", " b"]
    (tmp_path / "ids.tsv").write_text("id\tn\n007\t1\n")
    assert list(read_ids(tmp_path / "ids.tsv")) == ["007"]
    (tmp_path / "ids.csv").write_text("name\nx\n")
    with pytest.raises(
        InputError, match=r"ids.csv:2: no '_id' or 'id' or 'doc_id' among the fields \(name\)"
    ):
        list(read_ids(tmp_path / "ids.csv"))
    (tmp_path / "ids.txt").write_text("a\n\0\n")
    with pytest.raises(InputError, match=r"ids.txt:2: .*NUL"):
        list(read_ids(tmp_path / "ids.txt"))
    (tmp_path / "ids.txt").write_text("\n")
    with pytest.raises(InputError, match="no rows"):
        list(read_ids(tmp_path / "ids.txt"))


def test_a_label_of_an_unlabelled_pair_is_ignored_or_kept(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "q", "title": "t", "label": "good"}\n{"query": "q", "title": "u"}\n')
    ignored = [document.metadata for _, document in formats.read_unlabelled_pairs(path)]
    kept = [document.metadata for _, document in formats.read_unlabelled_pairs(path, keep_label=True)]
    assert (ignored, kept) == ([{}, {}], [{"label": "good"}, {}])
