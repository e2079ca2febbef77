"""A calibrated toy world: an encoder, a scorer, an index, and a server of them."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra serve: pip install 'relsdk[serve,client]'")
pytest.importorskip("httpx", reason="needs the extra client: pip install 'relsdk[serve,client]'")

from relsdk import Embedder, Index
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import generate
from relsdk_serve import _service
from relsdk_serve._settings import Settings
from tests.serve.servers import documents, served
from tests.toys import copy_bundle


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A toy encoder with levels."""
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("serve") / "encoder")
    world = generate(seed=5, n_documents=200, n_queries=60)
    calibrate_bundle(folder, world.split("train"), targets=[(1, 0.2)])
    return folder


@pytest.fixture(scope="session")
def scorer(tmp_path_factory):
    """A toy scorer."""
    return copy_bundle("scorer-bundle-v1", tmp_path_factory.mktemp("serve") / "scorer")


@pytest.fixture(scope="session", autouse=True)
def _shared_models_are_checked_once(encoder, scorer):
    """Each start opens every model once more to check it: a third of what a server costs."""
    check, checked = _service.check_models, set()

    def check_others(catalogue):
        folders = {model.pair_model.bundle.path for model in catalogue.models.values()}
        if not folders <= checked:
            check(catalogue)
            checked.update(folders & {encoder, scorer})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_service, "check_models", check_others)
        yield


@pytest.fixture(scope="session")
def index_folder(encoder, tmp_path_factory):
    """An index of the toy corpus; shared, so nobody may change it."""
    folder = tmp_path_factory.mktemp("serve") / "toy.idx"
    Index.build(folder, documents(), Embedder(encoder)).close()
    return folder


@pytest.fixture
def own_index(index_folder, tmp_path):
    """An index that a test may change."""
    return Path(shutil.copytree(index_folder, tmp_path / "own.idx"))


@pytest.fixture(scope="session")
def settings(index_folder, encoder, scorer):
    """What the shared server serves."""
    return Settings(
        models={"encoder": str(encoder)},
        indexes={"toy": str(index_folder)},
        scorers={"scorer": str(scorer)},
        workers=2,
    )


@pytest.fixture(scope="session")
def toy_server(settings):
    """A server of the toy world, for tests that change nothing."""
    with served(settings) as server:
        yield server


@pytest.fixture
def http(toy_server):
    """A client of it."""
    return toy_server.http
