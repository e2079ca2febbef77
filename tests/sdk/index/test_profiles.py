"""`profiles.json` of an index: stored, read, and kept through every change."""

import json
import shutil

import pytest

from relsdk import Document, Index
from relsdk.calibration import SearchProfile
from relsdk.errors import IndexFolderError, RelsdkError
from relsdk.index import verify_index


def profile(number):
    made = SearchProfile()
    made.level[3] = number
    return made


@pytest.fixture
def index(tmp_path, encoder, documents):
    with Index.build(tmp_path / "i", documents, encoder) as index:
        yield index


def test_profiles_stay_through_changes(index, encoder):
    assert index.profiles("fp32") == {}
    index.store_profiles({"fp32": {"cosine": profile(1)}, "int8_any": {"cosine": profile(2)}})
    index.store_profiles({"fp32": {"cosine": profile(3), "hybrid": profile(4)}})
    expected = {"cosine": profile(3), "hybrid": profile(4)}
    assert index.profiles("fp32") == expected
    index.add([Document("new", "新的")], encoder)
    index.delete(["new"])
    index.compact(full=True)
    assert verify_index(index.path).ok
    with Index.open(index.path) as again:
        assert again.profiles("fp32") == again.snapshot().profiles("fp32") == expected
        assert again.profiles("int8_any") == {"cosine": profile(2)}


def test_a_copy_has_them_and_a_new_build_of_the_same_encoder_too(index, encoder, documents, tmp_path):
    index.store_profiles({"fp32": {"cosine": profile(1)}})
    shutil.copytree(index.path, tmp_path / "copy")
    with Index.build(tmp_path / "copy", documents[:5], encoder, overwrite=True) as built:
        assert built.profiles("fp32") == {"cosine": profile(1)}


def test_those_of_another_encoder_are_not_taken(index, encoder_class, documents):
    index.store_profiles({"fp32": {"cosine": profile(1)}})
    with Index.build(index.path, documents[:5], encoder_class("another"), overwrite=True) as built:
        assert built.profiles("fp32") == {}
        built.store_profiles({"int8_any": {"cosine": profile(2)}})
        assert built.profiles("fp32") == {}
        assert built.profiles("int8_any") == {"cosine": profile(2)}


@pytest.mark.parametrize(
    "content", ["", "{}", '{"format": "relsdk-search-profiles", "version": 2}', "[" * 200]
)
def test_a_damaged_file_is_told_and_harms_no_search(index, encoder, documents, content):
    index.store_profiles({"fp32": {"cosine": profile(1)}})
    path = index.path / "profiles.json"
    path.write_text(content)
    with Index.open(index.path) as again:
        assert again.search(encoder.encode_document(documents[:1])[0], 1)
        with pytest.raises(IndexFolderError, match=r"profiles\.json .*relsdk calibrate .*--queries FILE"):
            again.profiles("fp32")


def test_another_version_is_refused(index):
    index.store_profiles({"fp32": {"cosine": profile(1)}})
    path = index.path / "profiles.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(IndexFolderError, match="of another format or version"):
        index.profiles("fp32")


def test_an_index_with_a_damaged_pointer_can_still_be_built_again(index, encoder, documents):
    index.store_profiles({"fp32": {"cosine": profile(1)}})
    (index.path / "CURRENT").write_text("nonsense")
    (index.path / ".profiles.json.0123abcd.tmp").write_text("of a killed writer")
    with Index.build(index.path, documents[:5], encoder, overwrite=True) as built:
        assert len(built) == 5


def test_a_disk_that_refuses(index):
    (index.path / "profiles.json").mkdir()
    (index.path / "profiles.json" / "x").touch()
    with pytest.raises(RelsdkError, match=r"profiles\.json"):
        index.store_profiles({"fp32": {"cosine": profile(1)}})
