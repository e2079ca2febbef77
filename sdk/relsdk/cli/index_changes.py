"""`relsdk index add | delete | compact`: changes of an index that is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from relsdk.cli._index_input import count_lines, input_option, open_parts, open_vectors, vectors_option
from relsdk.cli._index_stores import add_to_store, count_ids, delete_from_store, refuse_for_store
from relsdk.cli._warnings import take_warnings
from relsdk.cli.inputs import document_options, typed_documents
from relsdk.cli.options import folder_argument, index_argument, json_option, threads_option, variant_option
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table, shell
from relsdk.errors import InputError
from relsdk.formats import read_ids
from relsdk.index import Index, IndexStats
from relsdk.index.filter_text import WHERE_HELP, parse_where
from relsdk.index.opening import open_index
from relsdk.index.store import Store
from relsdk.progress import Progress
from relsdk.search.opening import open_encoder

__all__ = ["add", "compact", "delete"]

# Ids that are looked up at a time.


@click.command(epilog="Example: relsdk index add docs.idx -i new.jsonl --replace")
@index_argument
@input_option
@document_options
@click.option(
    "--replace", is_flag=True, help="Replace documents that have the same ids; else that is an error."
)
@vectors_option
@click.option("--model", "-m", help="Bundle [default: the one the index was built with].")
@variant_option
@threads_option
@click.option(
    "--no-sync",
    is_flag=True,
    help="Do not wait for the disk; a power cut may cost the index until a later change has waited.",
)
@click.option("--compact", "compacts", is_flag=True, help="Then do as relsdk index compact.")
@json_option
def add(
    path: str,
    source: str,
    replace: bool,
    vectors: Path | None,
    model: str | None,
    variant: str,
    threads: int | None,
    no_sync: bool,
    compacts: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Encode documents and add them to INDEX, in one change: all of them or none.

    Into a vector store they go chunk by chunk: what was written before an error stays.
    """
    with open_index(path) as index:
        info = index.info()
        folder = vectors if vectors is not None and vectors.is_dir() else None
        given = None if vectors is None or folder else open_vectors(vectors, info.dimension)
        embedder = parts = None
        if model is not None or given is None:
            embedder = open_encoder(info, model, variant, threads)
            threads = embedder.threads
            parts = None if folder is None else open_parts(folder, embedder, source)
        if isinstance(index, Store):
            refuse_for_store(path, {"--no-sync": no_sync, "--compact": compacts})
            total = count_lines(source) if given is None else len(given)
            documents = typed_documents(source, reading)
            add_to_store(
                index, documents, parts or embedder, total, vectors=given, replace=replace, as_json=as_json
            )
            return
        started = time.perf_counter()
        index.refresh()
        before = index.stats()
        with Progress(count_lines(source) if given is None else len(given)) as progress:
            written = (index.upsert if replace else index.add)(
                typed_documents(source, reading),
                parts or embedder,
                vectors=given,
                num_threads=threads,
                on_progress=progress,
                sync=not no_sync,
            )
            after = index.stats()
            compacted = compacts and index.compact(num_threads=threads, on_progress=progress)
        stats = index.stats()
    replaced = _replaced(before, after, written) if replace else 0
    seconds = time.perf_counter() - started
    report = {"index": str(path), "added": written, "replaced": replaced, "documents": stats.count}
    if as_json:
        report |= {"segments": len(stats.segments), "dead": stats.dead, "compacted": compacted}
        echo_json({**report, "seconds": round(seconds, 3), "warnings": take_warnings()})
        return
    others = f" ({replaced:,} replaced)" if replace and replaced is not None else ""
    echo(f"{path}: {counted(written, 'document')} added{others}, {seconds:.1f} s; now {_describe(stats)}")
    echo_next("query", Path(path), '"..."')


def _replaced(before: IndexStats, after: IndexStats, written: int) -> int | None:
    """Return how many documents others took the place of; None where another writer was at work, too."""
    commits = int(after.generation.rpartition("-")[2]) - int(before.generation.rpartition("-")[2])
    return before.count + written - after.count if commits <= 1 else None


def _describe(stats: IndexStats) -> str:
    dead = f", {stats.dead:,} dead" if stats.dead else ""
    return f"{counted(stats.count, 'document')} in {counted(len(stats.segments), 'segment')}{dead}"


