"""An index folder and collections in stores, built and opened in the same words."""

import hashlib
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from relsdk.index import Index
from relsdk.index.opening import build_store, open_index
from tests.scale.milvus_server import milvus_address
from tests.toy_store import use_toy_stores

DIMENSION = 16
# Each with the modules that it needs. What is not the base installation runs in the slow tier.
NEEDS = {
    "index": (),
    "toy": (),  # what is the same for every store, over a few lines instead of an engine
    "milvus-lite": ("pymilvus", "milvus_lite", "relsdk_scale.milvus_store"),
    "milvus-server": ("pymilvus", "relsdk_scale.milvus_store"),
    "qdrant-local": ("qdrant_client", "relsdk_scale.qdrant_store"),
}
ENGINES = [pytest.param(name, marks=pytest.mark.slow if needs else ()) for name, needs in NEEDS.items()]
# Of the clients and the local modes, not of ours.
NOISE = [
    "ignore:Local mode is not recommended for collections",
    "ignore:.*pkg_resources is deprecated",
]
_numbers = itertools.count()


class Engine:
    """Makes collections of one kind, each in a new place, and closes them at the end."""

    def __init__(self, name, folder):
        for module in NEEDS[name]:
            pytest.importorskip(module, exc_type=ImportError)
        if name == "milvus-server" and milvus_address() is None:
            pytest.skip("no Milvus server; tests/scale/milvus_server.py says how to have one")
        self.name = name
        self.folder = Path(folder)
        self._open = []
        self._patch = pytest.MonkeyPatch()
        if name == "toy":
            use_toy_stores(self._patch)

    def place(self):
        """Return a path or a URI where nothing is."""
        number = next(_numbers)
        if self.name == "index":
            return str(self.folder / f"i{number}")
        if self.name == "milvus-server":
            return f"milvus://{milvus_address()}/relsdk_test_{os.getpid()}_{number}"
        if self.name == "qdrant-local":
            return f"qdrant-local:{self.folder / f'q{number}'}#c"
        return f"milvus-lite:{self.folder / f'{self.name}.db'}#c{number}"

    def build(self, documents, encoder, place=None, **options):
        place = place or self.place()
        make = Index.build if self.name == "index" else build_store
        return self._keep(make(place, documents, encoder, **options))

    def open(self, place):
        return self._keep(open_index(place))

    def reopen(self, store):
        place = self.place_of(store)
        store.close()
        return self.open(place)

    def place_of(self, store):
        return str(store.path if self.name == "index" else store.uri)

    def close(self):
        for store in self._open:
            store.close()
        self._patch.undo()

    def _keep(self, store):
        self._open.append(store)
        return store


def fast_folder():
    """Return a new folder in memory where there is one: local modes wait for the disk at every document."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def unit(matrix):
    matrix = np.asarray(matrix, dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


class HashEncoder:
    """Random unit vectors, seeded by title and text."""

    dimension = DIMENSION

    def __init__(self, name="hash"):
        self.name = name
        self.fingerprint = f"{name}-1"

    def encode_document(self, inputs):
        return np.stack([self._vector(f"{one.title} {one.text}") for one in inputs])

    def _vector(self, text):
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return unit(np.random.default_rng(seed).standard_normal(DIMENSION))
