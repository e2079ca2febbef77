"""`relsdk query`: search an index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from relsdk.cli._cells import cells_left, cut, width
from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.inputs import input_options
from relsdk.cli.options import index_argument, threads_option, variant_option
from relsdk.cli.output import (
    clip,
    counted,
    echo,
    echo_json,
    echo_table,
    hit_to_dict,
    printable,
    relevance_cells,
    rounded,
)
from relsdk.errors import CalibrationError, InputError
from relsdk.formats import Query, read_queries, run_lines
from relsdk.index import MODES, Mode
from relsdk.index.field_values import check_sort
from relsdk.index.filter_parser import parse_field
from relsdk.index.filter_text import WHERE_HELP, parse_where
from relsdk.records import Document, Hit, Promise, SearchResult
from relsdk.search.opening import open_searcher
from relsdk.search.searcher import Searcher

__all__ = ["echo_hits", "query"]

_BAR = "█3 ▓2 ▒1 ░0"
_ID_CELLS, _FIELD_CELLS = 32, 24  # at most
_TITLE_CELLS = 20  # at least, before the bar is left out


@click.command(epilog='Example: relsdk query docs.idx "红烧肉怎么做" --min-level 2 --where "duration<60"')
@index_argument
@click.argument("text", metavar="[QUERY]", required=False)
@click.option("--input", "-i", "source", help="File of queries, one a line (or .jsonl) instead of QUERY.")
@input_options
@click.option("-k", type=int, default=10, show_default=True, help="Hits per query.")
@click.option("--offset", type=int, default=0, show_default=True, help="Leave out so many hits first.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="dense",
    show_default=True,
    help="Find by meaning, by words, or by both.",
)
@click.option("--min-level", type=int, help="Leave out hits below this level (0-3).")
@click.option("--min-score", type=float, help="Leave out hits below this score.")
@click.option(
    "--min-confidence",
    type=float,
    metavar="SHARE",
    help="Leave out hits that are less probably of --min-level (of level 2 without one) or above: 0 to 1.",
)
@click.option(
    "--min-precision",
    type=float,
    metavar="SHARE",
    help="Keep the hits of which this share is promised to be of --min-level (of level 2 without one) or "
    "above; see relsdk calibrate --target-precision.",
)
@click.option("--where", multiple=True, help=WHERE_HELP)
@click.option(
    "--sort", help="Order the most relevant hits by this field; -FIELD falls. Use it with --min-level."
)
@click.option("--group-by", metavar="FIELD", help="Keep one hit of those with the same value in FIELD.")
@click.option("--ef-search", type=int, help="Search effort of the graph [default: the index's own].")
@click.option("--budget-ms", type=float, help="With --scorer: re-score what fits into so many milliseconds.")
@click.option("--model", "-m", help="Bundle [default: the one the index was built with].")
@click.option("--scorer", help="Bundle that re-scores and grades the top candidates.")
@variant_option
@threads_option
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "json", "trec"]),
    default="table",
    show_default=True,
    help="json: one object a query. trec: a run file, for relsdk eval --run.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def query(
    path: str,
    text: str | None,
    source: str | None,
    k: int,
    offset: int,
    mode: Mode,
    min_level: int | None,
    min_score: float | None,
    min_confidence: float | None,
    min_precision: float | None,
    where: tuple[str, ...],
    sort: str | None,
    group_by: str | None,
    ef_search: int | None,
    budget_ms: float | None,
    model: str | None,
    scorer: str | None,
    variant: str,
    threads: int | None,
    layout: str,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Search INDEX for QUERY."""
    layout = _check_layout(layout, as_json, sort=sort, budget_ms=budget_ms, scorer=scorer)
    if (text is None) == (source is None):
        raise InputError("give either a QUERY or --input FILE")
    condition = parse_where(where)
    queries = [Query("1", text)] if text is not None else list(read_queries(source or "", **reading))
    searcher = open_searcher(path, model, variant, threads, scorer)
    searcher.warmup()
    # Fields of metadata that decide which hits there are, each once.
    fields = list(dict.fromkeys(name for name in (sort and check_sort(sort)[0], group_by) if name))
    fields = [name for name in fields if parse_field(name).column is None]
    lacking: dict[str, None] = {}  # what is said once of all queries
    for one in queries:
        hits = searcher.search(
            one.text,
            k,
            offset=offset,
            mode=mode,
            min_level=min_level,
            min_score=min_score,
            min_confidence=min_confidence,
            min_precision=min_precision,
            where=condition,
            sort=sort,
            group_by=group_by,
            ef_search=ef_search,
            budget_ms=budget_ms,
        )
        lacks = _lacking(path, searcher, mode, hits, layout)
        lacking |= dict.fromkeys(lacks)
        if layout == "trec":
            _echo_run(one, hits)
        elif layout == "json":
            number = None if source is None else one.id
            _echo_answer({"id": number, "query": one.text}, hits, lacks, scored=scorer is not None)
        else:
            name = "" if source is None else f"{one.id}  "
            if one is not queries[0]:
                echo()
            echo(f"{name}{one.text}  ({_summary(hits, bool(where), min_level)})", bold=True)
            echo_hits(hits, offset=offset, fields=fields)
            for told in hits.warnings:
                warn(told)
    for told in lacking:
        warn(told)


def _check_layout(
    layout: str, as_json: bool, *, sort: str | None, budget_ms: float | None, scorer: str | None
) -> str:
    """Return how hits are printed; refuse options that do not go together."""
    if as_json and layout == "trec":
        raise InputError("--json and --format trec were given; choose one")
    if layout == "trec" and budget_ms is not None:
        raise InputError(
            "--format trec orders by one score, and --budget-ms gives two kinds of scores; leave one out"
        )
    if layout == "trec" and sort is not None:
        raise InputError("--format trec orders by score, not by a field; leave out --sort")
    if budget_ms is not None and scorer is None:
        raise InputError("--budget-ms limits re-scoring, and no --scorer is given; give one, or leave it out")
    return "json" if as_json else layout


