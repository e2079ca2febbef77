"""Documents on their way into a store: checked and encoded, chunk by chunk.

Shape letters: n documents of one chunk, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index._incoming import checked_chunks, checked_metadata
from relsdk.index._part import Source, chunk_vectors
from relsdk.records import Document

__all__ = ["KnownIds", "encoded_chunks"]


class KnownIds:
    """Refuses ids that occurred before, or that a store has.

    Args:
        place: The store, for messages.
        read: Returns those documents of some ids that the store has.
    """

    def __init__(self, place: str, read: Callable[[Sequence[str]], list[Document]]) -> None:
        self._place, self._read = place, read
        self._seen: set[int] = set()  # ids as whole numbers: there may be millions

    def refuse(self, first: int, chunk: Sequence[Document]) -> None:
        """Raise at the first id of a chunk that is known.

        Raises:
            InputError: There is one.
        """
        for position, document in enumerate(chunk, start=first):
            if (number := hash(document.id)) in self._seen:
                raise InputError(
                    f"document {position:,} of the input: id {document.id!r} occurs again; keep one of them"
                )
            self._seen.add(number)
        if known := self._read([document.id for document in chunk]):
            raise InputError(
                f"id {known[0].id!r} is in {self._place} already; --replace (upsert) puts new documents in "
                "place of those that are there"
            )


def encoded_chunks(
    source: Source, known: KnownIds | None
) -> Iterator[tuple[list[Document], NDArray[np.float32]]]:
    """Yield documents of different ids (n) and their unit vectors (n, D); of equal ids the last counts.

    Args:
        source: The documents.
        known: Refuses ids; None allows all.

    Raises:
        InputError: A document or vector is wrong, or there are not as many vectors as documents.
    """
    taken = 0
    for first, chunk in checked_chunks(source.documents, source.chunk_size):
        if known is not None:
            known.refuse(first, chunk)
        latest = {document.id: first + offset for offset, document in enumerate(chunk)}
        positions = sorted(latest.values())
        chosen = [chunk[position - first] for position in positions]
        for position, document in zip(positions, chosen, strict=True):
            checked_metadata(position, document)
        yield chosen, chunk_vectors(source, chosen, np.array(positions) - 1, first)
        taken = first - 1 + len(chunk)
        if source.on_progress is not None:
            source.on_progress("encode", taken)
    if source.vectors is not None and len(source.vectors) != taken:
        raise InputError(
            f"there are {len(source.vectors):,} vectors for {taken:,} documents; one each is needed"
        )
