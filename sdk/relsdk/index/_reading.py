"""What can be asked of an open index: search, filters, counts, documents.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink, SearchProfile
from relsdk.errors import EncoderMismatchError, IndexFolderError, InputError, RelsdkError
from relsdk.index._arguments import check_analyser, check_encoder_parts, check_ids, check_texts, tokens_of
from relsdk.index._generation import Generation
from relsdk.index._info import IndexInfo, IndexStats, index_info, index_stats
from relsdk.index._profiles_file import read_profiles
from relsdk.index._retrieval import MODES, Mode, candidate_hits, found_hits, hybrid_scores, retrieve
from relsdk.index._storage import read_current
from relsdk.index._vectors import UNIT_TOLERANCE, check_queries
from relsdk.index.analysis import Analyser
from relsdk.index.base import Encoder, check_whole_number
from relsdk.index.verify import VerifyReport, verify_generation, verify_index
from relsdk.records import Document, Hit, Matrix, Vector

__all__ = ["IndexReader"]

Opened = TypeVar("Opened", bound="IndexReader")

# Documents that are read at a time.
_BLOCK = 100
# Ids that a message names, and how much of one it compares.
_SHOWN, _ID_CHARACTERS = 5, 200

# Of vectors whose lengths are within the tolerance.
_HIGHEST_COSINE = (1.0 + UNIT_TOLERANCE) ** 2 + 1e-5


class IndexReader:
    """The part of `Index` that changes nothing."""

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
        self._refreshing: dict[int, threading.Lock] = {}
        self._analyser = check_analyser(analyser)

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
        _check_cosines(generation, found.scores[found.rows >= 0])
        hits = found_hits(generation, found)
        return hits[0] if queries.ndim == 1 else hits

    def retrieve(
        self,
        texts: Sequence[str],
        vectors: NDArray[Any] | Sequence[Any],
        k: int = 10,
        *,
        mode: Mode = "hybrid",
        model: HybridLink | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[list[Hit]]:
        """Find documents by meaning, by words, or by both.

        Args:
            texts: Q queries.
            vectors: (Q, D) their unit vectors.
            k: How many hits at most; fewer is not an error.
            mode: "dense" is `search`. "lexical" finds documents that have words of the query, in the order of
                BM25. "hybrid" looks at the best of both sides, in the order of `model`.
            model: Of `hybrid_models`, for the variant that made the vectors; None orders by cosine.
            where: A filter; see `search`.
            ef_search: See `search`.

        Returns:
            A list of hits for each query, in falling order of score; `Hit.signals` says why each is there.

        Raises:
            InputError: An argument is wrong, or the index holds no words.
        """
        if not isinstance(mode, str) or mode not in MODES:
            raise InputError(f"mode={mode!r}; allowed are {', '.join(map(repr, MODES))}")
        if model is not None and not isinstance(model, HybridLink):
            raise InputError(f"model is a {type(model).__name__}; a HybridLink of hybrid_models is needed")
        generation = self._open()
        k = check_whole_number("k", k, 1)
        if ef_search is not None:
            ef_search = check_whole_number("ef_search", ef_search, 1)
        queries = np.atleast_2d(check_queries(vectors, generation.manifest.dimension))
        texts = check_texts(texts, len(queries))
        if mode == "dense":
            rows = list(queries)
            return self.search(rows, k, ef_search=ef_search, where=where) if rows else []
        analyser = self._checked_analyser()
        words = generation.words()
        hits = []
        for text, vector in zip(texts, queries, strict=True):
            tokens = tokens_of(analyser, text)
            with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                candidates = retrieve(
                    generation,
                    words,
                    vector,
                    tokens,
                    k,
                    dense=mode == "hybrid",
                    where=where,
                    ef_search=ef_search,
                )
            _check_cosines(generation, candidates.cosines)
            scores = candidates.bm25 if mode == "lexical" else hybrid_scores(candidates, model)
            hits.append(candidate_hits(generation, candidates, scores, k))
        return hits

    @property
    def hybrid_models(self) -> Mapping[str, HybridLink]:
        """What turns cosine and BM25 into an order and levels, by variant of the encoder (`store_hybrid`)."""
        return self._open().hybrid

    def profiles(self, variant: str) -> Mapping[str, SearchProfile]:
        """Return what searches found when the index was calibrated (`store_profiles`), by their order.

        Args:
            variant: Of the encoder.

        Raises:
            IndexFolderError: Their file is damaged.
        """
        return read_profiles(self.path, self.info().encoder_fingerprint).get(variant, {})

    def snapshot(self: Opened) -> Opened:
        """Return the same index, which stays with the generation that is open now.

        Its answers belong together: a change of this object by another thread does not move it. Both have the
        same files open: closing one closes the other, too.
        """
        return type(self)(self.path, self._open(), self._check, self._analyser)

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows; None allows all.

        Raises:
            InputError: The filter is wrong, or asks for a field that no document has.
        """
        return sum(rows.count for rows in self._open().allowed(where))

    def check_field(self, field: str) -> None:
        """Refuse a field that no document has.

        Raises:
            InputError: The message says which fields there are.
        """
        self._open().check_field(field)

    def warmup(self) -> None:
        """Bring what exact and filtered search read into the memory of this process.

        Without it the first searches with a filter pay for that, page by page.
        """
        for segment in self._open().segments:
            segment.touch()

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
        wanted = check_ids(ids)
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
        alike = difflib.get_close_matches(identifier[:_ID_CHARACTERS], near, _SHOWN, cutoff=0.5)
        shown = ", ".join(map(repr, alike))
        return f"; the nearest to {identifier[:_ID_CHARACTERS]!r} are {shown}" if alike else ""

    def bm25(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float64], float]:
        """Return how well documents, in the index or not, hold the words of a query.

        Args:
            query: Its text.
            documents: n of them; one that the index splits is taken as a whole.

        Returns:
            (n,) BM25, with what the index knows of words, and what no document can surpass.

        Raises:
            InputError: The index holds no words, or was built with another analyser.
        """
        analyser = self._checked_analyser()
        texts = [analyser.tokens(f"{document.title}\n{document.text}") for document in documents]
        return self._open().words().text_scores(analyser.tokens(query), texts)

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those of the index.

        Raises:
            EncoderMismatchError: Another fingerprint or dimension.
            InputError: It is no encoder.
        """
        check_encoder_parts(encoder)
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
        now = self.snapshot()
        now.get([id])  # or the error that says which ids are near
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            vector = now._open().vector_of(id)
            if not abs(float(vector @ vector) - 1.0) <= 3 * UNIT_TOLERANCE:
                raise _damage(now._open())
        hits = now.search(vector, k + 1, where=where, ef_search=ef_search, exact=exact)
        return [hit for hit in hits if hit.document.id != id][:k]

    def facets(
        self, field: str, where: Mapping[str, Any] | None = None
    ) -> list[tuple[str | float | bool, int]]:
        """Count the values of a field over the documents that a filter allows.

        A document counts once for each different value of its list. Documents without the field do not count.

        Args:
            field: Its name, as in a filter.
            where: A filter; see `search`.

        Returns:
            (value, number of documents), the most frequent first, equally frequent ones by value.

        Raises:
            InputError: The filter is wrong, or no document has one of the fields.
        """
        generation = self._open()
        return generation.facets(field, where)

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of the metadata, nested ones with dots, and what their values are.

        Returns:
            By name, some of "boolean", "null", "number", "object" and "text".
        """
        return self._open().fields()

    @property
    def generation(self) -> str:
        """The name of the generation that is open."""
        return self._open().name

    def stats(self) -> IndexStats:
        """Return what the index consists of: segments, dead documents, bytes."""
        return index_stats(self._open())

    def _checked_analyser(self) -> Analyser:
        """Return the analyser that made the words of the index.

        Raises:
            InputError: Another one made them, or they were not made.
        """
        made, own = self._open().manifest.analyser, self._analyser
        if made is None:
            raise InputError(
                f"{self.path} was built without words (lexical=False, --no-lexical); build it again with them"
            )
        if (made.name, made.version) != (own.name, own.version):
            raise InputError(
                f"{self.path} was built with the analyser {made.name} {made.version}, not {own.name} "
                f"{own.version}; open it with the one that built it, or build it again"
            )
        return own

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        return index_info(self._open(), self.path)

    def verify(self) -> VerifyReport:
        """Check the files of the open generation: hashes, counts, vectors, database, graph.

        Where later changes have removed some of it, the current one is checked. Damage is reported, not
        raised; `relsdk.index.verify_index` also takes an index that does not open.
        """
        folder = self._open().folder
        report = verify_generation(folder.parent, folder.name)
        if not report.ok:
            with contextlib.suppress(RelsdkError):  # the report is of the damage that is known
                if read_current(folder.parent) != folder.name:
                    return verify_index(folder.parent)
        return report

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

    def __enter__(self: Opened) -> Opened:
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


def _check_cosines(generation: Generation, cosines: NDArray[np.float32]) -> None:
    """Refuse cosines that unit vectors cannot have; NaN, too.

    Raises:
        IndexFolderError: The index is damaged.
    """
    if not np.abs(cosines).max(initial=0.0) <= _HIGHEST_COSINE:
        raise _damage(generation)


def _damage(generation: Generation) -> IndexFolderError:
    return IndexFolderError(
        f"{generation.folder} is damaged: its vectors have not length 1; check it with: relsdk index verify, "
        f"or build it again"
    )
