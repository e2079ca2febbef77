"""`relsdk label`: which pairs to label next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.inputs import input_options
from relsdk.cli.options import JSON_LINES, index_argument, json_option, threads_option, variant_option
from relsdk.cli.output import counted, echo, echo_json, echo_next
from relsdk.files.folders import check_file_target
from relsdk.formats import read_queries, read_unlabelled_pairs, write_unlabelled_pairs
from relsdk.search.opening import open_searcher
from relsdk.tools.label_suggestions import Suggestion, suggest_pairs

__all__ = ["label"]

# What `relsdk calibrate` needs.
_LEAST_QUERIES = 5


@click.group()
def label() -> None:
    """Choose which pairs to label next."""


@label.command(epilog="Example: relsdk label suggest docs.idx queries.txt -n 200 --output pairs.jsonl")
@index_argument
@click.argument("queries", metavar="QUERIES")
@click.option("-n", "count", type=click.IntRange(min=1), default=200, show_default=True, help="Pairs.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="JSON lines, with null for labels."
)
@click.option("--labelled", metavar="PAIRS", help="Leave out these pairs, which have labels already.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides between equals."
)
@click.option("--model", "-m", help="Bundle [default: the one the index was built with].")
@variant_option
@threads_option
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@input_options
@json_option
def suggest(
    path: str,
    queries: str,
    count: int,
    output: Path,
    labelled: str | None,
    seed: int,
    model: str | None,
    variant: str,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Choose pairs of QUERIES and their hits in INDEX to label.

    They are hits that the model is unsure of, spread over its levels (without a calibration over the cosine)
    and over the queries, at most three of each, or more where that does not reach -n. Put a level, 0 to 3, in
    place of null: relsdk calibrate, relsdk eval and relsdk train then read the file; relsdk judge fills it by
    a language model.

    The pairs are no sample of your traffic: shares among them (accuracy, calibration error, the precision of
    a threshold) are not those that people see, and a promised precision needs pairs drawn at random. In each
    row, weight is how many hits the pair stands for.
    """
    check_file_target(output, overwrite=overwrite, endings=JSON_LINES)
    searched = [query.text for query in read_queries(queries, **reading)]
    known = [] if labelled is None else list(read_unlabelled_pairs(labelled, **reading))
    searcher = open_searcher(path, model, variant, threads)
    chosen = suggest_pairs(searcher, searched, count, labelled=known, seed=seed)
    write_unlabelled_pairs(
        output, [(one.query, one.document) for one in chosen], [one.weight for one in chosen]
    )
    strata = dict(sorted(Counter(one.stratum for one in chosen).items()))
    number, distinct = len({one.query for one in chosen}), len(set(searched))
    calibrated = searcher.embedder.is_calibrated
    if distinct < len(searched):
        warn(f"of {len(searched):,} queries {distinct:,} are different; equal ones count once")
    if number < _LEAST_QUERIES:
        more = "raise -n" if count < _LEAST_QUERIES else "give more queries"
        warn(f"relsdk calibrate needs pairs of at least {_LEAST_QUERIES} queries; {more}")
    elif len(chosen) < count:
        warn(
            f"all first hits of the queries that have no label are chosen, {len(chosen):,}; give more queries"
        )
    if as_json:
        by = "expected_level" if calibrated else "tenth_of_cosines"
        parts = {str(part): pairs for part, pairs in strata.items()}
        report = {"output": str(output), "pairs": len(chosen), "queries": number, by: parts}
        echo_json({**report, "warnings": take_warnings()})
        return
    _echo_chosen(output, chosen, strata if calibrated else None)
    if number >= _LEAST_QUERIES:
        echo_next("calibrate", searcher.embedder.path, output, err=not output.is_file())


def _echo_chosen(output: Path, chosen: list[Suggestion], levels: dict[int, int] | None) -> None:
    aside = not output.is_file()  # where the output is stdout, nothing else belongs there
    of_query = Counter(one.query for one in chosen)
    of = "queries" if len(of_query) != 1 else "query"
    size = (
        f"{counted(len(chosen), 'pair')} of {len(of_query):,} {of}, at most {max(of_query.values())} of each,"
    )
    echo(f"{size} in {output}; put a level, 0 to 3, in place of null", err=aside)
    if levels is None:
        echo("the model has no levels yet, so they are spread over the cosine", err=aside)
    else:
        told = ", ".join(f"{level}: {number:,}" for level, number in levels.items())
        echo(f"by expected level: {told}", err=aside)
    echo("they are hard ones: for a promised precision label pairs that are drawn at random", err=aside)
