"""Toy models, the shared data where it is present, and the command in this process."""

import gc
import logging
import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from tests.toys import CORPUS, copy_bundle, make_checkpoint

pytest_plugins = ("tests.cpu_seconds",)
settings.register_profile("busy machine", deadline=None)  # an example may take a second where others compute
settings.load_profile("busy machine")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
if find_spec("torch") is None:  # a base installation, as of `make test-floor`
    collect_ignore_glob = ["bench/*", "export/*", "training/*"]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage among the millions of objects that imports make, neither now nor in a test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# What pytest and Ray keep in the environment.
_OF_OTHERS = ("PYTEST_CURRENT_TEST", "RAY_", "PYTHONBREAKPOINT")


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Logging that a command leaves off, or a changed environment, decides what this process tests next."""
    before = dict(os.environ)
    yield
    left = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert left == logging.NOTSET, f"left logging.disable({left}) behind"
    names = {name for name, _ in before.items() ^ os.environ.items()}
    changed = {name for name in names if not name.startswith(_OF_OTHERS)}
    for name in changed:
        os.environ.pop(name, None)
    os.environ.update({name: before[name] for name in changed & before.keys()})
    assert not changed, f"left {sorted(changed)} of the environment changed behind"


@pytest.fixture
def without_hub(monkeypatch):
    """The hub is out of reach, for this test only: its client reads the environment once."""
    with suppress(ImportError):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _toys_are_exported_once(request, tmp_path_factory):
    if "torch" not in sys.modules:  # no test that was collected exports
        yield
        return
    import torch

    from tests.exported_once import remembered

    with pytest.MonkeyPatch.context() as patch:
        cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
        folder = cache.mkdir("toy_exports") if cache else tmp_path_factory.mktemp("toy_exports")
        patch.setattr(torch.onnx, "export", remembered(torch.onnx.export, folder))
        yield


@pytest.fixture(scope="session")
def corpus():
    return list(CORPUS)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder beside the project")
    return SHARED


@pytest.fixture(scope="session")
def checkpoint_factory():
    return make_checkpoint


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "toy")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory):
    """The committed toy encoder; shared by tests, so nobody may change it."""
    return copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture
def toy_bundle_copy(toy_bundle, tmp_path):
    """A toy encoder that a test may damage."""
    import shutil

    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


@pytest.fixture
def relsdk(capsys):
    """Run the command in this process; return (exit code, stdout, stderr)."""

    from relsdk.cli import main

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fails(relsdk):
    """Run a command that must end with one line on stderr and exit code 2; return the line."""

    def run(*arguments):
        code, out, err = relsdk(*arguments)
        assert code == 2, (out, err)
        lines = [line for line in err.splitlines() if line.startswith("relsdk: error: ")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0]

    return run


@pytest.fixture
def relsdk_on_small_disk(relsdk):
    """Run the command while this process can write no file above so many bytes; as `relsdk`."""
    import resource
    import signal

    def run(size, *arguments):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return relsdk(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return run
