"""A tiny deterministic encoder and documents for index tests."""

import hashlib

import numpy as np
import pytest

from relsdk.index import Index, _changes, _segment_writer
from relsdk.records import Document

DIMENSION = 16


def unit(matrix):
    matrix = np.asarray(matrix, dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=-1, keepdims=True)


class HashEncoder:
    """Random unit vectors, seeded by the text; notes how it is called."""

    def __init__(self, name="hash", dimension=DIMENSION, seed=0):
        self.name = name
        self.fingerprint = f"{name}-{seed}"
        self.dimension = dimension
        self.seed = seed
        self.chunks = []

    def vector(self, text):
        digest = hashlib.sha256(f"{self.seed}|{text}".encode()).digest()
        return unit(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self.dimension))

    def encode_document(self, inputs):
        self.chunks.append(len(inputs))
        return np.stack([self.vector(f"{one.title} {one.text}") for one in inputs])


def make_documents(count, prefix="d", start=0):
    return [
        Document(
            id=f"{prefix}{i}",
            title=f"标题 {prefix}{i}",
            text=f"正文 {i}" if i % 3 else "",
            metadata={
                "n": i,
                "author": f"a{i % 7}",
                "ratio": i / count,
                "tags": [f"t{i % 5}", f"t{i % 11}"],
                "flag": i % 2 == 0,
            },
        )
        for i in range(start, start + count)
    ]


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    """Files that were found right are remembered here, not in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def encoder():
    return HashEncoder()


@pytest.fixture
def encoder_class():
    return HashEncoder


@pytest.fixture
def documents():
    return make_documents(200)


@pytest.fixture(scope="session")
def document_factory():
    return make_documents


@pytest.fixture(scope="session")
def unit_vectors():
    """Clustered random unit vectors: (count, dimension, seed) -> matrix."""

    def make(count, dimension=DIMENSION, seed=0):
        centres = np.random.default_rng(99).standard_normal((20, dimension))
        random = np.random.default_rng(seed)
        return unit(centres[random.integers(0, 20, count)] + 0.7 * random.standard_normal((count, dimension)))

    return make


@pytest.fixture
def graph_rows(monkeypatch):
    """Let segments have a graph from so many vectors on: 100, or what it is called with."""

    def use(rows):
        for module in (_segment_writer, _changes):
            monkeypatch.setattr(module, "GRAPH_ROWS", rows)

    use(100)
    return use


@pytest.fixture
def built(tmp_path, documents, encoder):
    """An index of 200 documents, open."""
    with Index.build(tmp_path / "base.idx", documents, encoder) as index:
        yield index
