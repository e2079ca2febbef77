"""`relsdk eval --index`: what an index finds, measured against judgements."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from relsdk.cli._calibration_error import echo_calibration_errors
from relsdk.cli._cells import figure
from relsdk.cli._promises import echo_promise_checks
from relsdk.cli._warnings import warn
from relsdk.cli.output import counted, echo_table, percent
from relsdk.errors import InputError
from relsdk.files.folders import check_file_target
from relsdk.formats import read_qrels, read_queries, write_run
from relsdk.index import MODES, Mode
from relsdk.metrics import GradeReport, RunReport
from relsdk.progress import Progress
from relsdk.search.opening import open_searcher
from relsdk.tools.index_evaluation import IndexEvaluation, evaluate_index

__all__ = [
    "Searching",
    "echo_index_evaluation",
    "echo_run_report",
    "evaluate_searches",
    "search_options",
    "warn_of_index_evaluation",
    "warn_of_run",
]

_OPTIONS = (
    click.option("--index", help="Search this index, and measure its hits against the judgements in QRELS."),
    click.option(
        "--queries", help="With --index: file of queries (.jsonl, .txt, ...), with the ids of QRELS."
    ),
    click.option("-k", type=click.IntRange(min=1), help="With --index: hits for each query [default: 100]."),
    click.option(
        "--mode", type=click.Choice(MODES), help="With --index: as of relsdk query [default: dense]."
    ),
    click.option("--model", "-m", help="With --index: bundle [default: the one the index was built with]."),
    click.option("--scorer", help="With --index: bundle that re-scores and grades the top candidates."),
    click.option(
        "--output-run",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="With --index: also write the hits, as a TREC run.",
    ),
)
_HITS = 100


@dataclass(frozen=True)
class Searching:
    """What was given of the options that go with `--index`; None where nothing was."""

    index: str | None
    queries: str | None
    k: int | None
    mode: Mode | None
    model: str | None
    scorer: str | None
    output_run: Path | None

    @property
    def is_given(self) -> bool:
        """Whether there is any."""
        return any(value is not None for value in vars(self).values())


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command takes them as `searching`."""

    @functools.wraps(command)
    def wrapped(
        index: str | None,
        queries: str | None,
        k: int | None,
        mode: Mode | None,
        model: str | None,
        scorer: str | None,
        output_run: Path | None,
        **options: Any,
    ) -> Any:
        return command(searching=Searching(index, queries, k, mode, model, scorer, output_run), **options)

    return functools.reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), wrapped)


def evaluate_searches(
    searching: Searching, qrels: str, variant: str, threads: int | None, reading: Mapping[str, Any]
) -> tuple[dict[str, Any], IndexEvaluation]:
    """Search, measure, and write the run if one is wanted; return what was measured, and the metrics.

    Raises:
        InputError: `--index` or `--queries` is missing, or a file is wrong.
    """
    if searching.index is None or searching.queries is None:
        raise InputError("--index INDEX and --queries QUERIES belong together; give both")
    if searching.output_run is not None:
        check_file_target(searching.output_run, overwrite=True)
    judgements = read_qrels(qrels)
    queries = list(read_queries(searching.queries, **reading))
    searcher = open_searcher(searching.index, searching.model, variant, threads, searching.scorer)
    k = searching.k or _HITS
    with closing(searcher.reader) as index, Progress(len(queries)) as progress:
        evaluation = evaluate_index(
            searcher, queries, judgements, k=k, mode=searching.mode, on_progress=progress
        )
        what = {
            "index": searching.index,
            "generation": index.generation,
            "documents": len(index),
            "model": searcher.embedder.name,
            "variant": searcher.embedder.variant.name,
            "scorer": searching.scorer,
            "queries": len(queries),
            "k": k,
            "mode": searching.mode or searcher.mode,
        }
    if searching.output_run is not None:
        write_run(searching.output_run, evaluation.run)
    return what, evaluation


def echo_index_evaluation(evaluation: IndexEvaluation) -> None:
    """Print the order's metrics, and those of the levels."""
    echo_run_report(evaluation.ranking)
    header = ["judged hits", "judged@10", "accuracy", "QWK", "ECE", "Brier"]
    row = [f"{evaluation.judged_hits:,} of {evaluation.hits:,}", percent(evaluation.judged_at_10)]
    echo_table(header, [[*row, *_level_cells(evaluation.levels)]], right=tuple(range(6)))
    if evaluation.levels is not None:
        echo_calibration_errors([("judged hits", evaluation.levels)])
    echo_promise_checks([("judged hits", evaluation)])


def warn_of_index_evaluation(evaluation: IndexEvaluation) -> None:
    """Say what is missing from the metrics."""
    warn_of_run(evaluation.ranking)
    if evaluation.relevant_not_in_index:
        absent = counted(evaluation.relevant_not_in_index, "document")
        warn(f"{absent} judged 1 or above not in the index: recall and nDCG cannot be full")
    levels = evaluation.levels
    if levels is None:
        warn("no levels of judged hits: fit them with relsdk calibrate, or judge hits with 0-3")
    elif levels.pairs < evaluation.judged_hits:
        left = counted(evaluation.judged_hits - levels.pairs, "judged hit")
        warn(f"{left} left out of the levels: the label is not 0, 1, 2 or 3")


def _level_cells(levels: GradeReport | None) -> list[str]:
    if levels is None:
        return ["-"] * 4
    return [figure(value, 3) for value in (levels.accuracy, levels.qwk, levels.ece, levels.brier)]


def echo_run_report(report: RunReport) -> None:
    """Print the metrics of a run."""
    means = {
        "nDCG@10": report.ndcg_at_10,
        "nDCG@10 linear": report.ndcg_at_10_linear,
        "MAP": report.average_precision,
        "recall@100": report.recall_at_100,
        "P@10": report.precision_at_10,
        "MRR": report.mrr,
    }
    row = [f"{report.queries:,}", *map(percent, means.values())]
    echo_table(["queries", *means], [row], right=tuple(range(7)))


def warn_of_run(report: RunReport) -> None:
    """Say which queries count for nothing."""
    for count, what in (
        (report.queries_not_in_run, "judged queries are not in the run: each counts 0"),
        (report.queries_without_relevant, "judged queries have no relevant document: they are left out"),
        (report.queries_not_judged, "queries of the run are not judged: they are left out"),
    ):
        if count:
            warn(f"{count:,} {what}")
