"""`relsdk calibrate`: levels and probabilities from labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

from relsdk.bundle import read_bundle
from relsdk.calibration import LevelShares
from relsdk.cli._calibrate_index import calibrate_index
from relsdk.cli._calibration_error import echo_calibration_errors
from relsdk.cli._cells import figure
from relsdk.cli._promises import echo_promises, promised_options, warn_of_promises
from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.evaluate import open_companion
from relsdk.cli.inputs import input_options
from relsdk.cli.options import INDEX_FOLDER, json_option, threads_option, variants_option
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table, percent
from relsdk.errors import InputError
from relsdk.formats import read_pairs, read_queries, read_unlabelled_pairs
from relsdk.tools.evaluation import CalibrationReport, calibrate_bundle

__all__ = ["calibrate"]


@click.command(epilog="Example: relsdk calibrate bundle pairs.jsonl --target-precision 0.9 --level 2")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("pairs", metavar="PAIRS")
@variants_option
@click.option(
    "--dim",
    "truncate_dim",
    type=int,
    help="Calibrate for vectors cut to this dimension [default: that of the model, and all that it was "
    "trained to be cut to].",
)
@click.option(
    "--encoder",
    help="Calibrate a scorer together with this encoder, whose candidates it re-scores.",
)
@click.option(
    "--index",
    type=INDEX_FOLDER,
    help="Fit the model of meaning and words of this index, and store it there: --mode hybrid.",
)
@click.option(
    "--queries",
    metavar="FILE",
    help="With --index: also note what searches for these queries find, with which relsdk serve compares the "
    "searches of each day.",
)
@click.option(
    "--random-negatives",
    type=click.IntRange(min=1),
    help="Give each query so many documents of other queries as well, with level 0: for searches over "
    "everything.",
)
@click.option(
    "--unlabelled",
    metavar="FILE",
    help="Pairs as they come in use, without labels: correct the levels for how frequent each is there.",
)
@click.option(
    "--target-precision",
    "precisions",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    help="Promise hits of which this share is of --level or above, for searches with min_precision.",
)
@click.option(
    "--level",
    "levels",
    type=click.IntRange(1, 3),
    multiple=True,
    help="With --target-precision: the level that hits are to have at least.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="With --target-precision: the share of calibrations that keep their promise [default: 0.95].",
)
@threads_option
@input_options
@json_option
def calibrate(
    bundle: Path,
    pairs: str,
    variants: tuple[str, ...],
    truncate_dim: int | None,
    encoder: str | None,
    index: Path | None,
    queries: str | None,
    random_negatives: int | None,
    unlabelled: str | None,
    precisions: tuple[float, ...],
    levels: tuple[int, ...],
    confidence: float | None,
    threads: int | None,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Fit BUNDLE's levels on labelled PAIRS (query, title, text, label 0-3) and store them in it.

    The texts are encoded once with each ONNX file, whatever the number of dimensions.

    The metrics shown are of held-out queries: each pair is graded by a fit that has not seen its query. With
    --encoder, a search with both (relsdk query --scorer) orders and grades by the pool of scorer and cosine.

    The pairs were picked for labelling; what a search finds may hold more documents of level 0. --unlabelled
    reads pairs of your searches, and expectation maximisation (Saerens et al. 2002) finds how frequent each
    level is among them, if pairs of one level look alike in both files; the stored levels are corrected for
    that. The metrics are of the labelled pairs, before the correction.

    With --target-precision and --level it also tests which hits can be promised to be right so often, and
    stores the threshold for searches with --min-precision. A promise holds for pairs that are like the
    labelled ones, and --confidence is the share of calibrations that keep theirs. Where the pairs are too few
    it says how many it would take, and the levels are stored all the same. To calibrate again without it
    removes what was promised.

    With --index nothing is stored in BUNDLE: the index gets a model of cosine and words, by which hybrid
    searches order and grade. The pairs should be none that the encoder was trained on. With --queries (at
    least 300 that people typed, better some thousands, as often as they did) it also keeps how good the first
    hits are, and relsdk serve tells when they no longer are: see relsdk doctor --state.
    """
    if bool(precisions) != bool(levels):
        raise InputError("--target-precision and --level go together, as in --target-precision 0.9 --level 2")
    if confidence is not None and not precisions:
        raise InputError("--confidence is that of a promise; add, say, --target-precision 0.9 --level 2")
    promised: dict[str, Any] = {"targets": list(product(levels, precisions))}
    if confidence is not None:
        promised["confidence"] = confidence
    _check_index(index, queries, alone=not (encoder or truncate_dim or random_negatives or unlabelled))
    labelled = list(read_pairs(pairs, **reading))
    if index is not None:
        searched = None if queries is None else [query.text for query in read_queries(queries, **reading)]
        calibrate_index(index, bundle, labelled, variants, threads, as_json, searched, **promised)
        return
    companion, truncate_dim = open_companion(encoder, threads, truncate_dim)
    reports = calibrate_bundle(
        bundle,
        labelled,
        variants=variants,
        truncate_dim=truncate_dim,
        encoder=companion,
        **promised,
        threads=threads,
        random_documents=random_negatives or 0,
        unlabelled=None if unlabelled is None else list(read_unlabelled_pairs(unlabelled, **reading)),
        show_progress_bar=True,
        on_step=lambda step: echo(step, err=True),
    )
    promises = [(_name(report), promise) for report in reports for promise in report.promises]
    for report in reports:
        if report.level_shares is not None:
            for warning in report.level_shares.warnings():
                warn(f"{_name(report)}: {warning}")
    if variants:
        _warn_of_others(bundle, reports)
    refusals = [(_name(report), refusal) for report in reports for refusal in report.refusals]
    warn_of_promises(promises, refusals)
    if as_json:
        content = {"calibrations": [report.to_dict() for report in reports]}
        echo_json({**content, "warnings": take_warnings()})
        return
    _echo_calibration(reports)
    echo_promises(promises)
    _echo_following(bundle, reports, encoder)


