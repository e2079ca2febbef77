"""Folders of links: the Hugging Face cache as huggingface_hub leaves it, and links that lead elsewhere."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from relsdk import Embedder
from relsdk.bundle import open_for_calibration, read_bundle
from relsdk.errors import BundleError
from tests.sdk.foreign_folder import FIXTURE, TABLE, make_folder, rows, write_table

pytest.importorskip("onnx")
REVISION = "0123456789abcdef0123456789abcdef01234567"


def cached(source, cache, *, shared=False):
    """Put a folder into a cache as `snapshot_download` does; `shared`: as version 1.33 does with large files.

    blobs/<etag>, snapshots/<revision>/<file> -> ../../blobs/<etag>, refs/main; a shared blob is a link to
    <cache>/blobs/<xx>/<hash>.
    """
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / REVISION
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        content = path.read_bytes()
        blob = repository / "blobs" / hashlib.sha1(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        if shared and path.name.startswith("model.onnx"):
            stored = hashlib.sha256(content).hexdigest()
            place = cache / "blobs" / stored[:2] / stored
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            blob.symlink_to(os.path.relpath(place, blob.parent))
        else:
            blob.write_bytes(content)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_a_bundle_in_the_cache_opens(tmp_path, corpus, shared):
    snapshot = cached(FIXTURE, tmp_path / "hub", shared=shared)
    here, there = Embedder(FIXTURE), Embedder(snapshot)
    assert (there.fingerprint, there.is_calibrated) == (here.fingerprint, here.is_calibrated)
    np.testing.assert_array_equal(there.encode(corpus), here.encode(corpus))
    assert there.verify().passed
    (tmp_path / "by another name").symlink_to(snapshot)
    assert Embedder(tmp_path / "by another name").fingerprint == here.fingerprint


def test_a_calibration_stored_in_the_cache_leaves_the_blobs_alone(tmp_path):
    snapshot = cached(FIXTURE, tmp_path / "hub")
    blobs = {path: path.read_bytes() for path in (tmp_path / "hub").rglob("blobs/*")}
    open_for_calibration(snapshot)
    assert {path: path.read_bytes() for path in (tmp_path / "hub").rglob("blobs/*")} == blobs


@pytest.fixture
def external(tmp_path):
    """Somebody's folder whose weights are beside the graph."""
    folder = make_folder(tmp_path / "source", graph=False)
    beside = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}
    write_table(folder / "onnx/model.onnx", **beside)
    assert (folder / "onnx/model.onnx_data").stat().st_size == TABLE.nbytes
    return folder


@pytest.mark.parametrize("shared", [False, True])
def test_weights_beside_a_linked_graph_are_loaded(external, tmp_path, corpus, shared):
    embedder = Embedder(cached(external, tmp_path / "hub", shared=shared))
    expected = np.stack([rows(text).mean(axis=0) for text in corpus])
    np.testing.assert_allclose(embedder.encode(corpus), expected, atol=1e-5)
    assert embedder.name == "owner/name"
    assert embedder.fingerprint == Embedder(external).fingerprint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_loads_links_again(external, tmp_path):
    snapshot = cached(external, tmp_path / "hub")
    program = f"""
import os, sys
import numpy as np
from relsdk import Embedder
embedder = Embedder({str(snapshot)!r}, threads=1)
before = embedder.encode("a")
pid = os.fork()
if pid == 0:
    os._exit(0 if np.array_equal(embedder.encode("a"), before) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_link_that_leads_to_another_file_by_now_is_not_followed(external, tmp_path):
    """Downloading another revision over the same name must not change an open model."""
    snapshot = cached(make_folder(tmp_path / "inside"), tmp_path / "hub")
    embedder = Embedder(snapshot)
    before = embedder.encode("a")
    write_table(tmp_path / "other.onnx", table=-TABLE)
    link = snapshot / "onnx/model.onnx"
    link.unlink()
    link.symlink_to(tmp_path / "other.onnx")
    embedder._runner.session._session = None  # as in a forked child
    np.testing.assert_array_equal(embedder.encode("a"), before)


@pytest.mark.parametrize("change", ["content", "link"])
def test_other_weights_beside_the_graph_are_never_loaded(external, tmp_path, change):
    """A session that is loaded later, as in a forked child, has the weights that it had, or none."""
    snapshot = cached(external, tmp_path / "hub")
    embedder = Embedder(snapshot)
    data = snapshot / "onnx/model.onnx_data"
    (tmp_path / "other").write_bytes((-TABLE).tobytes())
    if change == "link":
        data.unlink()
        data.symlink_to(tmp_path / "other")
    else:
        os.replace(tmp_path / "other", data.resolve())
    embedder._runner.session._session = None
    with pytest.raises(BundleError, match=r"model\.onnx_data is gone or no longer the file"):
        embedder.encode("a")


def test_offline_a_hub_id_is_found_in_the_cache(tmp_path):
    pytest.importorskip("huggingface_hub")
    cached(FIXTURE, tmp_path / "hf" / "hub")
    program = """
import json
from relsdk import Embedder
embedder = Embedder("owner/name", threads=1)
print(json.dumps([embedder.fingerprint, embedder.encode("大宅门").tolist()]))
"""
    hidden = ("HF_ENDPOINT", "HF_HUB_CACHE", "HF_HOME", "HUGGINGFACE_HUB_CACHE")
    base = {name: value for name, value in os.environ.items() if name not in hidden}
    environment = {**base, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    fingerprint, vector = json.loads(done.stdout)
    here = Embedder(FIXTURE, threads=1)
    assert fingerprint == here.fingerprint
    np.testing.assert_allclose(vector, here.encode("大宅门"), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "onnx/model.onnx", "config.json", "1_Pooling/config.json", "modules.json"]
)
@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_link_that_leaves_is_refused(tmp_path, name, place):
    """To a file that would do: the folder next to it, or another repository of the cache."""
    source = make_folder(tmp_path / "source")
    elsewhere = shutil.copytree(source, tmp_path / "hub" / "models--other--one" / "snapshots" / REVISION)
    folder = source if place == "folder" else cached(source, tmp_path / "hub")
    (folder / name).unlink()
    (folder / name).symlink_to(elsewhere / name)
    with pytest.raises(
        BundleError, match=r"is a link to .*models--other--one.*, outside the folder; put a copy"
    ):
        Embedder(folder)


def test_a_ring_of_links_is_told(tmp_path):
    folder = make_folder(tmp_path / "m")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(BundleError, match=r"config\.json"):
        read_bundle(folder)
