"""Whatever happens to segments, bitmaps or a manifest: an error of ours or the right answers."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import Index, verify_index
from relsdk.records import Document
from tests.sdk.index import segment_damage as damaging
from tests.sdk.index.test_damage import FIXTURE, fuzz, is_right, look


@pytest.fixture(scope="module")
def sources(tmp_path_factory, encoder_class):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("damage")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return dict(
            zip(("segments", "passages"), damaging.make(folder, FIXTURE, patch, encoder_class()), strict=True)
        )


@pytest.fixture(scope="module")
def encoder_class():
    from tests.sdk.index.conftest import HashEncoder

    return HashEncoder


@pytest.fixture(scope="module")
def tasks(sources):
    """What is asked, and what is answered before anything is damaged."""
    made = {}
    for name, path in sources.items():
        with Index.open(path) as index:
            documents = list(index.documents())
            queries = [index._generation.vector_of(one.id).tolist() for one in documents[::50]]
        task = {
            "queries": queries,
            "texts": ["红烧肉", "长一些"][: len(queries)],
            "where": {"topic": documents[0].metadata["topic"]},
            "ids": [one.id for one in documents[::30]],
        }
        results, done = look(task, [str(path)])
        assert not done.stderr, done.stderr
        made[name] = {**task, "expected": results[0]["hashes"]["found"]}
    return made


def test_what_is_not_damaged_is_answered(sources, tasks):
    """By a full scan with numpy."""
    for name, path in sources.items():
        expected, queries = tasks[name]["expected"], np.array(tasks[name]["queries"], dtype=np.float32)
        with Index.open(path) as index:
            assert index.verify().ok
            assert len(index.stats().segments) == (3 if name == "segments" else 2)
            assert index.stats().dead >= 2
            if name == "segments":
                assert [one.graph for one in index.stats().segments] == [True, True, False]
                ids, vectors = [one.id for one in index.documents()], index.vectors
                scores = queries @ vectors.T
                for row, hits in zip(scores, expected["exact"], strict=True):
                    assert [hit[0] for hit in hits] == [ids[i] for i in np.argsort(-row, kind="stable")[:5]]
        assert any(expected["words"])
        assert is_right({**expected, "graph": expected["exact"]}, expected)


@pytest.mark.parametrize(("name", "seeds"), [("segments", range(42)), ("passages", range(20))])
def test_damaged_segments(sources, tasks, tmp_path, name, seeds):
    """Each kind of damage twice; to passages the old kinds are not done."""
    assert fuzz(tasks[name], tmp_path, seeds, sources[name], damaging.damage) >= 0.6 * len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segments", "passages"])
def test_many_damaged_segments(sources, tasks, tmp_path, name):
    assert fuzz(tasks[name], tmp_path, range(20, 450), sources[name], damaging.damage) >= 215


def test_the_generation_before_does_not_matter(sources, tmp_path):
    """Whatever happened to it: the current one is read, and the next change removes it."""
    random = np.random.default_rng(3)
    for number in range(12):
        path = Path(shutil.copytree(sources["segments"], tmp_path / str(number)))
        now = damaging.current(path).name
        before = next(one for one in path.glob("gen-*") if one.name != now)
        files = [*before.iterdir()]
        for file in files if number % 3 == 2 else [files[random.integers(len(files))]]:
            content = bytearray(file.read_bytes())
            content[random.integers(len(content))] ^= 0x41
            file.write_bytes(b"" if number % 3 == 1 else content)
        if number > 9:
            shutil.rmtree(before)
            (before.write_text("mine") if number == 10 else before.symlink_to(tmp_path))
        with Index.open(path) as index:
            assert index.verify().ok
            count = len(index)
            vector = np.eye(index.info().dimension, dtype=np.float32)[:1]
            index.add([Document("new", "t")], vectors=vector)
            assert len(index) == count + 1
        assert not os.path.lexists(before)
        assert verify_index(path).ok
        assert len(list(tmp_path.iterdir())) == number + 1


def test_two_live_documents_of_one_id_are_told(sources, tmp_path):
    """A document that was replaced rises from the dead, and the manifest agrees."""
    path = Path(shutil.copytree(sources["segments"], tmp_path / "copy"))
    content = damaging.read_manifest(path)
    number = next(i for i, one in enumerate(content["segments"]) if i and one["live"] < one["count"])
    name = f"dead-{Path(content['segments'][number]['folder']).name}.bits"
    (damaging.current(path) / name).unlink()

    def change(content):
        content["segments"][number]["live"] = content["segments"][number]["count"]
        del content["files"][name]

    damaging.sign(path, change)
    with Index.open(path):
        pass
    assert [check.name for check in verify_index(path).checks if not check.ok] == ["ids"]


def test_a_damaged_index_takes_no_change(sources, tmp_path):
    """Nothing is committed upon a file that is not what it was."""
    path = Path(shutil.copytree(sources["segments"], tmp_path / "copy"))
    with Index.open(path) as index:
        count = len(index)
    file = path / damaging.read_manifest(path)["segments"][0]["folder"] / "documents.sqlite"
    content = file.read_bytes()
    os.unlink(file)  # a new file: the old one is remembered as right
    file.write_bytes(content[:5000] + b"damaged" + content[5007:])
    before = sorted(os.listdir(path))
    with pytest.raises(IndexFolderError):
        Index.open(path)
    assert sorted(os.listdir(path)) == before
    assert count > 300
