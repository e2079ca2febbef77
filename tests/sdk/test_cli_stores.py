"""The command line where INDEX is a collection of a vector store."""

import json

import pytest

from relsdk import Document
from relsdk.cli import _index_stores
from relsdk.formats import write_documents
from relsdk.index import filter_parser
from tests.toy_store import use_toy_stores
from tests.toys import copy_bundle


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    use_toy_stores(monkeypatch)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("m") / "encoder")


@pytest.fixture
def uri(tmp_path):
    return f"milvus-lite:{tmp_path}/store#videos"


@pytest.fixture
def write(tmp_path):
    def write(first, last):
        some = [Document(f"d{n}", f"第{n}号菜谱", "红烧肉", {"n": n}) for n in range(first, last)]
        write_documents(tmp_path / "d.jsonl", some)
        return tmp_path / "d.jsonl"

    return write


@pytest.fixture
def built(uri, bundle, relsdk, write):
    code, out, _ = relsdk("index", "build", uri, "-m", bundle, "-i", write(0, 10))
    assert code == 0
    assert out.startswith(f"{uri}: 10 documents, ")
    assert f"next: relsdk query '{uri}' \"...\"" in out  # a shell would take # for a comment
    return uri


def test_build_query_and_info(built, relsdk):
    code, out, _ = relsdk("query", built, "第3号", "-k", 3, "--where", "n<5", "--json")
    assert code == 0
    hits = json.loads(out)["hits"]
    assert len(hits) == 3
    assert all(hit["metadata"]["n"] < 5 for hit in hits)
    code, out, _ = relsdk("index", "info", built, "--json")
    info = json.loads(out)
    assert (info["count"], info["kind"], info["path"]) == (10, "toy hnsw", built)
    assert "encoder_fingerprint" in relsdk("index", "info", built)[1]


def test_build_again(built, bundle, relsdk, write):
    again = ("index", "build", built, "-m", bundle, "-i", write(0, 3))
    code, _, err = relsdk(*again)
    assert code == 2
    assert "is there already, with 10 documents" in err
    code, out, _ = relsdk(*again, "--overwrite", "--json")
    assert (code, json.loads(out)["count"]) == (0, 3)


def test_add_and_delete(built, relsdk, write, tmp_path, monkeypatch):
    code, out, _ = relsdk("index", "add", built, "-i", write(8, 12), "--replace", "--json")
    report = json.loads(out)
    assert (code, report["added"], report["new"], report["documents"]) == (0, 4, 2, 12)
    code, _, err = relsdk("index", "add", built, "-i", write(11, 13))
    assert code == 2
    assert "'d11' is in" in err
    code, out, _ = relsdk("index", "add", built, "-i", write(12, 13))
    assert code == 0
    assert "1 document written" in out
    assert "now 13 documents (+1)" in out
    for option in ("--no-sync", "--compact"):
        code, _, err = relsdk("index", "add", built, "-i", write(20, 21), option)
        assert code == 2
        assert f"{option} is for an index folder" in err
    code, out, _ = relsdk("index", "delete", built, "d1", "x", "--dry-run")
    assert "1 of 2 ids: nothing was deleted; now 13 documents" in out
    many = tmp_path / "ids.txt"
    many.write_text("".join(f"d{n}\n" for n in range(50)))
    monkeypatch.setattr(filter_parser, "MAX_VALUES", 20)
    monkeypatch.setattr(_index_stores, "_IDS", 20)
    code, out, err = relsdk("index", "delete", built, "--ids", many, "--dry-run")
    assert "13 of 50 ids: nothing was deleted; now 13 documents" in out, err
    code, out, _ = relsdk("index", "delete", built, "d1", "x", "--json")
    assert json.loads(out) == {"index": built, "deleted": 1, "matching": 1, "of": 2, "documents": 12}
    code, out, _ = relsdk("index", "delete", built, "--where", "n>=10")
    assert "3 of 12 documents: deleted; now 9 documents" in out


def test_evaluate(built, relsdk, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"_id": "q", "text": "第3号菜谱"}\n', encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("q 0 d3 3\nq 0 gone 1\n", encoding="utf-8")
    code, out, err = relsdk(
        "eval", "--index", built, "--queries", tmp_path / "q.jsonl", tmp_path / "qrels.txt", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["documents"] == 10
    assert report["relevant_not_in_index"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "verify"),
        ("index", "compact"),
        ("index", "list"),
        ("index", "export", "out.jsonl"),
        ("index", "similar", "d1"),
        ("index", "facets", "n"),
        ("mine", "pairs.jsonl", "out.jsonl"),
    ],
)
def test_commands_that_need_a_folder_say_so(built, relsdk, arguments):
    names = 1 if arguments[0] == "mine" else 2
    code, _, err = relsdk(*arguments[:names], built, *arguments[names:])
    assert code == 2
    assert f"{built} is a vector store; " in err
    assert f"{' '.join(arguments[:names])} needs an index folder" in err


def test_options_that_need_a_folder_say_so(built, relsdk, bundle, write):
    code, _, err = relsdk("calibrate", bundle, write(0, 1), "--index", built)
    assert (code, "needs an index folder" in err) == (2, True)
    code, _, err = relsdk("query", built, "菜", "--mode", "lexical")
    assert (code, "a lexical search needs an index folder" in err) == (2, True)


def test_get(built, relsdk):
    code, out, _ = relsdk("index", "get", built, "d3", "--json")
    assert (code, json.loads(out)["title"]) == (0, "第3号菜谱")
    code, out, err = relsdk("index", "get", built, "gone", "d3", "--json")
    assert (code, json.loads(out)["id"]) == (2, "d3")
    assert "1 of 2 ids are not in" in err


def test_a_field_that_no_document_has_is_told_where_nothing_is_found(built, relsdk):
    code, _, err = relsdk("query", built, "菜", "--where", "m<5")
    assert (code, f"no document of {built} has the field 'm'" in err) == (2, True)
    code, out, _ = relsdk("query", built, "菜", "--where", "n<0", "--json")
    assert (code, json.loads(out)["hits"]) == (0, [])


def test_a_uri_that_is_wrong(relsdk):
    code, _, err = relsdk("query", "pinecone://db/videos", "菜")
    assert (code, "is no URI of a store; write milvus://" in err) == (2, True)
    code, _, err = relsdk("query", "milvus://root:secret@db/videos", "菜")
    assert code == 2
    assert "MILVUS_TOKEN" in err
    assert "secret" not in err
    code, _, err = relsdk("query", "qdrant://db", "菜")
    assert (code, "names no host and collection" in err) == (2, True)
