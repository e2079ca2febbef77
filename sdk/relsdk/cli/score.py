"""`relsdk score`: grade pairs."""

from __future__ import annotations

from typing import Any

import click

from relsdk.cli.inputs import input_options
from relsdk.cli.options import threads_option, variant_option
from relsdk.cli.output import clip, echo_json, echo_table, relevance_cells, relevance_to_dict
from relsdk.errors import InputError
from relsdk.formats import read_unlabelled_pairs
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document

__all__ = ["score"]


@click.command(epilog='Example: relsdk score scorer "红烧肉怎么做" "红烧肉的家常做法"')
@click.argument("model", metavar="MODEL")
@click.argument("query", metavar="[QUERY]", required=False)
@click.argument("document", metavar="[DOCUMENT]", required=False)
@click.option("--input", "-i", "source", help="File of pairs (query, title, text) instead of QUERY DOCUMENT.")
@input_options
@variant_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a pair.")
def score(
    model: str,
    query: str | None,
    document: str | None,
    source: str | None,
    variant: str,
    threads: int | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Grade a QUERY and a DOCUMENT, or the pairs of a file."""
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
