"""Changes of an index, one commit each: build, add, delete, compact.

A change is prepared from the generation that is open, without a lock where that takes long. Then it takes the
lock, looks at the generation that is current by now, and commits upon that: documents that died meanwhile
stay dead. What it has copied must still be there; if not, it is prepared again, or refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink
from relsdk.errors import InputError, LockedError
from relsdk.index._generation import Generation, load_generation
from relsdk.index._hybrid_file import write_hybrid
from relsdk.index._incoming import Chunk
from relsdk.index._manifest import (
    HYBRID_FILE,
    AnalyserEntry,
    Manifest,
    SegmentEntry,
    dead_file,
    describe_files,
    read_manifest,
    write_manifest,
)
from relsdk.index._part import Part, Source, made_by, write_part
from relsdk.index._row_set import RowSet
from relsdk.index._segment import Segment
from relsdk.index._segment_writer import (
    GRAPH_ROWS,
    Making,
    Rows,
    complete_part,
    merge,
    open_part,
)
from relsdk.index._storage import Commit, committing, earlier_segments, new_index, new_part, open_current
from relsdk.index.base import Encoder

__all__ = [
    "add_documents",
    "build_index",
    "compact_index",
    "current_generation",
    "delete_documents",
    "forget_earlier",
    "store_hybrid",
]

# More segments than this beside the tail, or a larger share of dead documents, and compacting is worth while.
_MOST_SEGMENTS = 3
_MOST_DEAD = 0.2
# So many further documents are merged along with a run that is at least as large.
_TIER = 2


@dataclass(frozen=True)
class _Prepared:
    """A segment that is written and not yet committed.

    Attributes:
        folder: Where it is.
        entry: What it holds, under the name that it will have.
        sources: What was copied into it, in the order of its rows; a part that came in is not a segment.
    """

    folder: Path
    entry: SegmentEntry
    sources: tuple[Rows, ...]

    def alive(self, now: Generation) -> NDArray[np.bool_]:
        """Return which of its documents (N,) have not died meanwhile."""
        alive_now = {one.folder: rows for one, rows in zip(now.segments, now.alive, strict=True)}
        masks = [
            alive_now[segment.folder].mask[rows.rows]
            if segment.folder in alive_now
            else np.ones(rows.count, dtype=np.bool_)
            for segment, rows in self.sources
        ]
        return np.concatenate(masks) if masks else np.ones(self.entry.count, dtype=np.bool_)


def current_generation(path: Path, opened: Generation, check: str) -> Generation:
    """Return the committed generation; of the segments that are open, none is opened again."""

    def load(name: str, folder: Path) -> Generation:
        # An index that was deleted and built again may have the same name.
        if name == opened.name and read_manifest(folder).checksum == opened.manifest.checksum:
            return opened
        return load_generation(name, folder, check, opened.segments)

    return open_current(path, load)


def build_index(path: Path, source: Source, encoder: Encoder, making: Making, *, overwrite: bool) -> None:
    """Write and commit an index of these documents alone; see `Index.build`."""
    with new_index(path, overwrite=overwrite) as commit, ExitStack() as stack:
        part = write_part(stack.enter_context(new_part(path)), source, making.config)
        if not part.count:
            raise InputError("there are no documents in the input; an index needs at least one")
        prepared = _prepare(path, part, None, making, stack)
        analyser = making.analyser
        manifest = Manifest(
            version=0,
            config=making.config,
            dimension=making.dimension,
            encoder=made_by(encoder, path),
            analyser=None if analyser is None else AnalyserEntry(analyser.name, analyser.version),
            segments=(),
            files={},
        )
        now = Generation("", path, manifest, (), ())
        _commit(commit, now, {}, prepared, sync=True)


def add_documents(
    path: Path, opened: Generation, source: Source, making: Making, *, check: str, replaces: bool, sync: bool
) -> int:
    """Write and commit further documents; see `Index.add`.

    Returns:
        How many documents were written.
    """
    killed = _Killed(opened, replaces)
    with ExitStack() as stack:
        part = write_part(stack.enter_context(new_part(path)), source, making.config, killed.look)
        if not part.count:
            return 0
        prepared = None
        if part.rows >= GRAPH_ROWS:  # its graph takes long: no lock is held meanwhile
            prepared = _prepare(path, part, _tail(opened, killed.alive()), making, stack)
        with committing(path) as commit:
            now = current_generation(path, opened, check)
            if now is not opened:
                _check_comparable(path, opened, now)
                killed = _Killed(now, replaces)
                with _rows_of_part(part, making) as (segment, rows):
                    for start in range(0, part.count, source.chunk_size):
                        wanted = rows.rows[(rows.rows >= start) & (rows.rows < start + source.chunk_size)]
                        killed.look((start + 1, segment.documents.read(wanted.tolist())))
            alive = killed.alive()
            tail = _tail(now, alive)
            if prepared is None or not _has_copied(prepared, tail):
                prepared = _prepare(path, part, tail, making, stack)
            _commit(commit, now, alive, prepared, sync=sync)
        return len(part.alive) - len(part.dead)


def delete_documents(
    path: Path,
    opened: Generation,
    ids: Sequence[str] | None,
    where: Mapping[str, Any] | None,
    *,
    check: str,
    sync: bool,
) -> int:
    """Mark documents as dead and commit; see `Index.delete`.

    Returns:
        How many documents died.
    """
    with committing(path) as commit:
        now = current_generation(path, opened, check)
        if ids is not None:
            dead = [np.array(sorted(rows.values()), dtype=np.int64) for rows in now.rows_of(ids)]
        else:
            dead = [rows.rows for rows in now.allowed(where)]
        count = sum(map(len, dead))
        if count:
            _commit(commit, now, _without(now, dead), None, sync=sync)
        return count


def compact_index(path: Path, opened: Generation, making: Making, *, check: str, full: bool) -> bool:
    """Merge segments where it is worth while, and commit; see `Index.compact`.

    Returns:
        Whether anything was done.
    """
    opened = current_generation(path, opened, check)
    chosen = _choose(opened, full)
    if not chosen:
        return False
    with new_part(path) as target:
        entry = merge(target, chosen, making, "")
        prepared = _Prepared(target, entry, tuple(chosen))
        with committing(path) as commit:
            now = current_generation(path, opened, check)
            there = {segment.folder for segment in now.segments}
            if not all(segment.folder in there for segment, _ in chosen):
                raise LockedError(
                    f"{path} was changed by another writer while it was compacted; nothing was done: compact "
                    f"it again"
                )
            _commit(commit, now, {}, prepared, sync=True)
    return True


def forget_earlier(path: Path, opened: Generation, *, check: str) -> bool:
    """Commit the current generation anew if the one before it has segments that have been merged since.

    Nothing names them then, and they are removed.

    Returns:
        Whether there were any.
    """
    if not earlier_segments(path):
        return False
    with committing(path) as commit:
        _commit(commit, current_generation(path, opened, check), {}, None, sync=True)
    return True


def store_hybrid(path: Path, opened: Generation, models: Mapping[str, HybridLink], *, check: str) -> None:
    """Commit what turns cosine and BM25 into levels; see `Index.store_hybrid`."""
    with committing(path) as commit:
        now = current_generation(path, opened, check)
        _check_comparable(path, opened, now)
        _commit(commit, now.with_hybrid({**now.hybrid, **models}), {}, None, sync=True)


class _Killed:
    """Documents of a generation that those which come in replace, or that make them wrong."""

    def __init__(self, generation: Generation, replaces: bool) -> None:
        self._generation = generation
        self._replaces = replaces
        self._rows: list[list[int]] = [[] for _ in generation.segments]

    def look(self, chunk: Chunk) -> None:
        """Note, or refuse, the ids of a chunk that are in the index."""
        first, documents = chunk
        found = self._generation.rows_of([document.id for document in documents])
        known = {identifier for rows in found for identifier in rows}
        if known and not self._replaces:
            place = next(at for at, one in enumerate(documents, start=first) if one.id in known)
            raise InputError(
                f"document {place:,} of the input: id {documents[place - first].id!r} is in the index "
                f"already; use upsert (--replace) to replace it"
            )
        for rows, more in zip(self._rows, found, strict=True):
            rows.extend(more.values())

    def alive(self) -> dict[Path, RowSet]:
        """Return what lives on, of each segment in which something dies."""
        return _without(self._generation, [np.array(rows, dtype=np.int64) for rows in self._rows])


def _without(generation: Generation, dead: Sequence[NDArray[np.int64]]) -> dict[Path, RowSet]:
    """Return what lives on, of each segment in which something dies."""
    changed = {}
    for segment, alive, rows in zip(generation.segments, generation.alive, dead, strict=True):
        if len(rows):
            mask = alive.mask.copy()
            mask[rows] = False
            changed[segment.folder] = RowSet(mask)
    return changed


def _tail(generation: Generation, alive: Mapping[Path, RowSet]) -> Rows | None:
    """Return the last segment if it is small enough to be written anew with what comes in."""
    if not generation.segments:
        return None
    last = generation.segments[-1]
    if len(last.vectors) >= GRAPH_ROWS or _is_old(last):
        return None
    return last, alive.get(last.folder, generation.alive[-1])


def _has_copied(prepared: _Prepared, tail: Rows | None) -> bool:
    """Whether what was copied is the tail of now; what died of it meanwhile is marked."""
    copied = [segment.folder for segment, _ in prepared.sources[:-1]]
    return copied == ([] if tail is None else [tail[0].folder])


def _prepare(path: Path, part: Part, tail: Rows | None, making: Making, stack: ExitStack) -> _Prepared:
    """Make a segment of a part, together with the tail; its folder is gone when the stack ends."""
    if tail is None and not part.dead:
        rows = stack.enter_context(_rows_of_part(part, making))
        return _Prepared(part.folder, complete_part(part, making, ""), (rows,))
    rows = stack.enter_context(_rows_of_part(part, making))
    sources = (rows,) if tail is None else (tail, rows)
    target = stack.enter_context(new_part(path))
    return _Prepared(target, merge(target, sources, making, ""), sources)


@contextmanager
def _rows_of_part(part: Part, making: Making) -> Iterator[Rows]:
    segment, alive = open_part(part, making)
    try:
        yield segment, alive
    finally:
        segment.documents.close()


def _check_comparable(path: Path, opened: Generation, now: Generation) -> None:
    """Refuse to go on when the index was built again with another encoder or other settings."""
    before, after = opened.manifest, now.manifest
    if any(
        getattr(before, name) != getattr(after, name)
        for name in ("encoder", "dimension", "config", "analyser")
    ):
        raise LockedError(
            f"{path} was built again with another model or other settings meanwhile; nothing was done: "
            f"open it again"
        )


def _choose(generation: Generation, full: bool) -> list[Rows]:
    """Return neighbouring segments that are worth merging into one; none when all is well."""
    rows = list(zip(generation.segments, generation.alive, strict=True))
    old = any(_is_old(segment) for segment, _ in rows)
    whole = len(rows) == 1 and rows[0][1].is_full and not old
    if full or old:
        return [] if whole else rows
    count = len(rows)
    if rows and _tail(generation, {}) is not None:
        count -= 1  # the next commit writes it anyhow, and others may add meanwhile
    if count > _MOST_SEGMENTS:
        return _widened(rows, _start_of_newest(rows[:count]), count)
    for number, (segment, alive) in enumerate(rows[:count]):
        if 1 - alive.count / segment.entry.count > _MOST_DEAD:
            return _widened(rows, number, number + 1)
    return []


def _is_old(segment: Segment) -> bool:
    """Whether it is a generation of format 1."""
    return not segment.entry.folder.startswith("segments/")


def _start_of_newest(rows: list[Rows]) -> int:
    """Return how far back the next older segment is not much larger than all newer ones."""
    size, first = 0, len(rows)
    while first and (len(rows) - first < 2 or rows[first - 1][1].count <= _TIER * size):
        first -= 1
        size += rows[first][1].count
    return first


def _widened(rows: list[Rows], first: int, end: int) -> list[Rows]:
    """Return a run with so many neighbours that it gets a graph, or is the tail: there is only one."""
    sizes = [segment.vectors_of(alive).count for segment, alive in rows]
    while end < len(rows) and sum(sizes[first:end]) < GRAPH_ROWS:
        if first and sizes[first - 1] < sizes[end]:
            first -= 1
        else:
            end += 1
    return rows[first:end]


def _commit(
    commit: Commit,
    now: Generation,
    alive: Mapping[Path, RowSet],
    prepared: _Prepared | None,
    *,
    sync: bool,
) -> None:
    """Commit a generation.

    Args:
        commit: Holds the lock.
        now: The current generation.
        alive: What lives on of the segments in which something died.
        prepared: A new segment; it takes the place of those that were copied into it.
        sync: Wait for the disk.
    """
    copied = set() if prepared is None else {segment.folder for segment, _ in prepared.sources}
    entries: list[tuple[SegmentEntry, RowSet]] = []
    added = None
    if prepared is not None:
        rows = RowSet(prepared.alive(now))
        added = replace(prepared.entry, folder=commit.segment, live=rows.count, synced=sync), rows
    for segment, current in zip(now.segments, now.alive, strict=True):
        if segment.folder in copied:
            if added is not None:
                entries.append(added)
                added = None
            continue
        rows = alive.get(segment.folder, current)
        entries.append((replace(segment.entry, live=rows.count), rows))
    if added is not None:
        entries.append(added)
    entries = [(entry, rows) for entry, rows in entries if rows.count]
    late = [
        commit.path / entry.folder
        for entry, _ in entries
        if not entry.synced and entry.folder != commit.segment
    ]
    if sync:
        entries = [(replace(entry, synced=True), rows) for entry, rows in entries]
    # A new segment of which nothing lived on is not placed.
    placed = prepared is not None and any(entry.folder == commit.segment for entry, _ in entries)
    commit.commit(
        partial(_write_generation, now=now, entries=entries),
        part=prepared.folder if prepared is not None and placed else None,
        synced=late if sync else None,
    )


def _write_generation(
    folder: Path, *, now: Generation, entries: Sequence[tuple[SegmentEntry, RowSet]]
) -> None:
    """Write bitmaps, what goes on from the generation before, and the manifest."""
    names = []
    for entry, rows in entries:
        if entry.live < entry.count:
            names.append(dead_file(entry.folder))
            (folder / names[-1]).write_bytes(np.packbits(~rows.mask).tobytes())
    if now.hybrid:
        write_hybrid(folder, now.manifest, now.hybrid)
        names.append(HYBRID_FILE)
    files = describe_files(folder, names)
    write_manifest(folder, replace(now.manifest, segments=tuple(entry for entry, _ in entries), files=files))
