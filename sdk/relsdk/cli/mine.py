"""`relsdk mine`: hard negatives for the next training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.inputs import input_options
from relsdk.cli.options import JSON_LINES, folder_argument, json_option, threads_option
from relsdk.cli.output import echo, echo_json, shell
from relsdk.files.folders import check_file_target
from relsdk.formats import read_pairs, write_pairs
from relsdk.index import Index
from relsdk.models.relevance_scorer import open_scorer
from relsdk.progress import Progress
from relsdk.records import LabelledPair
from relsdk.search.opening import open_encoder
from relsdk.tools.hard_negatives import Miner

__all__ = ["mine"]


@click.command(epilog="Example: relsdk mine docs.idx train.jsonl mined.jsonl --scorer scorer")
@folder_argument
@click.argument("pairs", metavar="PAIRS", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option("--scorer", help="Bundle that guards against false negatives: only what it grades 0 is taken.")
@click.option("--negatives", type=int, default=3, show_default=True, help="Per query.")
@click.option("--candidates", type=int, default=30, show_default=True, help="Near documents to look at.")
@click.option(
    "--max-ratio",
    type=float,
    default=0.95,
    show_default=True,
    help="At most so much of the cosine of the query's most relevant document.",
)
@click.option("--model", "-m", help="Bundle [default: the one the index was built with].")
@threads_option
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT.")
@input_options
@json_option
def mine(
    path: Path,
    pairs: Path,
    output: Path,
    scorer: str | None,
    negatives: int,
    candidates: int,
    max_ratio: float,
    model: str | None,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Find documents of INDEX near the queries of PAIRS that do not answer them; write pairs of level 0."""
    check_file_target(output, overwrite=overwrite, endings=JSON_LINES)
    index = Index.open(path)
    embedder = open_encoder(index.info(), model, threads=threads)
    labelled = list(read_pairs(pairs, **reading))
    grader = None if scorer is None else open_scorer(embedder, scorer, threads=threads)
    miner = Miner(embedder, index, grader)
    negatives_of = miner.mine(labelled, negatives=negatives, candidates=candidates, max_ratio=max_ratio)
    queries = len({pair.query for pair in labelled})
    count = write_pairs(output, _with_progress(negatives_of, queries))
    if scorer is None:
        warn("without --scorer some of them may be relevant")
    if as_json:
        report = {"output": str(output), "pairs": count, "queries": queries}
        echo_json({**report, "warnings": take_warnings()})
        return
    echo(f"{count:,} negatives for {queries:,} queries in {output}")
    echo(
        f"next: cat {shell(pairs)} {shell(output)} > both.jsonl, then relsdk train embed embed.toml --set "
        "data.train=both.jsonl --set data.dev=DEV --set model.checkpoint=CHECKPOINT --set run.output=RUN"
    )


def _with_progress(pairs: Iterator[LabelledPair], queries: int) -> Iterator[LabelledPair]:
    """Pass pairs through, counting queries on stderr."""
    with Progress(queries) as progress:
        last, done = None, 0
        for pair in pairs:
            if pair.query != last:
                last, done = pair.query, done + 1
                progress("mine", done)
            yield pair
