"""`relsdk eval`: a bundle on labelled pairs, an index or a run on judgements, a judge beside people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from relsdk.bundle import read_bundle
from relsdk.bundle.hub import local_model
from relsdk.cli._calibration_error import echo_calibration_errors
from relsdk.cli._cells import figure
from relsdk.cli._evaluate_index import (
    Searching,
    echo_index_evaluation,
    echo_run_report,
    evaluate_searches,
    search_options,
    warn_of_index_evaluation,
    warn_of_run,
)
from relsdk.cli._evaluate_judge import echo_judge_report, evaluate_judge
from relsdk.cli._promises import echo_promise_checks
from relsdk.cli._reliability_plot import check_plot, plot_reliability
from relsdk.cli._warnings import take_warnings
from relsdk.cli.inputs import input_options
from relsdk.cli.options import json_option, threads_option, variants_option
from relsdk.cli.output import counted, echo, echo_json, echo_table
from relsdk.errors import InputError
from relsdk.files.folders import check_file_target, write_file_atomically
from relsdk.formats import read_pairs, read_qrels, read_run
from relsdk.metrics import run_report
from relsdk.models.embedder import Embedder
from relsdk.models.open import open_pair_model
from relsdk.models.pooled_scorer import pooled
from relsdk.runtime.variants import runs_exactly
from relsdk.tools.evaluation import Evaluation
from relsdk.tools.evaluation import evaluate as evaluate_pairs

__all__ = ["echo_evaluations", "evaluate", "open_companion"]

# Confidences of the table; JSON has more.
_SHOWN = (0.5, 0.7, 0.9)


@click.command(epilog="Example: relsdk eval bundle test.jsonl --variant fp32")
@click.argument(
    "names",
    metavar="MODEL PAIRS | --index INDEX --queries QUERIES QRELS | --run RUN QRELS | --judge GRADES [PAIRS]",
    nargs=-1,
)
@search_options
@click.option("--run", help="Measure this run file (TREC) against the judgements in QRELS instead.")
@click.option("--judge", metavar="GRADES", help="Compare these grades of relsdk judge with PAIRS instead.")
@input_options
@variants_option
@click.option("--dim", "truncate_dim", type=int, help="Cut vectors to this dimension.")
@click.option("--encoder", help="Measure a scorer together with this encoder (see calibrate --encoder).")
@threads_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Also write the JSON to this file.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also draw how often what had a probability was so (.png, .pdf, .svg): reliability diagrams of "
    "MODEL's levels.",
)
@json_option
def evaluate(
    names: tuple[str, ...],
    searching: Searching,
    run: str | None,
    judge: str | None,
    variants: tuple[str, ...],
    truncate_dim: int | None,
    encoder: str | None,
    threads: int | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Measure the encoder or scorer MODEL on labelled PAIRS: AP per level, nDCG, QWK, accuracy, ECE.

    nDCG is a mean over queries with at least 3 documents and more than one level; a document's gain is
    2^label - 1, in "nDCG@10 linear" the label.

    With --run: nDCG@10, MAP, recall, precision and MRR of a run (relsdk query --format trec)
    against QRELS, as means over the judged queries that have a relevant document (label 1 or above).

    With --index: the same of what INDEX finds for QUERIES, and how far the levels of hits that are judged
    agree with their labels (0-3), and whether they keep the promises of what graded them. A hit that is not
    judged counts as irrelevant in the order, and not at all in levels and promises; judged@10 is the share of
    the first ten hits that are.

    With --judge: how far the labels in GRADES, which a language model gave, agree with those that people gave
    to the same pairs in PAIRS, or as human_label in GRADES, and what such a judge may be used for.

    Where MODEL has promises (relsdk calibrate --target-precision), a table says of each what these pairs make
    of it: the share of them at or above its threshold, recall, precision with its interval, and whether the
    promise is kept, broken, or neither can be told.

    Another table says what it costs to answer only where a level is at least so probable: the share of pairs
    that stay unanswered, and the accuracy of the others.

    In tables what measures order (AP, nDCG, recall, ...) and what is said of promises is in percent. The
    rest, and JSON, is not.
    """
    _check_targets(output, plot, of_pairs=not (run or judge or searching.is_given))
    if run is not None or judge is not None:
        if variants or truncate_dim or encoder or threads or searching.is_given or (run and judge):
            raise InputError(
                "--run and --judge measure without a model, one at a time; leave out --variant, --dim, "
                "--encoder, --threads, and what goes with --index"
            )
        content, show = _of_run(run, names, reading) if run else _of_judge(judge or "", names, reading)
    elif searching.is_given:
        if truncate_dim or encoder or len(variants) > 1:
            raise InputError(
                "--index is searched by one file of its own model; leave out --dim, --encoder, and all but "
                "one --variant"
            )
        (qrels,) = _check_count(names, "--index INDEX --queries QUERIES QRELS", 1)
        what, measured = evaluate_searches(searching, qrels, (*variants, "auto")[0], threads, reading)
        warn_of_index_evaluation(measured)
        content = {**what, **measured.to_dict(), "warnings": take_warnings()}
        show = partial(echo_index_evaluation, measured)
    else:
        evaluations = _of_pairs(names, variants, truncate_dim, encoder, threads, reading)
        if plot is not None:
            plot_reliability(evaluations, plot)
        content, show = [item.to_dict() for item in evaluations], partial(_echo_pairs, evaluations)
    if output is not None:
        write_file_atomically(output, json.dumps(content, indent=1) + "\n")
    if as_json:
        echo_json(content)
    else:
        show()


