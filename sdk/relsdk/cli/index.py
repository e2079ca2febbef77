"""`relsdk index`: build, info, verify.

`index_changes` holds add, delete and compact, `index_documents` list, get and export, `index_search` similar
and facets.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from relsdk.cli._index_input import count_lines, input_option, open_parts, open_vectors, vectors_option
from relsdk.cli._index_stores import build_in_store, show_store
from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.index_changes import add, compact, delete
from relsdk.cli.index_documents import export, get, list_documents
from relsdk.cli.index_search import facets, similar
from relsdk.cli.inputs import document_options, typed_documents
from relsdk.cli.options import (
    dim_option,
    folder_argument,
    index_argument,
    json_option,
    threads_option,
    variant_option,
)
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table
from relsdk.errors import IndexFolderError, InputError
from relsdk.index import Index, IndexConfig, verify_index
from relsdk.index.opening import open_index
from relsdk.index.store import Store
from relsdk.index.store_uri import is_store_uri
from relsdk.models.embedder import Embedder
from relsdk.progress import Progress

__all__ = ["index"]


@click.group()
def index() -> None:
    """Build, change, inspect, read and verify an index."""


@index.command(epilog="Example: relsdk index build docs.idx -m bundle -i docs.jsonl")
@index_argument
@click.option("--model", "-m", required=True, help="Bundle (folder) or Hugging Face id.")
@input_option
@document_options
@vectors_option
@click.option(
    "--chunk",
    "passage_characters",
    metavar="CHARACTERS",
    type=click.IntRange(min=1),
    help="Split texts into passages of at most so many characters, each with a vector; a hit is a document "
    "with its best passage [default: whole documents].",
)
@variant_option
@threads_option
@dim_option
@click.option(
    "--kind",
    type=click.Choice(["hnsw", "flat"]),
    default="hnsw",
    show_default=True,
    help="A graph, or exact search over all vectors.",
)
@click.option(
    "--int8", is_flag=True, help="Also keep 8-bit vectors: exact and filtered search reads a quarter."
)
@click.option("--no-lexical", is_flag=True, help="Do not index words: no --mode lexical or hybrid.")
@click.option(
    "--m", "m", type=int, default=IndexConfig.M, show_default=True, help="HNSW: links per document."
)
@click.option(
    "--ef-construction",
    type=int,
    default=IndexConfig.ef_construction,
    show_default=True,
    help="HNSW: effort of building; more finds more of the nearest documents.",
)
@click.option(
    "--ef-search",
    type=int,
    default=IndexConfig.ef_search,
    show_default=True,
    help="HNSW: usual effort of a search; relsdk query --ef-search changes it.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["error", "last"]),
    default="error",
    show_default=True,
    help="When an id occurs again: stop, or keep the last document.",
)
@click.option("--overwrite", is_flag=True, help="Replace an index that is there.")
@json_option
def build(
    path: str,
    model: str,
    source: str,
    vectors: Path | None,
    passage_characters: int | None,
    variant: str,
    threads: int | None,
    truncate_dim: int | None,
    kind: str,
    int8: bool,
    no_lexical: bool,
    m: int,
    ef_construction: int,
    ef_search: int,
    on_duplicate: str,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Encode documents and build INDEX, a folder or a collection of a vector store."""
    config = IndexConfig(
        kind=kind,
        M=m,
        ef_construction=ef_construction,
        ef_search=ef_search,
        int8=int8,
        passage_characters=passage_characters or 0,
    )
    embedder = Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
    parts, given = None, None
    if vectors is not None and vectors.is_dir():
        if passage_characters:
            raise InputError("--vectors has one vector a document; leave out --chunk, or the vectors")
        parts = open_parts(vectors, embedder, source)
    elif vectors is not None:
        given = open_vectors(vectors, embedder.dimension)
    if is_store_uri(path):
        build_in_store(
            path,
            typed_documents(source, reading),
            parts or embedder,
            config,
            count_lines(source) if given is None else len(given),
            vectors=given,
            overwrite=overwrite,
            on_duplicate=on_duplicate,
            as_json=as_json,
        )
        return
    started = time.perf_counter()
    with Progress(count_lines(source) if given is None else len(given)) as progress:
        built = Index.build(
            path,
            typed_documents(source, reading),
            parts or embedder,
            vectors=given,
            config=config,
            lexical=not no_lexical,
            overwrite=overwrite,
            on_duplicate=on_duplicate,
            num_threads=embedder.threads,
            on_progress=progress,
        )
    with built:
        info = built.info()
        vectors_written = sum(segment.vectors for segment in built.stats().segments)
    seconds = time.perf_counter() - started
    if embedder.truncated_count and not passage_characters:
        long = counted(embedder.truncated_count, "text")
        limit = embedder.max_tokens  # a passage of as many characters has seldom more tokens
        warn(
            f"{long} longer than the {limit} tokens that the model reads; --chunk {min(400, limit)} splits "
            "texts, not titles, into passages"
        )
    if as_json:
        echo_json({**_plain(asdict(info)), "seconds": round(seconds, 3), "warnings": take_warnings()})
    else:
        passages = f" in {counted(vectors_written, 'passage')}" if passage_characters else ""
        size = f"{counted(info.count, 'document')}{passages}, {info.dimension} dimensions"
        echo(f"{path}: {size}, {info.kind}, {seconds:.1f} s")
        echo_next("query", Path(path), '"..."')


@index.command(epilog="Example: relsdk index info docs.idx --json")
@index_argument
@json_option
def info(path: str, as_json: bool) -> None:
    """Show what INDEX holds, and the segments that it consists of."""
    with open_index(path) as opened:
        if isinstance(opened, Store):
            show_store(opened, as_json)
            return
        content, stats = _plain(asdict(opened.info())), asdict(opened.stats())
    if as_json:
        echo_json({**content, **stats})
        return
    shown = {**content, **stats}
    config, segments = shown.pop("config"), shown.pop("segments")
    del shown["files"]  # a segment's row has their bytes
    shown["changed"] = shown.pop("created")
    words, fitted = shown.pop("analyser"), shown.pop("hybrid")
    shown["words"] = words or "none: no --mode lexical or hybrid"
    if words:
        shown["hybrid"] = ", ".join(fitted) or "not fitted; run: relsdk calibrate BUNDLE PAIRS --index INDEX"
    shown["config"] = ", ".join(f"{name}={value}" for name, value in config.items())
    echo_table(["field", "value"], [[name, _cell(value)] for name, value in shown.items()])
    if segments:
        echo()
        echo_table(
            list(segments[0]),
            [[_cell(value) for value in one.values()] for one in segments],
            right=(1, 2, 3, 5),
        )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


@index.command(epilog="Example: relsdk index verify docs.idx")
@folder_argument
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check INDEX: hashes, counts, vectors, graph. Exit code 2 when a check fails."""
    report = verify_index(path)
    if as_json:
        echo_json(_plain(asdict(report)))
    else:
        rows = [["ok" if check.ok else "FAILED", check.name, check.detail] for check in report.checks]
        echo_table(["result", "check", "detail"], rows)
    failed = [check.name for check in report.checks if not check.ok]
    if failed:
        raise IndexFolderError(f"{path} failed: {', '.join(failed)}; build it again with --overwrite")


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in content.items()}


for command in (add, delete, compact, list_documents, get, export, similar, facets):
    index.add_command(command)
