"""`relsdk index build | add | delete | info` where INDEX is a collection of a vector store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from relsdk.cli._warnings import take_warnings
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table, shell
from relsdk.errors import InputError
from relsdk.index import Encoder, Index, IndexConfig
from relsdk.index.opening import build_store
from relsdk.index.store import Store
from relsdk.progress import Progress
from relsdk.records import Document

__all__ = [
    "add_to_store",
    "build_in_store",
    "count_ids",
    "delete_from_store",
    "refuse_for_store",
    "show_store",
]

_IDS = 10_000  # in one filter


def refuse_for_store(place: str, options: Mapping[str, bool]) -> None:
    """Refuse options that only an index folder has.

    Args:
        place: The store, for the message.
        options: By name, whether it was given.

    Raises:
        InputError: One was given.
    """
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise InputError(f"{given[0]} is for an index folder, and {place} is a vector store; leave it out")


def build_in_store(
    uri: str,
    documents: Iterable[Document],
    encoder: Encoder,
    config: IndexConfig,
    total: int | None,
    *,
    vectors: NDArray[Any] | None,
    overwrite: bool,
    on_duplicate: str,
    as_json: bool,
) -> None:
    """Load documents into a collection and say what it holds."""
    started = time.perf_counter()
    with Progress(total) as progress:
        built = build_store(
            uri,
            documents,
            encoder,
            vectors=vectors,
            config=config,
            overwrite=overwrite,
            on_duplicate=on_duplicate,
            on_progress=progress,
        )
    with built:
        info = built.info()
    seconds = time.perf_counter() - started
    if as_json:
        echo_json({**asdict(info), "seconds": round(seconds, 3), "warnings": take_warnings()})
        return
    size = f"{counted(info.count, 'document')}, {info.dimension} dimensions"
    echo(f"{uri}: {size}, {info.kind}, {seconds:.1f} s")
    echo_next("query", shell(uri), '"..."')


def add_to_store(
    store: Store,
    documents: Iterable[Document],
    encoder: Encoder | None,
    total: int | None,
    *,
    vectors: NDArray[Any] | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Write documents chunk by chunk, index them, and say how many there are."""
    started = time.perf_counter()
    before = store.count()
    with Progress(total) as progress:
        written = (store.upsert if replace else store.add)(
            documents, encoder, vectors=vectors, on_progress=progress
        )
        store.finish()
    count, seconds = store.count(), time.perf_counter() - started
    if as_json:
        report = {"index": str(store.uri), "added": written, "documents": count}
        report |= {"new": count - before, "seconds": round(seconds, 3)}
        echo_json({**report, "warnings": take_warnings()})
        return
    echo(
        f"{store.uri}: {counted(written, 'document')} written, {seconds:.1f} s; now "
        f"{counted(count, 'document')} ({count - before:+,})"
    )
    echo_next("query", shell(str(store.uri)), '"..."')


def count_ids(index: Index | Store, ids: Sequence[str]) -> int:
    """Return how many ids are in the index."""
    some = (ids[start : start + _IDS] for start in range(0, len(ids), _IDS))
    return sum(index.count({"_id": {"in": list(few)}}) for few in some)


def delete_from_store(
    store: Store,
    ids: list[str] | None,
    where: Mapping[str, Any] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete documents, or say how many would be."""
    before = store.count()
    if dry_run:
        found = store.count(where) if ids is None else count_ids(store, ids)
    else:
        found = store.delete(ids, where=where)
    count = store.count()
    among = before if ids is None else len(ids)
    if as_json:
        report = {"index": str(store.uri), "deleted": 0 if dry_run else found, "matching": found}
        echo_json({**report, "of": among, "documents": count})
        return
    what = "document" if ids is None else "id"
    done = "deleted" if found and not dry_run else "nothing was deleted"
    echo(f"{store.uri}: {found:,} of {counted(among, what)}: {done}; now {counted(count, 'document')}")


def show_store(store: Store, as_json: bool) -> None:
    """Print what a collection holds."""
    info = asdict(store.info())
    if as_json:
        echo_json(info)
        return
    info["config"] = ", ".join(f"{name}={value}" for name, value in info["config"].items())
    cells = [[name, f"{value:,}" if type(value) is int else str(value)] for name, value in info.items()]
    echo_table(["field", "value"], [cell for cell in cells if cell[0] != "complete"])
