"""The index: a folder of documents, searched by vectors.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import EncoderMismatchError, IndexFolderError, InputError
from relsdk.index._building import build_index
from relsdk.index._generation import Generation, IndexInfo, load_generation
from relsdk.index._storage import open_current
from relsdk.index._vectors import UNIT_TOLERANCE, check_queries
from relsdk.index.base import Encoder, IndexConfig, Progress, check_whole_number
from relsdk.index.verify import VerifyReport, verify_generation
from relsdk.records import Document, Hit, Matrix, Vector
from relsdk.runtime.hardware import choose_threads

__all__ = ["Index"]

# Documents that are read at a time.
_BLOCK = 100
# Ids that a message names, and how much of one it compares.
_SHOWN, _ID_CHARACTERS = 5, 200

# Of vectors whose lengths are within the tolerance.
_HIGHEST_COSINE = (1.0 + UNIT_TOLERANCE) ** 2 + 1e-5


class Index:
    """Documents and their vectors in a folder; made by `build` or `open`.

    Safe to use from many threads, and after a fork. A context manager. An open index keeps answering from its
    generation when another process builds the folder again; `open` it again to see the new one. A pickle
    holds the path, not the documents: it opens the same generation in the other process.
    """

    def __init__(self, path: Path, generation: Generation, check: str = "hashes") -> None:
        self.path = path
        self._generation: Generation | None = generation
        self._check = check

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder,
        *,
        config: IndexConfig | None = None,
        overwrite: bool = False,
        on_duplicate: str = "error",
        chunk_size: int = 1024,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> Index:
        """Encode documents and write them as an index.

        Documents are taken chunk by chunk and never held all at once. What is at `path` stays as it is, and
        usable, until the new index is complete; a crash or an interruption changes nothing.

        Args:
            path: The folder; its parents are made.
            documents: `Document`s, or mappings with `_id` (or `id`), `title` and `text`; everything else in a
                mapping is metadata.
            encoder: Makes the vectors. The index notes its fingerprint.
            config: None takes `IndexConfig()`.
            overwrite: Replace an index that is there. A folder with anything else is never touched.
            on_duplicate: For an id that occurs again: "error", or "last" to keep the last document.
            chunk_size: Documents for each call of the encoder.
            num_threads: For building the graph; None chooses from affinity and container quota. 1 makes the
                graph reproducible.
            on_progress: Called with ("encode", documents read) and ("graph", vectors added).

        Returns:
            The index, open.

        Raises:
            InputError: A document, vector or argument is wrong, an index is there and `overwrite` is false,
                or the folder holds something else.
            LockedError: Another process is building at the same place.
            RelsdkError: The file system refused.
        """
        if on_duplicate not in ("error", "last"):
            raise InputError(f"on_duplicate={on_duplicate!r}; allowed are 'error' and 'last'")
        check_whole_number("chunk_size", chunk_size, 1)
        if num_threads is not None:
            check_whole_number("num_threads", num_threads, 1)
            choose_threads(num_threads)  # an upper bound, too, and before the encoder's work
        check_whole_number("the encoder's dimension", encoder.dimension, 1)
        folder = Path(path).absolute()  # whoever makes the documents may go to another folder
        build_index(
            folder,
            documents,
            encoder,
            config or IndexConfig(),
            overwrite=overwrite,
            on_duplicate=on_duplicate,
            chunk_size=chunk_size,
            num_threads=num_threads,
            on_progress=on_progress,
        )
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: str = "hashes") -> Index:
        """Open an index for reading; nothing is written there and no lock is taken.

        Links, labels and offsets of the graph are checked each time, and that the database holds our table
        alone: no file leads out of memory.

        Args:
            path: The folder.
            check: "hashes" reads each file once and compares its SHA-256 with the manifest's; a file that
                passed is remembered, in the user's cache too, and not read again while it is the same file
                (`relsdk.files.intact`). "sizes" compares sizes only: a damaged file may give wrong answers.

        Raises:
            InputError: Another `check`.
            IndexFolderError: The index is missing, unfinished, damaged, foreign or of an unknown version.
        """
        if check not in ("hashes", "sizes"):
            raise InputError(f"check={check!r}; allowed are 'hashes' and 'sizes'")
        folder = Path(path).absolute()  # what is opened later is found from another folder, too
        generation = open_current(folder, partial(load_generation, check=check))
        return cls(folder, generation, check)

    def __reduce__(self) -> tuple[Any, ...]:
        generation = self._open()
        return _open_again, (type(self), generation.folder, self._check, generation.manifest.checksum)

    @overload
    def search(
        self,
        vectors: Vector | Sequence[float],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        vectors: Matrix | Sequence[Vector] | Sequence[Sequence[float]],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]: ...
    def search(
        self,
        vectors: NDArray[Any] | Sequence[Any],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the documents nearest to query vectors.

        Args:
            vectors: (D,) or (Q, D) unit vectors.
            k: How many hits at most; fewer is not an error.
            ef_search: Candidates kept while the graph is searched; None takes the index's own.
            where: Filter on metadata: `{"author": "x", "duration": {"lt": 60}, "tags": {"in": ["a", "b"]}}`.
                All fields must match; a field that holds a list matches when an element does. `or`, `and`,
                `not`, nested fields and the other comparisons: `relsdk.index.filter_parser.parse_filter`.
            exact: Compare with every vector instead of searching the graph.

        Returns:
            For (D,) a list of hits in falling order of score (cosine), for (Q, D) one such list per query.

        Raises:
            InputError: An argument is wrong.
        """
        generation = self._open()
        k = check_whole_number("k", k, 1)
        if ef_search is not None:
            ef_search = check_whole_number("ef_search", ef_search, 1)
        queries = check_queries(vectors, generation.manifest.dimension)  # (Q, D) or (D,)
        matrix = np.atleast_2d(queries)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            neighbours = generation.neighbours(matrix, k, ef_search=ef_search, where=where, exact=exact)
        if not np.abs(neighbours.scores).max(initial=0.0) <= _HIGHEST_COSINE:  # NaN, too
            raise IndexFolderError(
                f"{generation.folder} is damaged: its vectors have not length 1; check it with: relsdk index "
                f"verify, or build it again"
            )
        row_lists = neighbours.rows.tolist()
        # One statement for all queries; in the order of the file.
        documents = generation.documents.fetch(sorted({row for rows in row_lists for row in rows}))
        hits = [
            [Hit(documents[row], score) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(row_lists, neighbours.scores.tolist(), strict=True)
        ]
        return hits[0] if queries.ndim == 1 else hits

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows; None allows all.

        Raises:
            InputError: The filter is wrong, or asks for a field that no document has.
        """
        generation = self._open()
        allowed = generation.allowed_rows(where)
        return generation.manifest.count if allowed is None else int(np.count_nonzero(allowed))

    def rows(self, where: Mapping[str, Any] | None = None) -> NDArray[np.int64]:
        """Return which rows of `vectors` a filter allows, (n,) int64, rising; None allows all.

        Raises:
            InputError: See `count`.
        """
        generation = self._open()
        allowed = generation.allowed_rows(where)
        return np.arange(generation.manifest.count) if allowed is None else np.flatnonzero(allowed)

    def documents(self, where: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """Return an iterator over the documents that a filter allows, in the order of `rows`.

        Few are in memory at a time. It goes on with this generation when the index is built again meanwhile.

        Raises:
            InputError: See `count`; from the iterator: the index was closed.
        """
        rows, reader = self.rows(where), self._open().documents
        blocks = (rows[start : start + _BLOCK].tolist() for start in range(0, len(rows), _BLOCK))
        return (document for block in blocks for document in reader.read(block))

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents by id, in the order of `ids`.

        Raises:
            InputError: An id is not in the index, or `ids` is one string.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}; pass a list of ids")
        wanted = list(ids)
        wrong = [identifier for identifier in wanted if not isinstance(identifier, str)]
        if wrong:
            raise InputError(f"id {wrong[0]!r} is a {type(wrong[0]).__name__}; ids are text")
        documents = self._open().documents.by_id(wanted)
        missing = [identifier for identifier in wanted if identifier not in documents]
        if missing:
            shown = ", ".join(repr(identifier[:_ID_CHARACTERS]) for identifier in missing[:_SHOWN])
            raise InputError(
                f"{len(missing):,} of {len(wanted):,} ids are not in {self.path}: {shown}"
                f"{self._nearest(missing[0])}"
            )
        return [documents[identifier] for identifier in wanted]

    def _nearest(self, identifier: str) -> str:
        """Say which ids look like one that is not there."""
        near = self._open().documents.near(identifier, _SHOWN)
        alike = difflib.get_close_matches(identifier[:_ID_CHARACTERS], near, _SHOWN, cutoff=0.0)
        shown = ", ".join(map(repr, alike))
        return f"; the nearest to {identifier[:_ID_CHARACTERS]!r} are {shown}" if alike else ""

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those of the index.

        Raises:
            EncoderMismatchError: Another fingerprint or dimension.
        """
        manifest = self._open().manifest
        if (encoder.fingerprint, encoder.dimension) == (manifest.encoder_fingerprint, manifest.dimension):
            return
        raise EncoderMismatchError(
            f"{self.path} was built by {manifest.encoder_name} (fingerprint {manifest.encoder_fingerprint}, "
            f"{manifest.dimension} dimensions), not by {encoder.name} (fingerprint {encoder.fingerprint}, "
            f"{encoder.dimension} dimensions); use the model that built it, or build it again with this one"
        )

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        return self._open().info(self.path)

    def verify(self) -> VerifyReport:
        """Check the files of the open generation: hashes, counts, vectors, database, graph.

        Damage is reported, not raised; `relsdk.index.verify_index` also takes an index that does not open.
        """
        folder = self._open().folder
        return verify_generation(folder.parent, folder.name)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors (N, D), memory-mapped and read-only, in the order of the rows."""
        return self._open().vectors

    def __len__(self) -> int:
        """Return N."""
        return self._open().manifest.count

    def close(self) -> None:
        """Release files and memory; more than once is fine."""
        if self._generation is not None:
            self._generation.documents.close()
            self._generation = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._generation is None else f"{len(self):,} documents, {self._generation.name}"
        return f"Index({str(self.path)!r}: {state})"

    def _open(self) -> Generation:
        if self._generation is None:
            raise InputError(f"the index {self.path} is closed; open it again with Index.open")
        return self._generation


def _open_again(kind: type[Index], folder: Path, check: str, checksum: str) -> Index:
    """Open the generation that a pickled index had open."""
    remedy = f"after it was pickled; open it anew with Index.open({str(folder.parent)!r})"
    try:
        generation = load_generation(folder.name, folder, check)
    except IndexFolderError as error:
        if folder.exists():
            raise
        gone = "the index was built again, moved or deleted"
        raise IndexFolderError(f"{folder} is gone: {gone} {remedy}") from error
    if generation.manifest.checksum != checksum:
        generation.documents.close()
        raise IndexFolderError(f"{folder} holds another index: it was deleted and built {remedy}")
    return kind(folder.parent, generation, check)
