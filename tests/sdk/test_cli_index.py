"""`relsdk index list | get | export`."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relsdk import Index
from relsdk.errors import InputError
from relsdk.records import Document
from tests.memory import PEAK

INDEX = Path(__file__).resolve().parents[1] / "fixtures" / "index-v1"


class Encoder:
    """Unit vectors; the n-th document gets the n-th axis, with signs."""

    name, fingerprint, dimension = "axes", "axes", 8

    def encode_document(self, inputs):
        rows = np.array([int(one.id.rpartition("-")[2]) for one in inputs])
        return np.eye(8, dtype=np.float32)[rows % 8] * np.where(rows // 8 % 2, -1, 1)[:, None].astype("f4")


def documents(count=1200):
    return [
        Document(f"文-{i}", f"标题 {i}" + "\x1b[2J" * (i == 3), "正文\n" * (i % 3), {"n": i, "刚": [i % 7]})
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "i"
    Index.build(path, documents(), Encoder()).close()
    return path


def test_documents_come_in_order_and_as_they_went_in(index):
    with Index.open(index) as opened:
        assert list(opened.documents()) == documents()
        assert opened.rows().tolist() == list(range(1200))
        wanted = [one for one in documents() if one.metadata["刚"] == [3]]
        assert list(opened.documents({"刚": 3})) == wanted
        assert opened.rows({"刚": 3}).tolist() == [one.metadata["n"] for one in wanted]
        with pytest.raises(InputError, match="colour"):
            opened.documents({"colour": 1})  # at once, not at the first document
        rest = opened.documents()
        next(rest)
    with pytest.raises(InputError, match="closed"):
        list(rest)


def test_fields_called_like_a_documents_own_parts_hide_none(tmp_path, relsdk):
    document = Document("a\nb\tc-1", "T", "x", {"title": "other", "id": 7, "n": 1})
    Index.build(tmp_path / "i", [document], Encoder()).close()
    shown = relsdk("index", "get", tmp_path / "i", document.id)[1].splitlines()
    assert [line.split() for line in shown[1:]] == [
        ["id", "a", "b", "c-1"], ["title", "T"], ["text", "x"], ["metadata.title", "other"],
        ["metadata.id", "7"], ["n", "1"],
    ]  # fmt: skip
    assert relsdk("index", "list", tmp_path / "i")[1] == "a\\nb\\tc-1\tT\n"


def test_documents_of_an_index_that_is_built_again_meanwhile(index, tmp_path):
    path = Path(shutil.copytree(index, tmp_path / "i"))
    with Index.open(path) as opened:
        going = opened.documents()
        first = next(going)
        Index.build(path, documents(20), Encoder(), overwrite=True).close()
        assert [first, *going] == documents()


def test_list(index, relsdk):
    code, out, error = relsdk("index", "list", index, "-n", "5", "--where", "n>=2")
    assert (code, error) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["文-2", "标题 2"]
    assert lines[1] == ["文-3", "标题 3\\x1b[2J"]  # no title acts on the terminal
    assert [identifier for identifier, _ in lines] == [f"文-{i}" for i in range(2, 7)]
    code, out, _ = relsdk("index", "list", index, "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": one.id, "title": one.title} for one in documents()
    ]
    assert relsdk("index", "list", index, "--where", "n<0") == (0, "", "0 of 1,200 documents match\n")
    for wrong in (["-n", "0"], ["--where", "colour=red"], ["--where", "n=="]):
        code, out, error = relsdk("index", "list", index, *wrong)
        assert (code, out) == (2, ""), error


def test_list_ends_with_its_reader(index):
    command = f"{sys.executable} -m relsdk index list {index} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "文-0\t标题 0\n", "")


def test_get(index, relsdk):
    code, out, _ = relsdk("index", "get", index, "文-7", "文-5", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": one.id, "title": one.title, "text": one.text, "metadata": one.metadata}
        for one in (documents()[7], documents()[5])
    ]
    code, out, _ = relsdk("index", "get", index, "文-7")
    assert code == 0
    fields = dict(line.split(None, 1) for line in out.splitlines()[1:])
    assert (fields["title"], fields["刚"]) == ("标题 7", "[0]")


def test_get_prints_json_values(relsdk, tmp_path):
    one = Document("a-0", "t", "x", {"new": True, "by": {"n": ["猫"]}})
    Index.build(tmp_path / "i", [one], Encoder()).close()
    out = relsdk("index", "get", tmp_path / "i", "a-0")[1]
    fields = dict(line.split(None, 1) for line in out.splitlines())
    assert fields["new"] == "true"
    assert json.loads(fields["by"]) == {"n": ["猫"]}


@pytest.mark.parametrize("missing", ["文-77777", "文-12o", "", "z" * 5000, "\udcff"])
def test_get_of_what_is_not_there_names_it_and_what_is_near(index, relsdk, missing):
    code, out, error = relsdk("index", "get", index, "文-7", missing)
    assert (code, error.count("\n")) == (2, 1)
    assert "标题 7" in out  # what is there is shown
    assert "1 of 2 ids are not in" in error
    if missing.startswith("文"):
        assert f"{missing!r}; the nearest" in error
    if missing == "文-12o":
        assert "'文-12'" in error
    assert len(error) < 12_000


def test_export_is_what_index_build_reads(index, relsdk, tmp_path):
    code, out, _ = relsdk("index", "export", index, tmp_path / "out.jsonl", "--vectors", tmp_path / "out.npy")
    said = f"{tmp_path}/out.jsonl: 1,200 documents, their vectors in {tmp_path}/out.npy\n"
    assert (code, out) == (0, said)
    from relsdk.formats import read_documents

    assert list(read_documents(tmp_path / "out.jsonl")) == documents()
    with Index.open(index) as opened:
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), opened.vectors)
    code, out, error = relsdk("index", "export", index, tmp_path / "out.jsonl")
    assert code == 2
    assert "--overwrite" in error
    arguments = ["--where", "n<20", "--vectors", tmp_path / "out.npy", "--overwrite", "--json"]
    code, out, _ = relsdk("index", "export", index, tmp_path / "some.jsonl.gz", *arguments)
    assert code == 0
    assert json.loads(out)["documents"] == 20
    assert len(gzip.open(tmp_path / "some.jsonl.gz").readlines()) == 20
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), Encoder().encode_document(documents(20)))


@pytest.mark.parametrize("name", ["out.csv", "out.CSV.gz", "out.parquet", "out.txt"])
def test_export_names_no_other_format(index, relsdk, tmp_path, name):
    code, _, error = relsdk("index", "export", index, tmp_path / name)
    assert code == 2
    assert "is not the format that is written; end the name with .jsonl" in error
    assert os.listdir(tmp_path) == []


def test_export_of_nothing_says_so(index, relsdk, tmp_path):
    code, out, _ = relsdk("index", "export", index, tmp_path / "out.json", "--where", "n<0")
    assert (code, out) == (0, f"{tmp_path}/out.json: 0 of 1,200 documents match\n")


def test_export_of_an_index_of_a_version_before(relsdk, tmp_path):
    code, _, error = relsdk("index", "export", INDEX, tmp_path / "out.jsonl")
    assert code == 0, error
    with Index.open(INDEX) as opened:
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(opened)


def test_export_to_a_full_disk_leaves_what_was_there(index, relsdk_on_small_disk, tmp_path):
    (tmp_path / "out.jsonl").write_text("old")
    output = str(tmp_path / "out.jsonl")
    code, _, err = relsdk_on_small_disk(20_000, "index", "export", str(index), output, "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be written" in err
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_export_and_list_hold_few_documents(tmp_path, relsdk):
    """40 MB of texts are read within 25 MB more than the first document takes."""
    texts = (Document(f"d-{i}", "t", "x" * 20_000) for i in range(2000))
    Index.build(tmp_path / "i", texts, Encoder()).close()
    code = f"""{PEAK}
import sys
from relsdk import Index
from relsdk.formats import write_documents
with Index.open(sys.argv[1]) as index:
    write_documents("/dev/null", [next(index.documents())])
    before = peak()
    write_documents(sys.argv[2], index.documents())
    print(peak() - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "i"), str(tmp_path / "out.jsonl")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (tmp_path / "out.jsonl").stat().st_size > 40_000_000
    assert grown < 25_000_000 + _mapped(tmp_path / "i")


def _mapped(index):
    """The database is mapped into memory: its pages count as resident and are the kernel's to drop."""
    return next(index.glob("segments/*/documents.sqlite")).stat().st_size
