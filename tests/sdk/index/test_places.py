"""Where an index and its encoder are: relative paths, another working folder, moved trees, odd names."""

import json
import os
import shutil
from pathlib import Path

import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import BundleError, InputError
from relsdk.files.folders import json_sha256, staged_folder
from relsdk.formats import write_documents
from relsdk.index import verify_index
from relsdk.records import Document
from tests.threads import at_once

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DOCUMENTS = [Document(f"d{i}", title) for i, title in enumerate(["红烧肉怎么做", "手机黑屏", "make bread"])]
QUERY = "红烧肉怎么做"
ODD = os.fsdecode(b"\xff\xfe odd")


@pytest.fixture
def world(tmp_path):
    """An index beside the bundle that built it: world/index, world/models/encoder."""
    shutil.copytree(FIXTURES / "encoder-bundle-v1", tmp_path / "world/models/encoder")
    embedder = Embedder(tmp_path / "world/models/encoder", variant="fp32")
    Index.build(tmp_path / "world/index", DOCUMENTS, embedder).close()
    return tmp_path / "world"


@pytest.fixture(scope="module")
def expected():
    """The ids for a query, best first, without an index."""
    embedder = Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32")
    cosines = embedder.encode_document(DOCUMENTS) @ embedder.encode_query(QUERY)
    return [DOCUMENTS[row].id for row in (-cosines).argsort()]


def found(answer):
    code, out, error = answer
    assert code == 0, error
    return [hit["id"] for hit in json.loads(out.splitlines()[0])["hits"]]


def test_what_was_opened_by_a_relative_path_works_from_another_folder(world, expected, tmp_path, monkeypatch):
    shutil.copytree(FIXTURES / "tower-bundle-v1", world / "tower")
    shutil.copytree(FIXTURES / "scorer-bundle-v1", world / "scorer")
    monkeypatch.chdir(world)
    embedder = Embedder("models/encoder", variant="fp32")
    tower, scorer = Embedder("tower", variant="fp32"), RelevanceScorer("scorer", variant="fp32")
    index = Index.open("index")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    searcher = Searcher(embedder, index)
    assert [hit.document.id for hit in searcher.search(QUERY)] == expected
    assert tower.encode_query("红烧肉").shape == (tower.dimension,)  # its query tower is loaded now
    assert len(scorer.predict([("红烧肉", "红烧肉怎么做")]).levels) == 1
    assert index.verify().ok
    read = []
    with at_once(lambda: read.extend(index.get(["d1"]))):  # opens a connection of its own
        pass
    assert read[0].title == "手机黑屏"
    assert all(Path(one.path).is_absolute() for one in (embedder, index))


def test_a_build_survives_a_change_of_the_working_folder(world, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(world)

    def documents():
        os.chdir(tmp_path / "elsewhere")
        yield from DOCUMENTS

    with Index.build("second", documents(), Embedder("models/encoder", variant="fp32")) as index:
        assert index.info().encoder_path == str(world / "models/encoder")
        assert index.info().encoder_relative_path == "../models/encoder"
    assert os.listdir(tmp_path / "elsewhere") == []
    assert verify_index(world / "second").ok

    monkeypatch.chdir(world)
    with staged_folder(Path("folder"), marker="x") as staging:
        (staging / "x").touch()
        os.chdir(tmp_path / "elsewhere")
    assert (world / "folder" / "x").exists()


@pytest.mark.parametrize("variant", [[], ["--variant", "fp32"]])
def test_an_index_finds_the_bundle_that_moved_with_it(world, expected, tmp_path, relsdk, variant):
    world.rename(tmp_path / "moved")
    assert found(relsdk("query", tmp_path / "moved/index", QUERY, "--json", *variant)) == expected
    (tmp_path / "link").symlink_to("moved/index")  # seen from the real folder, not from the link
    assert found(relsdk("query", tmp_path / "link", QUERY, "--json", *variant)) == expected


def test_another_model_in_the_old_place_is_not_taken(world, expected, tmp_path, relsdk):
    (tmp_path / "moved").mkdir()
    shutil.copytree(world, tmp_path / "moved/world")
    other = world / "models/encoder"
    content = json.loads((other / "config_sentence_transformers.json").read_text())
    content["prompts"]["query"] = "ask: "
    (other / "config_sentence_transformers.json").write_text(json.dumps(content))
    for name in ("relsdk.json", "golden.json"):
        (other / name).unlink()  # a foreign folder now, with other vectors
    assert found(relsdk("query", tmp_path / "moved/world/index", QUERY, "--json")) == expected
    code, _, error = relsdk("query", world / "index", "x")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{other} is another model" in error
    assert "--model" in error


def test_a_bundle_that_is_nowhere_is_told_with_all_that_was_tried(world, tmp_path, relsdk):
    world.rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/models")
    code, _, error = relsdk("query", tmp_path / "moved/index", "x")
    assert (code, error.count("\n")) == (2, 1)
    for place in (world / "models/encoder", tmp_path / "moved/models/encoder"):
        assert f"{place} is not a folder" in error
    assert "--model" in error


def test_an_index_of_a_version_before_has_no_relative_path(tmp_path):
    with Index.open(FIXTURES / "index-v1") as index:
        assert index.info().encoder_relative_path is None


def test_a_manifest_with_a_relative_path_that_is_none_is_damaged(world):
    path = world / "index/gen-000001/manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["encoder"]["relative_path"] = 7
    path.write_text(json.dumps({**content, "checksum": json_sha256(content)}))
    from relsdk.errors import IndexFolderError

    with pytest.raises(IndexFolderError, match=r"damaged.*relative_path"):
        Index.open(world / "index")


def test_an_index_in_a_folder_whose_name_is_not_utf_8(world, expected, tmp_path, relsdk):
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_documents(world / "documents.jsonl", DOCUMENTS)
    arguments = ["--model", world / "models/encoder", "--input", world / "documents.jsonl"]
    code, _, error = relsdk("index", "build", tmp_path / ODD / "index", *arguments)
    assert (code, error.count("Traceback")) == (0, 0), error
    assert found(relsdk("query", tmp_path / ODD / "index", QUERY, "--json")) == expected
    for command in ("info", "verify"):
        for options in ([], ["--json"]):
            assert relsdk("index", command, tmp_path / ODD / "index", *options)[0] == 0
    shutil.copytree(world, tmp_path / ODD / "world")  # the bundle, too: no path is opened that is none
    with pytest.raises(BundleError, match="this name is not UTF-8"):
        Embedder(tmp_path / ODD / "world/models/encoder")
    with (
        pytest.raises(InputError, match="this name is not UTF-8"),
        staged_folder(tmp_path / ODD / "bundle", marker="x"),
    ):
        pass


def test_an_encoder_whose_path_is_not_utf_8_is_not_noted(tmp_path, encoder, documents):
    encoder.path = tmp_path / ODD / "encoder"
    with Index.build(tmp_path / "index", documents, encoder) as index:
        assert (index.info().encoder_path, index.info().encoder_relative_path) == (None, None)
        assert index.verify().ok
