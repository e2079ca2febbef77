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
from relsdk.index._changes import (
    add_documents,
    build_index,
    compact_index,
    current_generation,
    delete_documents,
)
from relsdk.index._generation import Found, Generation, IndexInfo, IndexStats, load_generation
from relsdk.index._part import Source, check_given_vectors
from relsdk.index._retrieval import MODES, Mode, candidate_hits, retrieve
from relsdk.index._segment_writer import Making
from relsdk.index._storage import open_current
from relsdk.index._vectors import UNIT_TOLERANCE, check_queries
from relsdk.index.analysis import Analyser, CjkAnalyser
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
    generation when another process changes the folder; `refresh` shows the new one, and so does every change
    made through this object. A pickle holds the path, not the documents: it opens the same generation in the
    other process.

    A change is one commit: it is there as a whole or not at all, also after a crash. Any process may make
    one; the lock is held for the commit only.
    """

    def __init__(
        self,
        path: Path,
        generation: Generation,
        check: str = "hashes",
        analyser: Analyser | None = None,
    ) -> None:
        self.path = path
        self._generation: Generation | None = generation
        self._check = check
        self._analyser = analyser or CjkAnalyser()

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder,
        *,
        vectors: NDArray[Any] | None = None,
        config: IndexConfig | None = None,
        lexical: bool | Analyser = True,
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
            vectors: (n, D) unit vectors of the encoder, in the order of the documents, made elsewhere; it is
                not run then.
            config: None takes `IndexConfig()`.
            lexical: Whether documents are found by their words, too (`mode` of a search). An analyser of your
                own cuts texts into words; `open` must be given it again.
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
        check_whole_number("the encoder's dimension", encoder.dimension, 1)
        folder = Path(path).absolute()  # whoever makes the documents may go to another folder
        analyser = CjkAnalyser() if lexical is True else lexical or None
        making = Making(
            config or IndexConfig(), encoder.dimension, analyser, _threads(num_threads), on_progress
        )
        source = _source(documents, encoder, vectors, making, on_duplicate, chunk_size)
        build_index(folder, source, encoder, making, overwrite=overwrite)
        return cls.open(folder, analyser=analyser)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        check: str = "hashes",
        analyser: Analyser | None = None,
    ) -> Index:
        """Open an index; nothing is written there and no lock is taken before it is changed.

        Links, labels and offsets of the graph are checked each time, and that the database holds our table
        alone: no file leads out of memory.

        Args:
            path: The folder.
            check: "hashes" reads each file once and compares its SHA-256 with the manifest's; a file that
                passed is remembered, in the user's cache too, and not read again while it is the same file
                (`relsdk.files.intact`). "sizes" compares sizes only: a damaged file may give wrong answers.
            analyser: What the index was built with, where that is not relsdk's own.

        Raises:
            InputError: Another `check`.
            IndexFolderError: The index is missing, unfinished, damaged, foreign or of an unknown version.
        """
        if check not in ("hashes", "sizes"):
            raise InputError(f"check={check!r}; allowed are 'hashes' and 'sizes'")
        folder = Path(path).absolute()  # what is opened later is found from another folder, too
        generation = open_current(folder, partial(load_generation, check=check))
        return cls(folder, generation, check, analyser)

    def __reduce__(self) -> tuple[Any, ...]:
        generation = self._open()
        state = (generation.folder, self._check, self._analyser, generation.manifest.checksum)
        return _open_again, (type(self), *state)

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
            found = generation.search(matrix, k, ef_search=ef_search, where=where, exact=exact)
        scores = found.scores[found.rows >= 0]
        if not np.abs(scores).max(initial=0.0) <= _HIGHEST_COSINE:  # NaN, too
            raise IndexFolderError(
                f"{generation.folder} is damaged: its vectors have not length 1; check it with: relsdk index "
                f"verify, or build it again"
            )
        hits = _hits(generation, found)
        return hits[0] if queries.ndim == 1 else hits

    def retrieve(
        self,
        texts: Sequence[str],
        vectors: NDArray[Any] | Sequence[Any],
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[list[Hit]]:
        """Find documents by meaning, by words, or by both.

        Args:
            texts: Q queries.
            vectors: (Q, D) their unit vectors.
            k: How many hits at most; fewer is not an error.
            mode: "dense" is `search`. "lexical" finds documents that have words of the query, in the order of
                BM25. "hybrid" looks at the best of both sides, in the order of the calibrated model of both
                (`relsdk calibrate --index`), or of the cosine where the index has none.
            where: A filter; see `search`.
            ef_search: See `search`.

        Returns:
            A list of hits for each query, in falling order of score; `Hit.signals` says why each is there.

        Raises:
            InputError: An argument is wrong, or the index holds no words.
        """
        if mode not in MODES:
            raise InputError(f"mode={mode!r}; allowed are {', '.join(map(repr, MODES))}")
        if mode == "dense":
            return self.search(list(vectors), k, ef_search=ef_search, where=where)
        generation = self._open()
        k = check_whole_number("k", k, 1)
        queries = np.atleast_2d(check_queries(vectors, generation.manifest.dimension))
        if isinstance(texts, str) or len(texts) != len(queries):
            raise InputError(f"there are {len(queries)} vectors; as many texts are needed, in a list")
        analyser = self._checked_analyser()
        words = generation.words()
        hits = []
        for text, vector in zip(texts, queries, strict=True):
            candidates = retrieve(
                generation,
                words,
                vector,
                analyser.tokens(text),
                k,
                dense=mode == "hybrid",
                where=where,
                ef_search=ef_search,
            )
            scores = candidates.bm25 if mode == "lexical" else candidates.cosines
            hits.append(candidate_hits(generation, candidates, scores, k))
        return hits

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows; None allows all.

        Raises:
            InputError: The filter is wrong, or asks for a field that no document has.
        """
        return sum(rows.count for rows in self._open().allowed(where))

    def scans(self, where: Mapping[str, Any] | None) -> bool:
        """Return whether a filter reads documents, because no column answers it.

        That costs a look at each document the first time; answers to the latest filters are kept.

        Raises:
            InputError: See `count`.
        """
        return any(rows.scanned for rows in self._open().allowed(where))

    def rows(self, where: Mapping[str, Any] | None = None) -> NDArray[np.int64]:
        """Return which rows of `vectors` a filter allows, (n,) int64, rising; None allows all.

        Raises:
            InputError: See `count`.
        """
        generation = self._open()
        allowed = generation.allowed(where)
        masks = [one.mask[alive.rows] for one, alive in zip(allowed, generation.alive, strict=True)]
        return np.flatnonzero(np.concatenate(masks)) if masks else np.empty(0, dtype=np.int64)

    def documents(self, where: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """Return an iterator over the documents that a filter allows, in the order of `rows`.

        That is the order in which they were added. Few are in memory at a time. It goes on with this
        generation when the index is changed meanwhile.

        Raises:
            InputError: See `count`; from the iterator: the index was closed.
        """
        generation = self._open()
        return (
            document
            for segment, allowed in zip(generation.segments, generation.allowed(where), strict=True)
            for start in range(0, allowed.count, _BLOCK)
            for document in segment.documents.read(allowed.rows[start : start + _BLOCK].tolist())
        )

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents by id, in the order of `ids`.

        Raises:
            InputError: An id is not in the index, or `ids` is one string.
        """
        wanted = _check_ids(ids)
        documents = self._open().by_id(wanted)
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
        near = self._open().near(identifier, _SHOWN)
        alike = difflib.get_close_matches(identifier[:_ID_CHARACTERS], near, _SHOWN, cutoff=0.0)
        shown = ", ".join(map(repr, alike))
        return f"; the nearest to {identifier[:_ID_CHARACTERS]!r} are {shown}" if alike else ""

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those of the index.

        Raises:
            EncoderMismatchError: Another fingerprint or dimension.
        """
        manifest = self._open().manifest
        if (encoder.fingerprint, encoder.dimension) == (manifest.encoder.fingerprint, manifest.dimension):
            return
        raise EncoderMismatchError(
            f"{self.path} was built by {manifest.encoder.name} (fingerprint {manifest.encoder.fingerprint}, "
            f"{manifest.dimension} dimensions), not by {encoder.name} (fingerprint {encoder.fingerprint}, "
            f"{encoder.dimension} dimensions); use the model that built it, or build it again with this one"
        )

    def similar(
        self,
        id: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the documents most like one that is in the index, without that one.

        Args:
            id: Its id.
            k: How many hits at most; fewer is not an error.
            where: A filter; see `search`.
            ef_search: See `search`.
            exact: See `search`.

        Returns:
            Hits in falling order of score: the cosine of two documents, to which levels do not apply. Of a
            document in passages it is that of their mean.

        Raises:
            InputError: The id is not in the index, or an argument is wrong.
        """
        k = check_whole_number("k", k, 1)
        self.get([id])  # or the error that says which ids are near
        vector = self._open().vector_of(id)
        hits = self.search(vector, k + 1, where=where, ef_search=ef_search, exact=exact)
        return [hit for hit in hits if hit.document.id != id][:k]

    def facets(self, field: str, where: Mapping[str, Any] | None = None) -> dict[str | float | bool, int]:
        """Count the values of a field over the documents that a filter allows.

        A document counts once for each different value of its list. Documents without the field do not count.

        Args:
            field: Its name, as in a filter.
            where: A filter; see `search`.

        Returns:
            Value to number of documents, the most frequent first, equal ones by value.

        Raises:
            InputError: The filter is wrong, or no document has one of the fields.
        """
        generation = self._open()
        return generation.facets(field, where)

    def add(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None = None,
        *,
        vectors: NDArray[Any] | None = None,
        chunk_size: int = 1024,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
        sync: bool = True,
    ) -> int:
        """Add documents whose ids are not in the index, in one commit.

        Args:
            documents: See `build`.
            encoder: Makes the vectors: the one that built the index. Not needed where vectors are given.
            vectors: (n, D) unit vectors of that encoder, in the order of the documents.
            chunk_size: Documents for each call of the encoder.
            num_threads: For building a graph; None chooses from affinity and container quota.
            on_progress: Called with ("encode", documents read) and ("graph", vectors added).
            sync: False does not wait for the disk, for many small changes in a row: a power cut (not a crash
                of the process) may then cost the whole index. The next change that waits makes it safe.

        Returns:
            How many were added.

        Raises:
            InputError: A document, vector or argument is wrong, or an id occurs again or is in the index.
            EncoderMismatchError: Another encoder than the index was built with.
            LockedError: Another process builds the index again.
            RelsdkError: The file system refused.
        """
        return self._add(
            documents, encoder, vectors, chunk_size, num_threads, on_progress, replaces=False, sync=sync
        )

    def upsert(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None = None,
        *,
        vectors: NDArray[Any] | None = None,
        chunk_size: int = 1024,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
        sync: bool = True,
    ) -> int:
        """Add documents, in place of those that have their ids, in one commit; see `add`.

        Of documents with the same id the last counts.

        Returns:
            How many were written.
        """
        return self._add(
            documents, encoder, vectors, chunk_size, num_threads, on_progress, replaces=True, sync=sync
        )

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        sync: bool = True,
    ) -> int:
        """Delete documents, by id or by a filter, in one commit.

        They are found no more; their content goes from the disk with `compact(full=True)`.

        Args:
            ids: Those that are not in the index are passed over.
            where: A filter; see `search`. One that is empty, and would delete everything, is refused.
            sync: See `add`.

        Returns:
            How many were deleted.

        Raises:
            InputError: Neither or both are given, or one is wrong.
            LockedError: Another process builds the index again.
            RelsdkError: The file system refused.
        """
        if (ids is None) == (where is None):
            raise InputError("give either ids or where: which documents to delete")
        if where is not None and not where:
            raise InputError(
                "where is empty, which allows every document; nothing was deleted: name a condition"
            )
        wanted = None if ids is None else _check_ids(ids)
        opened = self._open()
        count = delete_documents(self.path, opened, wanted, where, check=self._check, sync=sync)
        self.refresh()
        return count

    def compact(
        self,
        *,
        full: bool = False,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> bool:
        """Merge segments when there are more than three graphs, or when over a fifth of one is dead.

        Vectors are copied, not encoded again. The index answers, and takes changes, meanwhile. An index of
        format 1 becomes one of format 2.

        Args:
            full: Merge all into one, and drop every dead document from the disk.
            num_threads: See `add`.
            on_progress: Called with ("graph", vectors added).

        Returns:
            Whether there was anything to do.

        Raises:
            LockedError: Another writer compacted or built the index meanwhile.
            RelsdkError: The file system refused.
        """
        done = False
        while True:
            making = self._making(num_threads, on_progress)
            again = compact_index(self.path, self._open(), making, check=self._check, full=full)
            self.refresh()
            if not again:
                return done
            done = True

    def refresh(self) -> bool:
        """Go on with the generation that is current now; return whether it is another one.

        Segments that are open already are not opened again. Searches that run end in the generation in which
        they began.

        Raises:
            IndexFolderError: See `open`.
        """
        opened = self._open()
        self._generation = current_generation(self.path, opened, self._check)
        return self._generation is not opened

    def stats(self) -> IndexStats:
        """Return what the index consists of: segments, dead documents, bytes."""
        return self._open().stats()

    def _making(self, num_threads: int | None, on_progress: Progress | None) -> Making:
        """Return what further segments are made by."""
        manifest = self._open().manifest
        analyser = None if manifest.analyser is None else self._checked_analyser()
        return Making(manifest.config, manifest.dimension, analyser, _threads(num_threads), on_progress)

    def _checked_analyser(self) -> Analyser:
        """Return the analyser that made the words of the index.

        Raises:
            InputError: Another one made them, or they were not made.
        """
        made, own = self._open().manifest.analyser, self._analyser
        if made is None:
            raise InputError(f"{self.path} was built with lexical=False; build it again to search for words")
        if (made.name, made.version) != (own.name, own.version):
            raise InputError(
                f"{self.path} was built with the analyser {made.name} {made.version}, not {own.name} "
                f"{own.version}; open it with the one that built it, or build it again"
            )
        return own

    def _add(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None,
        vectors: NDArray[Any] | None,
        chunk_size: int,
        num_threads: int | None,
        on_progress: Progress | None,
        *,
        replaces: bool,
        sync: bool,
    ) -> int:
        if encoder is not None:
            self.check_encoder(encoder)
        elif vectors is None:
            raise InputError("give the encoder that built the index, or the documents' vectors")
        self.refresh()
        opened = self._open()
        making = self._making(num_threads, on_progress)
        source = _source(documents, encoder, vectors, making, "last" if replaces else "error", chunk_size)
        count = add_documents(
            self.path, opened, source, making, check=self._check, replaces=replaces, sync=sync
        )
        self.refresh()
        return count

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
        """All vectors (N, D), read-only, in the order of the rows.

        They are memory-mapped where there is one segment and none of it is dead, and copied otherwise.

        Raises:
            InputError: Documents are split into passages, and have several vectors.
        """
        return self._open().vectors(self.path)

    def __len__(self) -> int:
        """Return N."""
        return self._open().manifest.count

    def close(self) -> None:
        """Release files and memory; more than once is fine."""
        if self._generation is not None:
            self._generation.close()
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


def _threads(num_threads: int | None) -> int | None:
    if num_threads is not None:
        check_whole_number("num_threads", num_threads, 1)
        choose_threads(num_threads)  # an upper bound, too, and before the encoder's work
    return num_threads


def _source(
    documents: Iterable[Document | Mapping[str, Any]],
    encoder: Encoder | None,
    vectors: NDArray[Any] | None,
    making: Making,
    on_duplicate: str,
    chunk_size: int,
) -> Source:
    check_whole_number("chunk_size", chunk_size, 1)
    given = None if vectors is None else check_given_vectors(vectors, making.dimension)
    return Source(documents, encoder, given, making.dimension, on_duplicate, chunk_size, making.on_progress)


def _check_ids(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise InputError(f"ids is the text {ids!r}; pass a list of ids")
    wanted = list(ids)
    wrong = [identifier for identifier in wanted if not isinstance(identifier, str)]
    if wrong:
        raise InputError(f"id {wrong[0]!r} is a {type(wrong[0]).__name__}; ids are text")
    return wanted


def _hits(generation: Generation, found: Found) -> list[list[Hit]]:
    """Make records of what was found; one statement a segment for all queries."""
    documents = generation.documents(sorted(set(found.rows[found.rows >= 0].tolist())))
    lists = zip(found.rows.tolist(), found.scores.tolist(), found.vectors.tolist(), strict=True)
    hits = []
    for rows, scores, vectors in lists:
        hits.append(
            [
                Hit(documents[row], score, passage=generation.passage(documents[row], vector))
                for row, score, vector in zip(rows, scores, vectors, strict=True)
                if row >= 0
            ]
        )
    return hits


def _open_again(kind: type[Index], folder: Path, check: str, analyser: Analyser, checksum: str) -> Index:
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
        generation.close()
        raise IndexFolderError(f"{folder} holds another index: it was deleted and built {remedy}")
    return kind(folder.parent, generation, check, analyser)