def _echo_answer(asked: Mapping[str, Any], hits: SearchResult, lacks: Sequence[str], *, scored: bool) -> None:
    """Print the hits of a query as one JSON object."""
    counts = {"scored": hits.scored, "skipped": hits.skipped} if scored else {}
    answer = {**asked, "milliseconds": round(hits.elapsed_ms, 3), "matching": hits.matching, **counts}
    answer |= {"order": hits.order, "scanned": hits.scanned}
    answer |= {"nothing_relevant": rounded(hits.nothing_relevant), "outside": hits.outside}
    answer |= {"promise": hits.promise and hits.promise.to_dict()}
    answer |= {"warnings": [*take_warnings(), *hits.warnings, *lacks]}
    echo_json({**answer, "hits": [hit_to_dict(hit) for hit in hits]})


def _echo_run(query: Query, hits: SearchResult) -> None:
    for line in run_lines({query.id: {hit.document.id: hit.score for hit in hits}}):
        if printable(line) != line:
            raise InputError(f"an id of {line!r} holds a control character; a run file cannot")
        echo(line)
    if hits.promise is not None:
        for told in hits.warnings:
            warn(f"{query.id}: {told}")


def _lacking(path: str, searcher: Searcher, mode: Mode, hits: SearchResult, layout: str) -> list[str]:
    """Say what was not calibrated: the order of a hybrid search, levels (a run has none)."""
    lacks: list[str] = []
    embedder = searcher.embedder
    if mode == "hybrid" and hits.order == "cosine":
        # The model of the index has promises of its own: those of the bundle do not hold any more then.
        promised = Promise.calibrate_options(searcher.promises(mode))
        lacks.append(
            f"hits are in the order of the cosine: {path} has no model of meaning and words for "
            f"{embedder.variant.name}; run: relsdk calibrate BUNDLE PAIRS --index {path} {promised}".rstrip()
        )
    if layout != "trec" and any(hit.relevance is None for hit in hits):
        try:
            _ = embedder.calibration
        except CalibrationError as error:
            lacks.append(str(error))
    return lacks


def _summary(hits: SearchResult, filtered: bool, min_level: int | None) -> str:
    left = ""
    if filtered and hits.matching is not None:
        left = f" among the {counted(hits.matching, 'document')} that the filter leaves"
    skipped = f", {hits.skipped} of {hits.candidates} candidates not scored" if hits.skipped else ""
    level = f" of level {min_level} or above" if min_level else ""
    if promise := hits.promise:  # which keeps hits by P(level >= k), whatever their most probable level
        above = f"P(level >= {promise.level}) >= {promise.threshold:.4f}"
        level = (
            f" with {above}, without a promise for this query"
            if hits.outside
            else f" promised to be {100 * promise.precision:g}% of level {promise.level} or above, with "
            f"confidence {promise.confidence:g}: {above}"
        )
    none = hits.nothing_relevant
    verdict = "" if none is None or none < 0.5 else f", nothing relevant (p = {none:.2f})"
    return f"{counted(len(hits), 'hit')}{level}{left}, {hits.elapsed_ms:.1f} ms{skipped}{verdict}"


def echo_hits(
    hits: list[Hit], truth: Sequence[int] = (), *, offset: int = 0, fields: Sequence[str] = ()
) -> None:
    """Print hits as a table: rank, score, level, probabilities, id, fields, title.

    Where the true levels are known they stand beside the levels, and ids are left out. The bar is left out
    where the title would have no room. The passage that was found stands below its hit.

    Args:
        hits: What to print.
        truth: The true levels, one a hit.
        offset: Hits that were left out before the first.
        fields: Of the metadata, each a column: what hits were sorted or grouped by.
    """
    if not hits:
        return
    relevances = [relevance_cells(hit.relevance) for hit in hits]
    columns = {
        "#": [str(number) for number in range(offset + 1, offset + 1 + len(hits))],
        "score": [f"{hit.score:.3f}" for hit in hits],
        "level": [level for level, _, _ in relevances],
        **({"true": [str(int(level)) for level in truth]} if truth else {}),
        _BAR: [bar for _, bar, _ in relevances],
        "P(0)  P(1) P(2) P(3)": [numbers for _, _, numbers in relevances],
        **({} if truth else {"id": [cut(printable(hit.document.id), _ID_CELLS) for hit in hits]}),
    }
    for name in fields:
        header = f"metadata.{name}" if name in columns else name
        columns[header] = [_field_cell(hit.document, name) for hit in hits]
    if cells_left(_used(columns)) < _TITLE_CELLS:
        del columns[_BAR]
    titles = [hit.document.title for hit in hits]
    texts = [hit.document.text if hit.passage is None else hit.passage.text for hit in hits]
    first = [title if title.strip() else text for title, text in zip(titles, texts, strict=True)]
    columns["title"] = [clip(text, _used(columns)) for text in first]
    below = [
        text if hit.passage is not None and title.strip() else ""
        for hit, title, text in zip(hits, titles, texts, strict=True)
    ]
    echo_table(list(columns), list(zip(*columns.values(), strict=True)), right=(0, 1), below=below)


def _used(columns: Mapping[str, Sequence[str]]) -> int:
    """Return the cells that columns take, with the two after each."""
    return sum(2 + max(map(width, [name, *cells])) for name, cells in columns.items())


def _field_cell(document: Document, name: str) -> str:
    value = parse_field(name).of(document)
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cut(printable(" ".join(text.split())), _FIELD_CELLS)
