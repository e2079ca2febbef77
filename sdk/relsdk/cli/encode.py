"""`relsdk encode`: texts to a .npy file, or to a folder of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from relsdk.cli._parts import (
    echo_summary,
    parts_progress,
    ray_option,
    refuse_file_name,
    refuse_workers,
    workers_option,
)
from relsdk.cli.inputs import input_options
from relsdk.cli.options import dim_option, json_option, threads_option, variant_option
from relsdk.cli.output import echo, echo_json
from relsdk.errors import InputError, RelsdkError
from relsdk.files.atomic import output_file
from relsdk.files.folders import check_file_target
from relsdk.formats import read_documents, read_queries
from relsdk.models.embedder import Embedder
from relsdk.models.pooling import Precision
from relsdk.shards import encode_shards, open_runner

__all__ = ["encode"]


@click.command(epilog="Example: relsdk encode bundle queries.txt queries.npy --as query")
@click.argument("model", metavar="MODEL")
@click.argument("source", metavar="INPUT")
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "kind",
    type=click.Choice(["query", "document"]),
    help="What the texts are: which prompt, and which tower, encodes them [default: query; a folder needs "
    "one of them].",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "ubinary"]),
    default="float32",
    show_default=True,
    help="Of the numbers in OUTPUT.npy: int8 is a quarter of the size, ubinary (signs, 8 to a byte) a 32nd.",
)
@input_options
@dim_option
@variant_option
@threads_option
@workers_option
@ray_option
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT.npy; remove parts of another input or model.")
@json_option
def encode(
    model: str,
    source: str,
    output: Path,
    kind: str | None,
    precision: Precision,
    truncate_dim: int | None,
    variant: str,
    threads: int | None,
    workers: int | None,
    ray: str | None,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Encode the queries or documents of INPUT into OUTPUT: a file that ends in .npy, or a folder.

    Row n of OUTPUT.npy is line n. In CSV, Parquet and JSON arrays it is record n. A blank line between others
    is an error; with --skip-empty it is left out, and so is a row without a text: then row n is the n-th that
    is left.

    A folder gets parts (Parquet with ids and vectors), and any number of workers makes the same ones. When
    the command was stopped, the same command goes on with what is missing.
    """
    if not _is_file(output):
        if precision != "float32":
            raise InputError(f"--precision {precision} is for OUTPUT.npy; a folder gets float32 vectors")
        refuse_file_name(output)
        if kind is None:
            raise InputError("say what the rows are: --as document, which an index takes, or --as query")
        with parts_progress() as progress:
            filled = encode_shards(
                model,
                source,
                output,
                "query" if kind == "query" else "document",
                runner=open_runner(workers, ray),
                variant=variant,
                threads=threads,
                truncate_dim=truncate_dim,
                reading=reading,
                overwrite=overwrite,
                on_progress=progress,
            )
        echo_summary(filled, as_json)
        return
    refuse_workers(workers, ray, "name a folder as OUTPUT, not an .npy file")
    check_file_target(output, overwrite=overwrite)
    row_is_line = not reading["skip_empty"]
    if kind != "document":
        texts = [item.text for item in read_queries(source, row_is_line=row_is_line, **reading)]
    else:
        documents = list(read_documents(source, row_is_line=row_is_line, **reading))
    embedder = Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
    vectors: NDArray[Any]
    if kind != "document":
        vectors = embedder.encode_query(texts, precision=precision, show_progress_bar=True)
    else:
        vectors = embedder.encode_document(documents, precision=precision, show_progress_bar=True)
    try:
        with output_file(output) as stream:
            np.save(stream, vectors, allow_pickle=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RelsdkError(f"cannot write {output}: {error.strerror or error}") from error
    summary = {
        "output": str(output),
        "shape": list(vectors.shape),
        "dtype": str(vectors.dtype),
        "truncated": embedder.truncated_count,
    }
    if as_json:
        echo_json(summary)
    else:
        echo(f"{output}: {vectors.shape[0]:,} x {vectors.shape[1]} {vectors.dtype}")


def _is_file(output: Path) -> bool:
    """Whether the result is an NPY file: by its name, or because a pipe or a device is there."""
    try:
        special = output.exists() and not output.is_dir() and not output.is_file()
    except (OSError, ValueError):  # who writes it says why
        special = False
    return special or output.suffix.lower() == ".npy"
