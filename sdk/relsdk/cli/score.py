"""`relsdk score`: grade pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relsdk.cli._parts import (
    echo_summary,
    parts_progress,
    ray_option,
    refuse_file_name,
    refuse_workers,
    workers_option,
)
from relsdk.cli.inputs import input_options
from relsdk.cli.options import threads_option, variant_option
from relsdk.cli.output import clip, echo_json, echo_table, relevance_cells, relevance_to_dict
from relsdk.errors import InputError
from relsdk.formats import read_unlabelled_pairs
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document
from relsdk.shards import open_runner, score_shards

__all__ = ["score"]


@click.command(epilog='Example: relsdk score scorer "红烧肉怎么做" "红烧肉的家常做法"')
@click.argument("model", metavar="MODEL")
@click.argument("query", metavar="[QUERY]", required=False)
@click.argument("document", metavar="[DOCUMENT]", required=False)
@click.option("--input", "-i", "source", help="File of pairs (query, title, text) instead of QUERY DOCUMENT.")
@click.option(
    "--output",
    "-o",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write parts (Parquet with query, id, score, level and p0 to p3) of the pairs of --input there.",
)
@input_options
@variant_option
@threads_option
@workers_option
@ray_option
@click.option("--overwrite", is_flag=True, help="Remove parts of another input or model from FOLDER.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a pair; of FOLDER, what is in it."
)
def score(
    model: str,
    query: str | None,
    document: str | None,
    source: str | None,
    output: Path | None,
    variant: str,
    threads: int | None,
    workers: int | None,
    ray: str | None,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Grade a QUERY and a DOCUMENT, or the pairs of a file.

    With --output the grades go into a folder of parts, and any number of workers makes the same ones. When
    the command was stopped, the same command goes on with what is missing.
    """
    if output is not None:
        if source is None or query is not None:
            raise InputError("--output is for the pairs of --input FILE")
        refuse_file_name(output)
        with parts_progress() as progress:
            filled = score_shards(
                model,
                source,
                output,
                runner=open_runner(workers, ray),
                variant=variant,
                threads=threads,
                reading=reading,
                overwrite=overwrite,
                on_progress=progress,
            )
        echo_summary(filled, as_json)
        return
    refuse_workers(workers, ray, "name one with --output")
    pairs: list[tuple[str, Document]]
    if source is not None and query is None:
        pairs = list(read_unlabelled_pairs(source, **reading))
    elif source is None and query is not None and document is not None:
        pairs = [(query, Document(id="", text=document))]
    else:
        raise InputError("give either QUERY and DOCUMENT or --input FILE")
    predictions = RelevanceScorer(model, variant=variant, threads=threads).predict(
        pairs, show_progress_bar=bool(source)
    )
    rows = []
    for row, (text, item) in enumerate(pairs):
        relevance = predictions[row]
        if as_json:
            content = {"query": text, "id": item.id, "score": round(relevance.score, 6)}
            echo_json({**content, **relevance_to_dict(relevance)})
        else:
            level, bar, numbers = relevance_cells(relevance)
            title = clip(item.title or item.text, 90)
            rows.append([f"{relevance.score:.3f}", level, bar, numbers, clip(text, 90), title])
    if rows:
        header = ["score", "level", "█3 ▓2 ▒1 ░0", "P(0)  P(1) P(2) P(3)", "query", "document"]
        echo_table(header, rows, right=(0,))
