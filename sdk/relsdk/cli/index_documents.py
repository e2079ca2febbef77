"""`relsdk index list | get | export`: the documents of an index, and their vectors."""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from relsdk.cli.options import JSON_LINES, folder_argument, index_argument, json_option
from relsdk.cli.output import clip, counted, echo, echo_json, echo_table
from relsdk.errors import InputError, RelsdkError
from relsdk.files.atomic import output_file
from relsdk.files.folders import check_file_target
from relsdk.formats import write_documents
from relsdk.index import Index
from relsdk.index.filter_text import WHERE_HELP, parse_where
from relsdk.index.opening import open_index
from relsdk.index.store import Store
from relsdk.records import Document

__all__ = ["export", "get", "list_documents"]

_BLOCK = 4096  # vectors that are copied at a time


@click.command("list", epilog='Example: relsdk index list docs.idx --where "duration<60" --limit 10')
@folder_argument
@click.option("--where", multiple=True, help=WHERE_HELP)
@click.option("--limit", "-n", type=click.IntRange(min=1), help="List so many at most [default: all].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_documents(path: Path, where: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """List the ids and titles of INDEX, in the order in which they were added.

    A document without a title is shown by how its text begins.
    """
    condition = parse_where(where)
    document = None
    with Index.open(path) as index:
        for document in islice(index.documents(condition), limit and min(limit, sys.maxsize)):
            if as_json:
                echo_json({"id": document.id, "title": document.title})
            else:
                id_ = document.id.replace("\n", "\\n").replace("\t", "\\t")  # one line, one tab
                echo(f"{id_}\t{' '.join(document.title.split()) or clip(document.text, 30)}")
        if document is None:
            echo(f"0 of {counted(len(index), 'document')} match", err=True)


@click.command(epilog="Example: relsdk index get docs.idx v1 v2 --json")
@index_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a document.")
def get(path: str, ids: tuple[str, ...], as_json: bool) -> None:
    """Show the documents of INDEX that have these ids. Exit code 2 when one is not there."""
    with open_index(path) as index:
        try:
            documents, missing = index.get(ids), None
        except InputError as error:
            documents, missing = [one for id_ in ids for one in _get_one(index, id_)], error
    for number, document in enumerate(documents):
        fields = {"title": document.title, "text": document.text}
        if as_json:
            echo_json({"id": document.id, **fields, "metadata": dict(document.metadata)})
        else:
            if number:
                echo()
            rows = {"id": document.id, **fields}
            rows |= {f"metadata.{k}" if k in rows else k: value for k, value in document.metadata.items()}
            echo_table(["field", "value"], [[name, _on_one_line(value)] for name, value in rows.items()])
    if missing is not None:
        raise missing


def _get_one(index: Index | Store, id_: str) -> list[Document]:
    try:
        return index.get([id_])
    except InputError:
        return []


def _on_one_line(value: object) -> str:
    """Return a value on one line: text as it is, everything else as JSON."""
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())


@click.command(epilog="Example: relsdk index export docs.idx docs.jsonl")
@folder_argument
@click.argument("output", metavar="OUTPUT.jsonl", type=click.Path(path_type=Path))
@click.option("--where", multiple=True, help=WHERE_HELP)
@click.option(
    "--vectors",
    metavar="FILE.npy",
    type=click.Path(path_type=Path),
    help="Write their vectors, too: row n of FILE.npy is line n of OUTPUT.jsonl.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@json_option
def export(
    path: Path, output: Path, where: tuple[str, ...], vectors: Path | None, overwrite: bool, as_json: bool
) -> None:
    """Write the documents of INDEX as JSON lines that `index build` reads; .gz compresses them."""
    check_file_target(output, overwrite=overwrite, endings=JSON_LINES)
    if vectors is not None:
        check_file_target(vectors, overwrite=overwrite, endings=(".npy",))
        if os.path.realpath(vectors) == os.path.realpath(output):
            raise InputError(f"documents and vectors cannot both go to {output}; name another --vectors")
    condition = parse_where(where)
    with Index.open(path) as index:
        if vectors is not None:
            _write_vectors(vectors, index.vectors, index.rows(condition))
        count = write_documents(output, index.documents(condition))
        total = len(index)
    report = {"output": str(output), "documents": count, "vectors": None if vectors is None else str(vectors)}
    if as_json:
        echo_json(report)
    else:
        # Where the output is stdout, nothing else belongs there.
        some = counted(count, "document") if count else f"0 of {counted(total, 'document')} match"
        beside = "" if vectors is None else f", their vectors in {vectors}"
        echo(f"{output}: {some}{beside}", err=not output.is_file())


def _write_vectors(target: Path, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """Write rows of (N, D) vectors block by block."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), vectors.shape[1])}
    try:
        with output_file(target) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(rows), _BLOCK):
                stream.write(vectors[rows[start : start + _BLOCK]].tobytes())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RelsdkError(f"cannot write {target}: {error.strerror or error}") from error