def _warn_of_others(bundle: Path, reports: Sequence[CalibrationReport]) -> None:
    """Say which other ONNX files have the levels of a former calibration."""
    made = {report.variant for report in reports}
    others = [one.name for one in read_bundle(bundle).variants if one.calibrations and one.name not in made]
    if others:
        warn(f"not calibrated again: {', '.join(others)}; without --variant all that this CPU runs are")


def _check_index(index: Path | None, queries: str | None, *, alone: bool) -> None:
    """Refuse options that do not go with --index, or not without it."""
    if index is not None and not alone:
        raise InputError(
            "--index takes the index's dimension; leave out --dim, --encoder, --random-negatives (it always "
            "has some) and --unlabelled"
        )
    if queries is not None and index is None:
        raise InputError("--queries notes what an index finds; pass --index INDEX as well")


def _echo_following(bundle: Path, reports: Sequence[CalibrationReport], encoder: str | None) -> None:
    of_model = [report for report in reports if report.dimension == reports[0].dimension]
    promised = promised_options([report.promises for report in of_model])
    if reports[0].dimension is not None:
        echo_next(f'query INDEX "..." {promised or "--min-level 2"}, or relsdk eval', bundle, "PAIRS")
    elif encoder is not None or promised:
        echo_next(f'query INDEX "..." {promised}'.rstrip(), "--scorer", bundle)
    else:
        echo_next("score", bundle, "--input PAIRS")


def _name(report: CalibrationReport) -> str:
    return report.variant if report.dimension is None else f"{report.variant}, {report.dimension} dim"


def _echo_calibration(reports: list[CalibrationReport]) -> None:
    """Print held-out metrics, one row a variant."""
    rows = []
    for report in reports:
        grading = report.grading
        rows.append(
            [
                report.variant,
                str(report.dimension or "-"),
                report.method,
                f"{grading.pairs:,}",
                figure(grading.accuracy, 3),
                figure(grading.qwk, 3),
                figure(grading.ece, 3),
                figure(grading.brier, 3),
                figure(grading.log_loss, 3),
            ]
        )
    header = ["variant", "dim", "method", "pairs", "accuracy", "QWK", "ECE", "Brier", "log loss"]
    echo_table(header, rows, right=(1, 3, 4, 5, 6, 7, 8))
    echo_calibration_errors((report.variant, report.grading) for report in reports)
    if reports and reports[0].random_pairs:
        echo(f"with {counted(reports[0].random_pairs, 'pair')} of random documents, of level 0")
    for report in reports:
        if report.level_shares is not None:
            _echo_level_shares(report.variant, report.level_shares, report.level_changes or 0)


def _echo_level_shares(variant: str, shares: LevelShares, changes: int) -> None:
    """Print how frequent levels are among pairs without labels, and what that changes."""
    echo()
    numbers = zip(shares.labelled, shares.before, shares.after, shares.errors, strict=True)
    rows = [
        [str(level), percent(fitted), percent(before), percent(after), percent(error)]
        for level, (fitted, before, after, error) in enumerate(numbers)
    ]
    echo_table(["level", "labelled %", "as fitted %", "corrected %", "standard error"], rows, right=range(5))
    pairs = counted(shares.pairs, "pair")
    queries = f"{shares.queries:,} {'query' if shares.queries == 1 else 'queries'}"
    echo(
        f"{variant}: {pairs} of {queries} without labels; {changes:,} get another level by the correction; "
        "it is right if pairs of one level look alike in both files: label some of these to see"
    )
