"""`relsdk index add | delete | compact`, and what the other commands say of an index that was changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from relsdk import Document, Embedder, Index
from relsdk.formats import write_documents

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BUNDLE, OLD = FIXTURES / "encoder-bundle-v1", FIXTURES / "index-v1"
MODEL = ("--model", BUNDLE, "--variant", "fp32")


def documents(first, last, title="标题"):
    return [Document(f"d{n}", f"{title} {n}", "正文", {"n": n}) for n in range(first, last)]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(BUNDLE, variant="fp32", threads=1)


@pytest.fixture(scope="module")
def built(embedder, tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "i"
    Index.build(path, documents(0, 10), embedder).close()
    return path


@pytest.fixture
def index(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "i"))


@pytest.fixture
def write(tmp_path):
    def write(some, name="d.jsonl"):
        write_documents(tmp_path / name, some)
        return tmp_path / name

    return write


def content_of(path):
    with Index.open(path) as opened:
        return list(opened.documents())


def test_add(index, relsdk, write):
    code, out, _ = relsdk("index", "add", index, "-i", write(documents(10, 12)), *MODEL)
    assert code == 0
    assert out.startswith(f"{index}: 2 documents added, ")
    assert out.endswith(f' s; now 12 documents in 1 segment\nnext: relsdk query {index} "..."\n')
    assert content_of(index) == documents(0, 12)


def test_add_finds_the_model_of_the_index_as_query_does(index, relsdk, fails, write):
    """`index` was built with a model that is there, the fixture of an older version with one that is not."""
    source = write(documents(20, 21))
    assert (
        json.loads(relsdk("index", "add", index, "-i", source, "--variant", "fp32", "--json")[1])["added"]
        == 1
    )
    copy = shutil.copytree(OLD, index.parent / "old")
    error = fails("index", "add", copy, "-i", source)
    assert "that built" in error
    assert "--model" in error
    assert fails("query", copy, "x").partition("that built")[2] == error.partition("that built")[2]
    before = content_of(copy)
    assert relsdk("index", "add", copy, "-i", source, *MODEL)[0] == 0
    assert content_of(copy) == [*before, *documents(20, 21)]


def test_add_of_what_is_there_needs_replace(index, relsdk, fails, write):
    source = write(documents(8, 12, title="新"))
    error = fails("index", "add", index, "-i", source, *MODEL)
    assert "document 1 of the input: id 'd8' is in the index already" in error
    assert "--replace" in error
    assert content_of(index) == documents(0, 10)
    code, out, _ = relsdk("index", "add", index, "-i", source, "--replace", *MODEL, "--json")
    assert code == 0
    report = json.loads(out)
    assert report.pop("seconds") >= 0
    assert report == {
        "index": str(index), "added": 4, "replaced": 2, "documents": 12, "segments": 1, "dead": 0,
        "compacted": False, "warnings": [],
    }  # fmt: skip
    assert content_of(index) == [*documents(0, 8), *documents(8, 12, title="新")]
    out = relsdk("index", "add", index, "-i", source, "--replace", *MODEL, "--no-sync", "--compact")[1]
    assert "4 documents added (4 replaced), " in out


def test_replaced_is_not_told_where_another_writer_was_at_work(index, relsdk, write, monkeypatch, embedder):
    def and_another(self, *arguments, **options):
        with Index.open(index) as other:
            other.delete(["d0"])
        return written(self, *arguments, **options)

    written = Index.upsert
    monkeypatch.setattr(Index, "upsert", and_another)
    source = write(documents(8, 12))
    report = json.loads(relsdk("index", "add", index, "-i", source, "--replace", *MODEL, "--json")[1])
    assert (report["added"], report["replaced"], report["documents"]) == (4, None, 11)


def test_add_reads_tables_like_build(index, relsdk, tmp_path):
    (tmp_path / "d.csv").write_bytes("id;title;年;sku\na;题;3;007\n".encode("gb18030"))
    options = ("--encoding", "gb18030", "--delimiter", ";", "--types", "年=text")
    assert relsdk("index", "add", index, "-i", tmp_path / "d.csv", *MODEL, *options)[0] == 0
    assert content_of(index)[-1] == Document("a", "题", "", {"年": "3", "sku": "007"})


def test_add_takes_vectors_and_no_model(index, relsdk, fails, write, tmp_path, embedder):
    more = documents(10, 14)
    vectors = embedder.encode_document(more)
    np.save(tmp_path / "v.npy", vectors.astype(np.float64))
    source = write(more)
    code, _, error = relsdk("index", "add", index, "-i", source, "--vectors", tmp_path / "v.npy")
    assert (code, error) == (0, "")  # a bundle that is opened warns of its age
    with Index.open(index) as opened:
        np.testing.assert_allclose(opened.vectors[10:], vectors, atol=1e-6)
    np.save(tmp_path / "v.npy", vectors[:3])
    again = ("index", "add", index, "-i", source, "--replace", "--vectors", tmp_path / "v.npy")
    assert "document 4 of the input has no vector: there are only 3" in fails(*again)
    np.save(tmp_path / "v.npy", np.concatenate([vectors, vectors]))
    assert "8 vectors for 4 documents" in fails(*again)
    np.save(tmp_path / "v.npy", vectors * 2)
    assert "length 2" in fails(*again)
    np.save(tmp_path / "v.npy", vectors.astype(np.float64) * 1e300)
    code, _, error = relsdk(*again)
    assert (code, error.count("\n")) == (2, 1)  # no warning of numpy's
    assert content_of(index) == documents(0, 14)


def test_delete_by_id(index, relsdk, fails, tmp_path):
    (tmp_path / "ids.txt").write_text("d3\n\n d4 \nabsent\nd3\n")
    line = ("index", "delete", index, "d1", "--ids", tmp_path / "ids.txt")
    code, out, _ = relsdk(*line, "--dry-run")
    assert (code, out) == (
        0,
        f"{index}: 3 of 4 ids are in the index: nothing was deleted; now 10 documents in 1 segment\n",
    )
    code, out, _ = relsdk(*line)
    assert code == 0
    assert out == (
        f"{index}: 3 of 4 ids are in the index: deleted; now 7 documents in 1 segment, 3 dead\n"
        f"on the disk they are until this has been run twice: relsdk index compact {index} --full\n"
    )
    assert [one.id for one in content_of(index)] == ["d0", "d2", "d5", "d6", "d7", "d8", "d9"]
    code, out, _ = relsdk("index", "delete", index, "d1", "--json")  # it may be repeated
    assert code == 0
    assert json.loads(out) == {
        "index": str(index), "deleted": 0, "matching": 0, "of": 1, "documents": 7, "dead": 3,
    }  # fmt: skip


def test_delete_by_filter(index, relsdk, fails):
    line = ("index", "delete", index, "--where", "n>=4", "--where", "n<7")
    out = relsdk(*line, "--dry-run", "--json")[1]
    assert json.loads(out) == {
        "index": str(index), "deleted": 0, "matching": 3, "of": 10, "documents": 10, "dead": 0,
    }  # fmt: skip
    assert "3 of 10 documents match: deleted; now 7 documents" in relsdk(*line)[1]
    assert "0 of 7 documents match: nothing was deleted" in relsdk(*line)[1]
    assert [one.metadata["n"] for one in content_of(index)] == [0, 1, 2, 3, 7, 8, 9]
    assert "'m'" in fails("index", "delete", index, "--where", "m=1")  # no document has it
    assert (
        "7 of 7 documents match: deleted; now 0 documents in 0 segments"
        in relsdk("index", "delete", index, "--where", "n>=0")[1]
    )
    assert content_of(index) == []


@pytest.mark.parametrize(
    "which",
    [(), ("d1", "--where", "n=1"), ("--ids", "ids.txt", "--where", "n=1"), ("--where", ""), ("--ids", "")],
)
def test_delete_takes_ids_or_a_filter_that_says_something(index, fails, which):
    fails("index", "delete", index, *which)
    assert len(content_of(index)) == 10


def test_ids_come_from_what_other_commands_write(index, relsdk, tmp_path):
    listed = relsdk("index", "list", index, "--where", "n<2", "--json")[1]
    (tmp_path / "ids.jsonl").write_text(listed)
    assert (
        "2 of 2 ids are in the index" in relsdk("index", "delete", index, "--ids", tmp_path / "ids.jsonl")[1]
    )
    (tmp_path / "ids.csv").write_text("doc_id,why\nd5,old\n")
    assert "1 of 1 id is in the index" in relsdk("index", "delete", index, "--ids", tmp_path / "ids.csv")[1]


def test_compact_says_what_it_did(index, relsdk, write):
    assert "nothing to do with 10 documents in 1 segment; --full" in relsdk("index", "compact", index)[1]
    relsdk("index", "delete", index, "d1")
    code, out, _ = relsdk("index", "compact", index, "--full")
    assert code == 0
    before, after = (
        [int(cell.replace(",", "")) for cell in line.split()[1:]] for line in out.splitlines()[1:3]
    )
    assert (before[:3], after[:3]) == ([9, 1, 1], [9, 1, 0])
    assert 0 < after[3] < before[3]
    assert "run again" in out
    code, out, _ = relsdk("index", "compact", index, "--full")
    assert out.startswith(
        f"{index}: removed from the disk what was merged before; now 9 documents in 1 segment"
    )
    assert (
        relsdk("index", "compact", index, "--full")[1]
        == f"{index}: nothing to do with 9 documents in 1 segment\n"
    )
    report = json.loads(relsdk("index", "compact", index, "--full", "--json")[1])
    assert not report["compacted"]
    assert report["before"] == report["after"]
    assert dict(zip(report["after"], after, strict=True)) == report["after"]


def files_with(folder, text):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text in path.read_bytes()]


def test_what_was_deleted_is_on_the_disk_until_it_is_compacted_twice(index, relsdk, write):
    relsdk("index", "add", index, "-i", write([Document("s", "t", "a-secret-text")]), *MODEL)
    relsdk("index", "delete", index, "s")
    with Index.open(index) as reader:  # has the generation before the compaction
        assert relsdk("index", "compact", index, "--full")[0] == 0
        assert files_with(index, b"a-secret-text")
        assert list(reader.documents()) == documents(0, 10)
    assert relsdk("index", "compact", index, "--full")[0] == 0
    assert not files_with(index, b"a-secret-text")
    assert relsdk("index", "verify", index)[0] == 0
    assert content_of(index) == documents(0, 10)


def test_an_index_of_format_1_leaves_nothing_behind(relsdk, tmp_path):
    index = shutil.copytree(OLD, tmp_path / "i")
    before = content_of(index)
    for generations in (["gen-000001", "gen-000002"], ["gen-000002", "gen-000003"]):
        assert relsdk("index", "compact", index, "--full")[0] == 0
        assert sorted(path.name for path in index.glob("gen-*")) == generations
        assert content_of(index) == before
    assert json.loads(relsdk("index", "info", index, "--json")[1])["format"] == 2


def test_a_model_that_moved_is_named_in_one_short_line(relsdk, fails, write, tmp_path):
    moved = shutil.copytree(MODEL[1], tmp_path / "bundle")
    assert relsdk("index", "build", tmp_path / "i", "-i", write(documents(0, 3)), "-m", moved)[0] == 0
    shutil.move(moved, tmp_path / "elsewhere")
    error = fails("query", tmp_path / "i", "正文")
    assert error.rstrip().endswith(f"is not found: {moved} is not a folder; name it with --model")


def test_a_field_called_id_does_not_hide_ids(relsdk, write, tmp_path):
    source = write([Document("a", "题", "", {"id": "b"}), Document("b", "文")])
    assert relsdk("index", "build", tmp_path / "i", "-i", source, *MODEL)[0] == 0
    code, out, error = relsdk("index", "delete", tmp_path / "i", "a", "c", "--dry-run")
    assert code == 0, error
    assert "1 of 2 ids are in the index" in out


def test_a_document_without_a_title_is_listed_by_its_text(relsdk, write, tmp_path):
    source = write([Document("a", "", "一句话。" * 50), Document("b", "文", "话")])
    assert relsdk("index", "build", tmp_path / "i", "-i", source, *MODEL)[0] == 0
    first, second = relsdk("index", "list", tmp_path / "i")[1].splitlines()
    assert first.startswith("a\t一句话。")
    assert len(first) < 100
    assert second == "b\t文"


def test_info_shows_the_segments(index, relsdk):
    relsdk("index", "delete", index, "d1", "d2")
    info = json.loads(relsdk("index", "info", index, "--json")[1])
    assert (info["format"], info["count"], info["dead"]) == (2, 8, 2)
    (segment,) = info["segments"]
    assert (segment["count"], segment["dead"], segment["vectors"], segment["graph"]) == (8, 2, 10, False)
    assert info["bytes"] >= segment["bytes"] > 0
    assert (info["analyser"], info["hybrid"]) == ("cjk 1", [])
    lines = relsdk("index", "info", index)[1].splitlines()
    assert any(line.startswith("hybrid ") and "relsdk calibrate" in line for line in lines)
    assert lines[-1].split()[:5] == [segment["name"], "8", "2", "10", "no"]


def test_other_commands_see_live_documents_in_the_order_of_adding(index, relsdk, write, tmp_path):
    """After changes, list, get and export show what an index of the same documents would."""
    relsdk("index", "delete", index, "d1", "d3")
    relsdk(
        "index", "add", index, "-i", write([*documents(20, 23), *documents(5, 6, "新")]), "--replace", *MODEL
    )
    relsdk("index", "delete", index, "d21")
    wanted = [*(one for one in documents(0, 10) if one.id not in ("d1", "d3", "d5"))]
    wanted += [*documents(20, 21), *documents(22, 23), *documents(5, 6, "新")]
    listed = relsdk("index", "list", index)[1]
    assert listed == "".join(f"{one.id}\t{one.title}\n" for one in wanted)
    assert relsdk("index", "get", index, "d21")[0] == 2
    assert json.loads(relsdk("index", "get", index, "d5", "--json")[1])["title"] == "新 5"
    out, vectors = tmp_path / "out.jsonl", tmp_path / "out.npy"
    assert relsdk("index", "export", index, out, "--vectors", vectors, "--where", "n>=4")[0] == 0
    rows = [json.loads(line)["_id"] for line in out.read_text().splitlines()]
    assert rows == [one.id for one in wanted if one.metadata["n"] >= 4]
    with Index.open(index) as opened:
        np.testing.assert_array_equal(np.load(vectors), opened.vectors[opened.rows({"n": {"gte": 4}})])


def test_export_and_build_with_vectors_is_a_round_trip(index, relsdk, tmp_path, embedder, write):
    relsdk("index", "delete", index, "d1")
    relsdk("index", "add", index, "-i", write(documents(30, 33)), *MODEL)
    files = tmp_path / "out.jsonl", "--vectors", tmp_path / "out.npy"
    assert relsdk("index", "export", index, *files)[0] == 0
    code, _, _ = relsdk("index", "build", tmp_path / "again", "-i", *files, *MODEL)
    assert code == 0
    with Index.open(index) as one, Index.open(tmp_path / "again") as other:
        assert list(one.documents()) == list(other.documents())
        np.testing.assert_array_equal(one.vectors, other.vectors)
        assert one.info().encoder_fingerprint == other.info().encoder_fingerprint
        queries = embedder.encode_query(["标题 3", "正文"])
        assert one.search(queries, 5) == other.search(queries, 5)


def test_vectors_of_an_index_in_passages_go_neither_out_nor_in(relsdk, fails, write, tmp_path, embedder):
    source = write([Document("a", "题", "一句话。" * 30), *documents(0, 3)])
    code, out, _ = relsdk("index", "build", tmp_path / "i", "-i", source, "--chunk", "40", *MODEL)
    assert code == 0
    info = json.loads(relsdk("index", "info", tmp_path / "i", "--json")[1])
    assert info["config"]["passage_characters"] == 40
    (segment,) = info["segments"]
    assert f": 4 documents in {segment['vectors']} passages, " in out
    assert segment["count"] == 4
    assert segment["vectors"] >= 3 + 3  # 120 characters in passages of 40
    error = fails("index", "export", tmp_path / "i", tmp_path / "out.jsonl", "--vectors", tmp_path / "o.npy")
    assert "passages" in error
    assert not (tmp_path / "out.jsonl").exists()
    np.save(tmp_path / "v.npy", embedder.encode_document(["a", "b", "c", "d"]))
    given = ("-i", source, "--vectors", tmp_path / "v.npy")
    assert "passages" in fails("index", "add", tmp_path / "i", *given, "--replace")
    assert "passages" in fails("index", "build", tmp_path / "j", *given, "--chunk", "40", *MODEL)
    assert not (tmp_path / "j").exists()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 32), }"


def npy(header, content=b"", version=b"\x01\x00"):
    text = header.encode("latin-1")
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .npy file"),
        (b"PK\x03\x04" + b"x" * 200, "no .npy file"),
        (npy(HEADER, b"\0" * 512, b"\x09\x00"), "no .npy file"),
        (npy("(" * 9000), "no .npy file"),
        (npy("{'descr': '<f4'"), "no .npy file"),
        (npy("{[]: 1}"), "no .npy file"),
        (npy("[1, 2]"), "no .npy file"),
        (npy(HEADER.replace("(4, 32)", "(True, 32)"), b"\0" * 512), "no .npy file"),
        (npy(HEADER.replace("(4, 32)", "4"), b"\0" * 512), "no .npy file"),
        (npy(HEADER.replace("False", "0"), b"\0" * 512), "no .npy file"),
        (npy(HEADER, b"\0" * 512)[:40], "no .npy file"),
        (npy(HEADER, b"\0" * 511), "cut off"),
        (npy(HEADER, b"\0" * 513), "cut off"),
        (npy(HEADER.replace("(4, 32)", f"({2**62}, 32)"), b"\0" * 512), "cut off"),
        (npy(HEADER.replace("(4, 32)", "(-4, 32)"), b"\0" * 512), "of shape (documents, 32) is needed"),
        (npy(HEADER.replace("(4, 32)", "(0, 32)")), "of shape (documents, 32) is needed"),
        (npy(HEADER.replace("(4, 32)", "(4, 31)"), b"\0" * 496), "float32 of shape (4, 31)"),
        (npy(HEADER.replace("(4, 32)", "(128,)"), b"\0" * 512), "float32 of shape (128,)"),
        (npy(HEADER.replace("<f4", "|i1"), b"\0" * 128), "|i1 of shape (4, 32)"),
        (npy(HEADER.replace("<f4", "|O"), b"cos\nsystem\n(S'false'\ntR."), "|O of shape (4, 32)"),
        (npy(HEADER.replace("'<f4'", "[('x', '<f4')]"), b"\0" * 512), "records of shape (4, 32)"),
    ],
)
def test_a_file_that_holds_no_such_vectors(index, fails, write, tmp_path, content, message):
    (tmp_path / "v.npy").write_bytes(content)
    error = fails("index", "add", index, "-i", write(documents(10, 14)), "--vectors", tmp_path / "v.npy")
    assert message in error
    assert str(tmp_path / "v.npy") in error


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floating_point_of_any_width_and_order(index, relsdk, write, tmp_path, embedder, kind, order):
    more = documents(10, 14)
    vectors = embedder.encode_document(more)
    np.save(tmp_path / "v.npy", np.asarray(vectors, dtype=kind, order=order))
    assert relsdk("index", "add", index, "-i", write(more), "--vectors", tmp_path / "v.npy")[0] == 0
    with Index.open(index) as opened:
        np.testing.assert_allclose(opened.vectors[10:], vectors, atol=1e-3)


def test_what_is_no_file_of_vectors(index, fails, write, tmp_path):
    source = write(documents(10, 14))
    for path in (tmp_path, tmp_path / "absent.npy", "/dev/zero", "/dev/stdin"):
        assert str(path) in fails("index", "add", index, "-i", source, "--vectors", path)
