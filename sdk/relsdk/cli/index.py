"""`relsdk index`: build, info, verify; list, export and get are in `index_documents`."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from relsdk.cli.index_documents import export, get, list_documents
from relsdk.cli.inputs import document_options, typed_documents
from relsdk.cli.options import dim_option, json_option, threads_option, variant_option
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table
from relsdk.errors import IndexFolderError
from relsdk.index import Index, IndexConfig, verify_index
from relsdk.models.embedder import Embedder
from relsdk.progress import Progress

__all__ = ["index"]


@click.group()
def index() -> None:
    """Build, inspect, read and verify an index."""


for command in (list_documents, get, export):
    index.add_command(command)


@index.command(epilog="Example: relsdk index build docs.idx -m bundle -i docs.jsonl")
@click.argument("path", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--model", "-m", required=True, help="Bundle (folder) or Hugging Face id.")
@click.option(
    "--input", "-i", "source", required=True, help="Documents: .jsonl, .csv, .tsv, .parquet (or .gz)."
)
@document_options
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
    path: Path,
    model: str,
    source: str,
    variant: str,
    threads: int | None,
    truncate_dim: int | None,
    kind: str,
    m: int,
    ef_construction: int,
    ef_search: int,
    on_duplicate: str,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Encode documents and build INDEX."""
    config = IndexConfig(kind=kind, M=m, ef_construction=ef_construction, ef_search=ef_search)
    embedder = Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
    started = time.perf_counter()
    with Progress(_count_lines(source)) as progress:
        built = Index.build(
            path,
            typed_documents(source, reading),
            embedder,
            config=config,
            overwrite=overwrite,
            on_duplicate=on_duplicate,
            num_threads=embedder.threads,
            on_progress=progress,
        )
    with built:
        info = built.info()
    seconds = time.perf_counter() - started
    if as_json:
        echo_json({**_plain(asdict(info)), "seconds": round(seconds, 3)})
    else:
        size = f"{counted(info.count, 'document')}, {info.dimension} dimensions"
        echo(f"{path}: {size}, {info.kind}, {seconds:.1f} s")
        echo_next("query", path, '"..."')


@index.command(epilog="Example: relsdk index info docs.idx --json")
@click.argument("path", metavar="INDEX", type=click.Path(path_type=Path))
@json_option
def info(path: Path, as_json: bool) -> None:
    """Show what INDEX holds."""
    with Index.open(path) as opened:
        content = _plain(asdict(opened.info()))
    if as_json:
        echo_json(content)
    else:
        echo_table(["field", "value"], [[name, str(value)] for name, value in content.items()])


@index.command(epilog="Example: relsdk index verify docs.idx")
@click.argument("path", metavar="INDEX", type=click.Path(path_type=Path))
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


def _plain(content: dict[str, object]) -> dict[str, object]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in content.items()}


def _count_lines(source: str) -> int | None:
    """Return the lines of a file of JSON lines, for a progress line; None where counting is not cheap."""
    if not source.endswith(".jsonl") or not os.path.isfile(source):
        return None
    try:
        with open(source, "rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except OSError:
        return None  # who reads it says why
