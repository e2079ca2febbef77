"""Documents of a video site: unit vectors in clusters, titles of real words, metadata to filter by.

What filters allow is independent of the vectors: the nearest are spread over all values.
Shape letters: N documents, Q queries, D dimension.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.serving.vector_sets import VectorSet
from relsdk import Document

K = 10
SEED = 0
AUTHORS, GROUPS, TOPICS, RARE, YEARS = 1000, 100, 10, 100, (2006, 2026)
_FILES = ("train", "dev", "test", "unlabelled")
# name -> as relsdk takes it. There are 100 groups and 10 topics, prices are from 0 to 100, and each document
# has a frequent tag, one of 10, and a rare one, one of 100.
FILTERS: dict[str, dict[str, Any]] = {
    "equality 1 %": {"group": "组42"},
    "equality 10 %": {"topic": "主题3"},
    "range 1 %": {"price": {"lt": 1.0}},
    "range 10 %": {"price": {"lt": 10.0}},
    "list 1 %": {"tags": "标签42"},
    "list 10 %": {"tags": "热门3"},
}
Rows = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        documents: N at first.
        dimension: D.
        spare: Further vectors, for what is added and replaced.
        change: How many documents one change is about.
        steps: Documents of each segment, where an index is built in steps; sums up to N.
        queries: Q.
        rounds: Turns of the contenders.
        calls: Searches in each turn.
        repeats: Changes of each kind.
    """

    documents: int
    dimension: int
    spare: int
    change: int
    steps: tuple[int, ...] = ()
    queries: int = 400
    rounds: int = 10
    calls: int = 20
    repeats: int = 5


class Corpus:
    """What is indexed; the files that `prepare` wrote are mapped.

    Attributes:
        size: How much of it there is.
        vectors: (N + spare, D) float32.
        queries: (Q, D) float32.
        texts: Q queries as people type them; they have nothing to do with the vectors.
    """

    name, fingerprint, path = "prepared vectors", "0" * 16, None

    def __init__(self, folder: Path, size: Size) -> None:
        self.size, self.dimension = size, size.dimension
        self.vectors: Matrix = np.load(folder / "documents.npy", mmap_mode="r")
        self.queries: Matrix = np.load(folder / "queries.npy", mmap_mode="r")
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self.texts: list[str] = words["queries"]
        self._halves: tuple[list[str], list[str]] = (words["first"], words["second"])
        rng = np.random.default_rng([SEED, size.documents])
        n = len(self.vectors)
        self._author = rng.integers(AUTHORS, size=n)
        self._topic = rng.integers(TOPICS, size=n)
        self._rare = rng.integers(RARE, size=n)
        self._frequent = rng.integers(TOPICS, size=n)
        self._year = rng.integers(*YEARS, size=n)
        self._price = np.round(rng.random(n) * 100, 4)
        self._title = rng.integers(2**31, size=(2, n))

    def encode_document(self, inputs: Sequence[Document]) -> Matrix:
        """See `Embedder.encode_document`; relsdk is given the vectors, and does not ask."""
        return np.array(self.vectors[[int(document.id) for document in inputs]])

    def document(self, row: int) -> Document:
        """Return a document; its id is the row."""
        first, second = (
            half[int(at) % len(half)] for half, at in zip(self._halves, self._title[:, row], strict=True)
        )
        return Document(id=str(row), title=first + second, metadata=self.metadata(row))

    def metadata(self, row: int) -> dict[str, Any]:
        """Return the fields of a document."""
        author = int(self._author[row])
        return {
            "author": f"作者{author:03}",
            "group": f"组{author % GROUPS:02}",
            "topic": f"主题{self._topic[row]}",
            "year": int(self._year[row]),
            "tags": [f"热门{self._frequent[row]}", f"标签{self._rare[row]:02}"],
            "price": float(self._price[row]),
        }

    def documents(self, rows: Iterable[int]) -> Iterator[Document]:
        """Yield documents."""
        return map(self.document, rows)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return which documents (N + spare,) a filter allows, from the numbers that they were made of."""
        return {
            "equality 1 %": self._author % GROUPS == 42,
            "equality 10 %": self._topic == 3,
            "range 1 %": self._price < 1.0,
            "range 10 %": self._price < 10.0,
            "list 1 %": self._rare == 42,
            "list 10 %": self._frequent == 3,
        }[name]


class Oracle:
    """What an index must hold, and finds exactly.

    Args:
        corpus: The documents.
        count: How many are there at first.
    """

    def __init__(self, corpus: Corpus, count: int) -> None:
        self._corpus = corpus
        self._vectors = corpus.vectors
        self.alive = np.arange(len(corpus.vectors)) < count

    def put(self, rows: Rows, vectors: Matrix) -> None:
        """Add or replace."""
        if not self._vectors.flags.writeable:
            self._vectors = np.array(self._vectors)
        self._vectors[rows] = vectors
        self.alive[rows] = True

    def delete(self, rows: Rows) -> None:
        """Remove."""
        self.alive[rows] = False

    def nearest(self, queries: int, name: str | None = None) -> list[list[int]]:
        """Return the K nearest rows of each of the first queries, among those that a filter allows."""
        allowed = self.alive if name is None else self.alive & self._corpus.mask(name)
        rows = np.flatnonzero(allowed)
        matrix = self._vectors[rows]
        found: list[list[int]] = []
        for start in range(0, queries, 32):
            scores = self._corpus.queries[start : min(start + 32, queries)] @ matrix.T
            k = min(K, len(rows))
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            found += rows[best].tolist()
        return found


def prepare(folder: Path, size: Size, shared: Path) -> None:
    """Write vectors and words, unless they are there.

    Args:
        folder: Where.
        size: How much.
        shared: Has the real titles and queries: `data/kuake_qtr` of the shared folder.
    """
    done = folder / "words.json"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    vectors = VectorSet(size.documents + size.spare, size.dimension, size.queries)
    np.save(folder / "documents.npy", vectors.documents)
    np.save(folder / "queries.npy", vectors.queries)
    done.write_text(json.dumps(_words(shared, size.queries), ensure_ascii=False), encoding="utf-8")


def _words(shared: Path, count: int) -> dict[str, list[str]]:
    """Cut real titles in halves, to be put together anew; take real queries."""
    titles, queries = set[str](), set[str]()
    for name in _FILES:
        for line in (shared / f"data/kuake_qtr/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            titles.add(pair["title"])
            queries.add(pair["query"])
    ordered = sorted(titles)
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(sorted(queries))[:count].tolist()
    return {
        "first": [title[: len(title) // 2] for title in ordered],
        "second": [title[len(title) // 2 :] for title in ordered],
        "queries": chosen * -(-count // len(chosen)),
    }
