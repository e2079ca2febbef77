"""The index: a folder of documents, searched by vectors.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from relsdk.calibration import HybridLink
from relsdk.errors import IndexFolderError, InputError
from relsdk.index._arguments import (
    check_config,
    check_encoder_parts,
    check_ids,
    check_models,
    chosen_analyser,
)
from relsdk.index._changes import (
    add_documents,
    build_index,
    compact_index,
    current_generation,
    delete_documents,
    forget_earlier,
    store_hybrid,
)
from relsdk.index._generation import load_generation
from relsdk.index._part import Source, check_given_vectors
from relsdk.index._profiles_file import Profiles, read_profiles, write_profiles
from relsdk.index._reading import IndexReader
from relsdk.index._segment_writer import Making
from relsdk.index._storage import open_current
from relsdk.index.analysis import Analyser
from relsdk.index.base import Encoder, IndexConfig, Progress, check_whole_number
from relsdk.records import Document
from relsdk.runtime.hardware import choose_threads

__all__ = ["Index"]


class Index(IndexReader):
    """Documents and their vectors in a folder; made by `build` or `open`.

    Safe to use from many threads, and after a fork. A context manager. An open index keeps answering from its
    generation when another process changes the folder; `refresh` shows the new one, and so does every change
    made through this object. A pickle holds the path, not the documents: it opens the same generation in the
    other process.

    A change is one commit: it is there as a whole or not at all, also after a crash. Any process may make
    one; the lock is held for the commit only.
    """

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
        check_encoder_parts(encoder)
        check_whole_number("the encoder's dimension", encoder.dimension, 1)
        folder = Path(path).absolute()  # whoever makes the documents may go to another folder
        analyser = chosen_analyser(lexical)
        making = Making(check_config(config), encoder.dimension, analyser, _threads(num_threads), on_progress)
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
        if isinstance(where, Mapping) and not where:
            raise InputError(
                "where is empty, which allows every document; nothing was deleted: name a condition"
            )
        wanted = None if ids is None else check_ids(ids)
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
        """Merge segments when there are more than three beside the tail, or when over a fifth of one is dead.

        Vectors are copied, not encoded again. The index answers, and takes changes, meanwhile. An index of
        format 1 becomes one of format 2.

        Args:
            full: Merge all into one, and leave out every dead document. Where that is so already, remove what
                the generation before holds: until then deleted documents are on the disk, for readers that
                have it open.
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
            if full and not done and not again:
                done = forget_earlier(self.path, self._open(), check=self._check)
            self.refresh()
            if not again:
                return done
            done = True

    def store_hybrid(self, models: Mapping[str, HybridLink]) -> None:
        """Store what turns cosine and BM25 into an order and levels, in one commit.

        `relsdk.tools.hybrid_calibration` fits it. Models of other variants stay.

        Args:
            models: By variant of the encoder, such as "fp32".

        Raises:
            InputError: The index holds no words, or these are no models.
            LockedError: Another process builds the index again.
            RelsdkError: The file system refused.
        """
        self._checked_analyser()
        store_hybrid(self.path, self._open(), check_models(models), check=self._check)
        self.refresh()

    def store_profiles(self, profiles: Profiles) -> None:
        """Store what searches found, with which later ones are compared; those of other variants stay.

        `relsdk.tools.search_profiles` makes them.

        Args:
            profiles: By variant of the encoder, such as "fp32", and by `SearchResult.order`.

        Raises:
            RelsdkError: The file system refused.
        """
        encoder = self.info().encoder_fingerprint
        write_profiles(self.path, encoder, {**read_profiles(self.path, encoder), **profiles})

    def refresh(self, encoder: Encoder | None = None) -> bool:
        """Go on with the generation that is current now; return whether it is another one.

        Segments that are open already are not opened again. Searches that run end in the generation in which
        they began.

        Args:
            encoder: What queries it: a generation that another encoder built is refused, and not gone on
                with.

        Raises:
            EncoderMismatchError: See `check_encoder`.
            IndexFolderError: See `open`.
        """
        # One thread at a time, or one that was slow would go back to an older generation. In a forked process
        # the lock of another may be held for ever.
        with self._refreshing.setdefault(os.getpid(), threading.Lock()):
            opened = self._open()
            latest = current_generation(self.path, opened, self._check)
            if encoder is not None and latest is not opened:
                type(self)(self.path, latest, self._check, self._analyser).check_encoder(encoder)
            self._generation = latest
        return latest is not opened

    def _making(self, num_threads: int | None, on_progress: Progress | None) -> Making:
        """Return what further segments are made by."""
        manifest = self._open().manifest
        analyser = None if manifest.analyser is None else self._checked_analyser()
        return Making(manifest.config, manifest.dimension, analyser, _threads(num_threads), on_progress)

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
        self.refresh(encoder)  # another process may have built it again, with another one
        opened = self._open()
        making = self._making(num_threads, on_progress)
        source = _source(documents, encoder, vectors, making, "last" if replaces else "error", chunk_size)
        count = add_documents(
            self.path, opened, source, making, check=self._check, replaces=replaces, sync=sync
        )
        self.refresh()
        return count


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


def _open_again(kind: type[Index], folder: Path, check: str, analyser: Analyser, checksum: str) -> Index:
    """Open the generation that a pickled index had open."""
    remedy = f"after it was pickled; open it anew with Index.open({str(folder.parent)!r})"
    try:
        generation = load_generation(folder.name, folder, check)
    except IndexFolderError as error:
        if folder.exists():
            raise
        gone = "the index was changed twice, built again, moved or deleted"
        raise IndexFolderError(f"{folder} is gone: {gone} {remedy}") from error
    if generation.manifest.checksum != checksum:
        generation.close()
        raise IndexFolderError(f"{folder} holds another index: it was deleted and built {remedy}")
    return kind(folder.parent, generation, check, analyser)
