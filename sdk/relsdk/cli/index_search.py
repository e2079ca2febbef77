"""`relsdk index similar | facets`: documents like another, and the values of a field."""

from __future__ import annotations

from pathlib import Path

import click

from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.options import folder_argument, json_option
from relsdk.cli.output import clip, counted, echo, echo_json, echo_table, hit_to_dict
from relsdk.index import Index
from relsdk.index.filter_text import WHERE_HELP, parse_where

__all__ = ["facets", "similar"]


@click.command(epilog="Example: relsdk index similar docs.idx v1 -k 5")
@folder_argument
@click.argument("id_", metavar="ID")
@click.option("-k", type=int, default=10, show_default=True, help="Hits.")
@click.option("--where", multiple=True, help=WHERE_HELP)
@json_option
def similar(path: Path, id_: str, k: int, where: tuple[str, ...], as_json: bool) -> None:
    """Show the documents of INDEX that are most like the one with ID; no model is needed."""
    with Index.open(path) as index:
        hits = index.similar(id_, k, where=parse_where(where))
    if as_json:
        echo_json({"id": id_, "hits": [hit_to_dict(hit) for hit in hits]})
        return
    rows = []
    for number, hit in enumerate(hits, start=1):
        text = clip(hit.document.title or hit.document.text, 40)
        rows.append([str(number), f"{hit.score:.3f}", hit.document.id, text])
    echo_table(["#", "cosine", "id", "title"], rows, right=(0, 1))


@click.command(epilog='Example: relsdk index facets docs.idx author --where "duration<60" --limit 10')
@folder_argument
@click.argument("field", metavar="FIELD")
@click.option("--where", multiple=True, help=WHERE_HELP)
@click.option("--limit", "-n", type=click.IntRange(min=1), help="Show so many values [default: all].")
@json_option
def facets(path: Path, field: str, where: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """Count the values of FIELD in INDEX, the most frequent first."""
    with Index.open(path) as index:
        found = index.facets(field, parse_where(where))
    shown = found[:limit]
    if not found:
        warn(f"no document that may count has text, a number, true or false in {field!r}")
    if as_json:
        values = [{"value": value, "count": count} for value, count in shown]
        echo_json({"field": field, "distinct": len(found), "values": values, "warnings": take_warnings()})
        return
    if not found:
        return
    echo_table(["documents", field], [[f"{count:,}", _shown(value)] for value, count in shown], right=(0,))
    if len(shown) < len(found):
        echo(f"{counted(len(found) - len(shown), 'further value')}; show more with --limit", err=True)


def _shown(value: str | float | bool) -> str:
    return clip(value, 20) if isinstance(value, str) else str(value).lower()