@click.command(epilog='Example: relsdk index delete docs.idx --where "year<2020" --dry-run')
@index_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--ids",
    "ids_file",
    metavar="FILE",
    help="Ids to delete, one a line (or .jsonl, .csv, .tsv, .parquet with a column of them).",
)
@click.option("--where", multiple=True, help=f"Instead of ids. {WHERE_HELP}")
@click.option("--dry-run", is_flag=True, help="Say how many would be deleted, and delete nothing.")
@json_option
def delete(
    path: str,
    ids: tuple[str, ...],
    ids_file: str | None,
    where: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete documents of INDEX, by id or by a filter, in one change.

    Ids that are not there are passed over and counted. What is deleted is found no more, and stays on the
    disk until relsdk index compact --full has been run twice.
    """
    if bool(ids or ids_file) == bool(where):
        raise InputError("give either ids (ID..., --ids FILE) or --where: which documents to delete")
    condition = parse_where(where)
    wanted = list(dict.fromkeys([*ids, *(read_ids(ids_file) if ids_file else ())]))
    with open_index(path) as index:
        if isinstance(index, Store):
            chosen = None if where else wanted
            delete_from_store(index, chosen, condition, dry_run=dry_run, as_json=as_json)
            return
        if dry_run:
            found = index.count(condition) if where else count_ids(index, wanted)
        else:
            found = index.delete(where=condition) if where else index.delete(wanted)
        stats = index.stats()
    among = len(wanted) if ids or ids_file else stats.count + (0 if dry_run else found)
    if as_json:
        report = {"index": str(path), "deleted": 0 if dry_run else found, "matching": found, "of": among}
        echo_json({**report, "documents": stats.count, "dead": stats.dead})
        return
    if where:
        matching = f"{found:,} of {counted(among, 'document')} {'matches' if among == 1 else 'match'}"
    else:
        matching = f"{found:,} of {counted(among, 'id')} {'is' if among == 1 else 'are'} in the index"
    done = "deleted" if found and not dry_run else "nothing was deleted"
    echo(f"{path}: {matching}: {done}; now {_describe(stats)}")
    if found and not dry_run:
        echo(f"on the disk they are until this has been run twice: relsdk index compact {shell(path)} --full")


@click.command(epilog="Example: relsdk index compact docs.idx --full")
@folder_argument
@click.option(
    "--full",
    is_flag=True,
    help="Merge all segments into one without the dead; run again, remove from the disk what was merged.",
)
@threads_option
@json_option
def compact(path: Path, full: bool, threads: int | None, as_json: bool) -> None:
    """Merge segments of INDEX: when there are more than three, or over a fifth of one is dead.

    Nothing is encoded again. INDEX answers, and takes changes, meanwhile. The generation before stays on the
    disk until the next change, or until --full is run again, for those who have it open.
    """
    started = time.perf_counter()
    with Index.open(path) as index:
        before = index.stats()
        with Progress(before.count if full else None) as progress:
            done = index.compact(full=full, num_threads=threads, on_progress=progress)
        after = index.stats()
    seconds = time.perf_counter() - started
    if as_json:
        sizes = {"before": _sizes(before), "after": _sizes(after)}
        echo_json({"index": str(path), "compacted": done, **sizes, "seconds": round(seconds, 3)})
    elif done and before.segments == after.segments:
        echo(f"{path}: removed from the disk what was merged before; now {_describe(after)}")
    elif done:
        rows = [("before", _sizes(before)), ("after", _sizes(after))]
        cells = [[name, *(f"{value:,}" for value in sizes.values())] for name, sizes in rows]
        echo_table(["", *_sizes(before)], cells, right=(1, 2, 3, 4))
        echo(f"{path}: compacted in {seconds:.1f} s")
        if full:
            echo("the generation before is on the disk until the next change, or until this is run again")
    else:
        merge = "" if full else "; --full merges all segments and leaves out the dead"
        echo(f"{path}: nothing to do with {_describe(before)}{merge}")


def _sizes(stats: IndexStats) -> dict[str, int]:
    return {
        "documents": stats.count,
        "segments": len(stats.segments),
        "dead": stats.dead,
        "bytes": stats.bytes,
    }