def _check_targets(output: Path | None, plot: Path | None, *, of_pairs: bool) -> None:
    """Find out before the work whether the files can be written."""
    if output is not None:
        check_file_target(output, overwrite=True, endings=(".json",))
    if plot is not None:
        if not of_pairs:
            raise InputError("--plot draws the levels of MODEL on PAIRS; leave out --run, --judge, --index")
        check_plot(plot)


def _of_run(run: str, names: tuple[str, ...], reading: Mapping[str, Any]) -> tuple[Any, Callable[[], None]]:
    """Return what was measured of a run as JSON, and what shows it."""
    if reading["delimiter"] or reading["skip_empty"] or reading["encoding"] != "utf-8":
        raise InputError("judgements and runs are UTF-8; leave out --encoding, --delimiter, --skip-empty")
    (qrels,) = _check_count(names, "--run RUN QRELS", 1)
    report = run_report(read_qrels(qrels), read_run(run))
    warn_of_run(report)
    return {**report.to_dict(), "warnings": take_warnings()}, partial(echo_run_report, report)


def _of_judge(
    grades: str, names: tuple[str, ...], reading: Mapping[str, Any]
) -> tuple[Any, Callable[[], None]]:
    """Return what was found of a judge as JSON, and what shows it."""
    pairs = _check_count(names, "--judge GRADES [PAIRS]", 1)[0] if names else None
    report = evaluate_judge(grades, pairs, reading)
    return {**report.to_dict(), "warnings": take_warnings()}, partial(echo_judge_report, report)


def _of_pairs(
    names: tuple[str, ...],
    variants: tuple[str, ...],
    truncate_dim: int | None,
    encoder: str | None,
    threads: int | None,
    reading: Mapping[str, Any],
) -> list[Evaluation]:
    """Measure each variant of a model on labelled pairs."""
    model, pairs = _check_count(names, "MODEL PAIRS", 2)
    folder = local_model(model)
    labelled = list(read_pairs(pairs, **reading))
    wanted = variants or [variant.name for variant in read_bundle(folder).variants if runs_exactly(variant)]
    companion, truncate_dim = open_companion(encoder, threads, truncate_dim)
    evaluations = []
    told: dict[str, None] = {}
    for name in wanted:
        alone = open_pair_model(folder, variant=name, threads=threads, truncate_dim=truncate_dim)
        evaluation = evaluate_pairs(pooled(alone, companion), labelled, show_progress_bar=True)
        told |= dict.fromkeys(evaluation.warnings)
        evaluations.append(replace(evaluation, warnings=(*take_warnings(), *evaluation.warnings)))
    for warning in told:
        echo(warning, err=True)
    return evaluations


def _check_count(names: tuple[str, ...], usage: str, count: int) -> tuple[str, ...]:
    if len(names) != count:
        raise InputError(f"{counted(len(names), 'name')} given, not {count}; write relsdk eval {usage}")
    return names


def open_companion(
    encoder: str | None, threads: int | None, truncate_dim: int | None
) -> tuple[Embedder | None, int | None]:
    """Open what `--encoder` names, if anything; return it and the dimension left for the model itself.

    `--dim` cuts the vectors of the encoder; a scorer has none.
    """
    if encoder is None:
        return None, truncate_dim
    return Embedder(encoder, threads=threads, truncate_dim=truncate_dim), None


def _echo_pairs(evaluations: list[Evaluation]) -> None:
    echo_evaluations(evaluations)
    echo_promise_checks((item.variant, item) for item in evaluations)
    _echo_abstention(evaluations)


def _echo_abstention(evaluations: list[Evaluation]) -> None:
    """Print one row a variant: what stays unanswered at some confidences, and how right the rest is."""
    rows = []
    for item in evaluations:
        points = {point.confidence: point for point in item.abstention}
        shown = [points[confidence] for confidence in _SHOWN if confidence in points]
        if shown:
            rows.append([item.variant, *(f"{p.unanswered:.1%}, {figure(p.accuracy, 3)}" for p in shown)])
    if rows:
        echo()
        header = ["unanswered, accuracy of the rest", *(f"P >= {confidence:g}" for confidence in _SHOWN)]
        echo_table(header, rows, right=tuple(range(1, len(header))))


def echo_evaluations(evaluations: list[Evaluation]) -> None:
    """Print one row a variant."""
    rows = []
    for item in evaluations:
        order, levels = item.ranking, item.grading
        cells = [item.variant, str(item.dimension or "-"), f"{order.pairs:,}"]
        cells += [figure(value * 100, 2) for value in (order.ap_1, order.ap_2, order.ap_3, order.mean_ap)]
        cells += [figure(order.ndcg_at_10 * 100, 2), str(order.queries_used)]
        if levels is None:
            cells += ["-"] * 4
        else:
            cells += [figure(v, 3) for v in (levels.accuracy, levels.qwk, levels.ece, levels.brier)]
        rows.append(cells)
    header = ["variant", "dim", "pairs", "AP>=1", "AP>=2", "AP=3", "mean AP", "nDCG@10", "queries"]
    echo_table([*header, "accuracy", "QWK", "ECE", "Brier"], rows, right=tuple(range(1, 13)))
    graded = [(item.variant, item.grading) for item in evaluations if item.grading is not None]
    echo_calibration_errors(graded)
