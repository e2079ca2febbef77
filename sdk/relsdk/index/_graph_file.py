"""The file of a graph, as hnswlib 0.8 writes it, checked before hnswlib reads it.

hnswlib believes what a file says: a count, an offset or a link beyond what is there leads it out of its
memory. So every number in the file that it uses as an address is compared with what it may be. What the file
holds, in order (`saveIndex` in hnswalg.h; little-endian):

    13 numbers    offsets, counts and settings (`_HEADER`)
    N elements    links on the lowest layer (uint32 count, 2M uint32), vector (D float32), label (uint64)
    N lists       uint32 bytes, then for each further layer of the element: uint32 count, M uint32

Shape letters: N elements, D dimension, M links, U elements that have further layers, n elements of a block.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index.base import IndexConfig

__all__ = ["check_graph_file", "holds_vectors"]

# offsetLevel0_, max_elements_, cur_element_count, size_data_per_element_, label_offset_, offsetData_,
# maxlevel_, enterpoint_node_, maxM_, maxM0_, M_, mult_, ef_construction_
_HEADER = struct.Struct("<6QiI3QdQ")
_BLOCK = 65_536
# hnswlib draws a layer as -ln(u) / ln(M) of a 64-bit u: none is above.
_MOST_LAYERS = 64

Words = NDArray[np.uint32]


class _WrongError(Exception):
    """A fault of the file."""


def check_graph_file(path: Path, rows: NDArray[np.int64], dimension: int, config: IndexConfig) -> None:
    """Refuse a file that would lead hnswlib out of its memory, or to rows that are not there.

    Args:
        path: The file.
        rows: (N,) the labels that it must hold, rising: each once.
        dimension: D.
        config: The settings that it was built with.

    Raises:
        IndexFolderError: It cannot be read, or a number in it is out of bounds.
    """
    try:
        with path.open("rb") as stream:
            # Never closed here: the traceback of an error may still hold views of it.
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        _check(mapped, rows, dimension, config)
    except (OSError, ValueError, _WrongError) as error:  # ValueError: an empty file
        raise IndexFolderError(
            f"{path} is no graph that can be searched ({error}); build the index again"
        ) from error


def holds_vectors(path: Path, vectors: NDArray[np.float32], count: int, config: IndexConfig) -> bool:
    """Whether each element has the vector of its row; of a file that `check_graph_file` lets pass.

    Args:
        path: The file.
        vectors: (rows, D) the vectors of all rows.
        count: N, elements.
        config: The settings that it was built with.
    """
    links, dimension = 4 + 8 * config.M, vectors.shape[1]
    kind = np.dtype([("links", f"V{links}"), ("vector", "<f4", (dimension,)), ("label", "<u8")])
    elements = np.memmap(path, kind, mode="r", offset=_HEADER.size, shape=(count,))
    for start in range(0, count, _BLOCK // 8):
        block = elements[start : start + _BLOCK // 8]
        if not np.array_equal(block["vector"], vectors[block["label"].astype(np.int64)]):
            return False
    return True


def _check(mapped: mmap.mmap, rows: NDArray[np.int64], dimension: int, config: IndexConfig) -> None:
    size, count, links = len(mapped), len(rows), config.M
    stride = 4 + 8 * links + 4 * dimension + 8  # bytes of an element
    lists = _HEADER.size + count * stride  # where the lists of the further layers start
    if size < _HEADER.size:
        raise _WrongError(f"it has {size:,} bytes")
    highest, entry = _check_header(mapped, count, dimension, config, stride)
    if size < lists + 4 * count or size % 4:
        raise _WrongError(f"{size:,} bytes are too few for {count:,} vectors")
    _check_lowest(mapped, rows, stride, links)
    layers, starts, words = _layers(mapped, lists, count, links, highest)
    if not len(layers) or entry >= count or layers[entry] != highest or layers.max() != highest:
        raise _WrongError(f"its entry point {entry:,} is not on the highest layer, {highest}")
    _check_further(words, layers, starts, links)


def _check_header(
    mapped: mmap.mmap, count: int, dimension: int, config: IndexConfig, stride: int
) -> tuple[int, int]:
    """Compare all that follows from the settings; return the highest layer and the entry point."""
    *sizes, highest, entry, max_links, max_lowest, links, factor, candidates = _HEADER.unpack_from(mapped)
    vector = 4 + 8 * config.M
    wanted = [0, count, count, stride, vector + 4 * dimension, vector]
    if sizes[2] != count:
        raise _WrongError(f"it holds {sizes[2]:,} vectors, {count:,} are expected")
    if sizes != wanted or (max_links, max_lowest, links) != (config.M, 2 * config.M, config.M):
        raise _WrongError(
            f"its header says {sizes} and {max_links}, {max_lowest}, {links} links, not {wanted} and "
            f"{config.M}, {2 * config.M}, {config.M}"
        )
    if not math.isclose(factor, 1 / math.log(config.M), rel_tol=1e-9):
        raise _WrongError(f"its header says the factor {factor} for layers")
    if candidates != max(config.ef_construction, config.M):
        raise _WrongError(f"its header says ef_construction {candidates:,}")
    if not 0 <= highest <= _MOST_LAYERS:
        raise _WrongError(f"its header says {highest:,} layers")
    return highest, entry


def _check_lowest(mapped: mmap.mmap, rows: NDArray[np.int64], stride: int, links: int) -> None:
    """Check links and labels of the elements.

    The slots of a list behind its count hold 0 or former links, so all slots are below N in what hnswlib
    writes. A mark of deletion is a bit above the count: none is expected.
    """
    count = len(rows)
    shape, offset = (count, 1 + 2 * links), _HEADER.size
    words: Words = np.ndarray(shape, "<u4", mapped, offset, (stride, 4))
    for start in range(0, count, _BLOCK):
        block = words[start : start + _BLOCK]  # (n, 1 + 2M)
        if block[:, 0].max() > 2 * links:
            raise _WrongError(f"an element from {start:,} has more than {2 * links} links")
        if block[:, 1:].max() >= count:
            raise _WrongError(f"an element from {start:,} is linked with one that is not there")
    halves: Words = np.ndarray((count, 2), "<u4", mapped, offset + stride - 8, (stride, 4))
    if halves[:, 1].any() or not np.array_equal(np.sort(halves[:, 0]), rows):
        raise _WrongError("its labels are not the rows of the index, each once")


def _layers(
    mapped: mmap.mmap, lists: int, count: int, links: int, highest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Words]:
    """Find the lists of the further layers: their number for each element, (N,), and where they start, (N,).

    Most elements have none, which is a word 0. So one looks from list to list for the next word that is not.
    """
    words: Words = np.frombuffer(mapped, "<u4", offset=lists).copy()
    end, layer = len(words), 4 * links + 4
    following = np.where(words != 0, np.arange(end), end)
    following = np.minimum.accumulate(following[::-1])[::-1]  # the next word from here that is not 0
    jump, value = memoryview(following), memoryview(words)  # type: ignore[arg-type]
    elements: list[int] = []
    places: list[int] = []
    place = element = 0  # `place` is where the size of `element` stands
    while place < end and (here := jump[place]) < end:
        element += here - place
        size = value[here]
        if element >= count or size % layer or size > layer * highest:
            raise _WrongError(f"the list of element {element:,} has {size:,} bytes")
        elements.append(element)
        places.append(here)
        place, element = here + 1 + size // 4, element + 1
    if place > end or element + (end - place) != count:
        raise _WrongError(f"its lists are not those of {count:,} elements")
    layers = np.zeros(count, dtype=np.int64)
    starts = np.zeros(count, dtype=np.int64)
    if places:
        starts[elements] = places
        layers[elements] = words[places].astype(np.int64) // layer
    return layers, starts, words


def _check_further(words: Words, layers: NDArray[np.int64], starts: NDArray[np.int64], links: int) -> None:
    """Check that links on a further layer lead to elements that have this layer."""
    for layer in range(1, int(layers.max()) + 1):
        above = np.flatnonzero(layers >= layer)  # (U,)
        places = starts[above] + 1 + (layer - 1) * (links + 1)
        for start in range(0, len(above), _BLOCK):
            block = words[places[start : start + _BLOCK, None] + np.arange(links + 1)]  # (n, 1 + M)
            counts = block[:, :1]
            if counts.max() > links:
                raise _WrongError(f"an element has more than {links} links on layer {layer}")
            linked = block[:, 1:][np.arange(links) < counts]
            if len(linked) and (linked.max() >= len(layers) or layers[linked].min() < layer):
                raise _WrongError(f"an element is linked with one that is not on layer {layer}")
