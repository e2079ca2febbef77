"""No number in a graph file leads hnswlib out of its memory: each that it uses as an address is compared."""

import struct

import hnswlib
import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import IndexConfig
from relsdk.index._graph_file import check_graph_file, holds_vectors

DIMENSION, HEADER = 4, 96


@pytest.fixture(scope="module")
def vectors():
    found = np.random.default_rng(0).standard_normal((500, DIMENSION)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write(path, vectors, rows, config):
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(len(rows), M=config.M, ef_construction=config.ef_construction, random_seed=config.seed)
    graph.add_items(vectors[rows], rows, num_threads=1)
    graph.save_index(str(path))


class File:
    """A graph file whose numbers are read and set by name; it is read in order."""

    def __init__(self, path, config):
        self.path, self.config = path, config
        self.content = bytearray(path.read_bytes())
        self.count = struct.unpack_from("<Q", self.content, 16)[0]
        self.stride = struct.unpack_from("<Q", self.content, 24)[0]
        self.lists = {}  # element -> (place of its lists' size, size)
        place = HEADER + self.count * self.stride
        for element in range(self.count):
            size = self.word(place)
            self.lists[element] = (place, size)
            place += 4 + size
        assert place == len(self.content)

    def word(self, place):
        return struct.unpack_from("<I", self.content, place)[0]

    def element(self, number):
        return HEADER + number * self.stride

    def layers(self, number):
        return self.lists[number][1] // (4 * self.config.M + 4)

    def check(self, change, size=None):
        """Check the file after changes {place: word}."""
        content = bytearray(self.content)
        for place, word in change.items():
            struct.pack_into("<I", content, place, word)
        path = self.path.with_name("changed")
        path.write_bytes(content[:size])
        check_graph_file(path, np.arange(self.count), DIMENSION, self.config)

    def refuses(self, change, message, size=None):
        with pytest.raises(IndexFolderError, match=message):
            self.check(change, size)


@pytest.fixture
def file(vectors, tmp_path):
    config = IndexConfig(M=4, ef_construction=20)
    write(tmp_path / "graph", vectors, np.arange(500), config)
    found = File(tmp_path / "graph", config)
    found.check({})
    return found


@pytest.mark.parametrize("links", [2, 3, 16, 512])
@pytest.mark.parametrize("rows", [[0], [0, 2], list(range(0, 500, 3)), list(range(500))])
def test_what_hnswlib_writes_passes(vectors, tmp_path, links, rows):
    config = IndexConfig(M=links, ef_construction=10)
    rows = np.array(rows)
    write(tmp_path / "graph", vectors, rows, config)
    check_graph_file(tmp_path / "graph", rows, DIMENSION, config)
    assert holds_vectors(tmp_path / "graph", vectors, len(rows), config)
    assert not holds_vectors(tmp_path / "graph", -vectors, len(rows), config)
    for other in (rows + 1, np.append(rows, 999)):
        with pytest.raises(IndexFolderError, match=r"labels|vectors"):
            check_graph_file(tmp_path / "graph", other, DIMENSION, config)


@pytest.mark.parametrize("place", [*range(0, 52, 4), *range(56, 96, 4)])
@pytest.mark.parametrize("word", [7, 2**31, 2**32 - 1])
def test_every_word_of_the_header(file, place, word):
    file.refuses({place: word}, "header|vectors|entry point|list")


def test_the_entry_point(file):
    highest = file.word(48)
    assert highest == max(map(file.layers, range(500))) > 1
    lower = next(number for number in range(500) if file.layers(number) < highest)
    file.refuses({52: 500}, "entry point 500")
    file.refuses({52: 2**32 - 1}, "entry point")
    file.refuses({52: lower}, "entry point")
    file.refuses({48: highest - 1}, "list of element|entry point")
    file.refuses({48: highest + 1}, "entry point")


def test_links_of_the_lowest_layer(file):
    for number in (0, 250, 499):
        place = file.element(number)
        file.refuses({place: 9}, "more than 8 links")
        file.refuses({place: 1 << 16 | 3}, "more than 8 links")  # the mark of a deleted element
        file.refuses({place + 4: 500}, "not there")
        file.refuses({place + 4 * 8: 2**32 - 1}, "not there")


def test_labels(file):
    place = file.element(3) + file.stride - 8
    for change in ({place: 4}, {place: 500}, {place + 4: 1}):
        file.refuses(change, "labels")


def test_lists_of_further_layers(file):
    number = next(number for number in range(500) if file.layers(number) == 1)
    low = next(number for number in range(500) if file.layers(number) == 0)
    place, size = file.lists[number]
    assert size == 20
    assert file.word(place + 4) >= 1
    for wrong in (4, 19, 24, 40, 2**20, 2**32 - 4):
        file.refuses({place: wrong}, "list")
    file.refuses({place: 0}, "list")
    file.refuses({file.lists[low][0]: 20}, "list")
    file.refuses({place + 4: 5}, "more than 4 links on layer 1")
    file.refuses({place + 8: low}, "not on layer 1")
    file.refuses({place + 8: 500}, "not on layer 1")
    file.refuses({place + 8: 2**32 - 1}, "not on layer 1")
    for size in (0, 95, 96, 1000, len(file.content) - 4, len(file.content) - 1):
        file.refuses({}, "bytes|list|empty", size)


def test_any_word_is_refused_or_harmless(file):
    """Random words anywhere: what passes is searched, and finds rows that are there."""
    random = np.random.default_rng(0)
    passed = 0
    queries = np.eye(DIMENSION, dtype=np.float32)
    for _ in range(400):
        place = 4 * int(random.integers(len(file.content) // 4))
        word = int(random.choice([0, 1, 4, 8, 20, 499, int(random.integers(2**32))]))
        try:
            file.check({place: word})
        except IndexFolderError:
            continue
        passed += 1
        graph = hnswlib.Index(space="ip", dim=DIMENSION)
        graph.load_index(str(file.path.with_name("changed")))
        labels, _ = graph.knn_query(queries, k=1)
        assert labels.max() < 500
    assert 50 < passed < 395
