"""`relsdk eval`: a bundle on labelled pairs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relsdk.bundle import read_bundle
from relsdk.cli.output import echo, echo_json, echo_table
from relsdk.embedder import Embedder
from relsdk.evaluation import Evaluation
from relsdk.evaluation import evaluate as evaluate_pairs
from relsdk.folders import check_file_target, write_file_atomically
from relsdk.formats import read_pairs
from relsdk.hub import local_model
from relsdk.pair_models import open_pair_model
from relsdk.pooled_model import beside
from relsdk.session import runs_exactly

__all__ = ["echo_evaluations", "evaluate", "open_companion"]


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("pairs", metavar="PAIRS")
@click.option("--variant", "variants", multiple=True, help="ONNX files [default: all this CPU runs exactly].")
@click.option("--dim", "truncate_dim", type=int, help="Cut vectors to this dimension.")
@click.option("--encoder", help="Of a scorer: measure its pool with this encoder (calibrate --encoder).")
@click.option("--threads", type=int)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Also write the JSON to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    model: str,
    pairs: str,
    variants: tuple[str, ...],
    truncate_dim: int | None,
    encoder: str | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the encoder or scorer MODEL on labelled PAIRS: AP per level, nDCG, QWK, accuracy, ECE.

    nDCG is a mean over queries with at least 3 documents and more than one level.
    """
    if output is not None:
        check_file_target(output, overwrite=True)
    folder = local_model(model)
    labelled = list(read_pairs(pairs))
    names = variants or [variant.name for variant in read_bundle(folder).variants if runs_exactly(variant)]
    companion, truncate_dim = open_companion(encoder, threads, truncate_dim)
    found = []
    for name in names:
        alone = open_pair_model(folder, variant=name, threads=threads, truncate_dim=truncate_dim)
        found.append(evaluate_pairs(beside(alone, companion), labelled, show_progress_bar=True))
    if output is not None:
        write_file_atomically(output, json.dumps([item.to_dict() for item in found], indent=1) + "\n")
    if as_json:
        echo_json([item.to_dict() for item in found])
    else:
        echo_evaluations(found)


def open_companion(
    encoder: str | None, threads: int | None, truncate_dim: int | None
) -> tuple[Embedder | None, int | None]:
    """Open what `--encoder` names, if anything; return it and the dimension left for the model itself.

    `--dim` cuts the vectors of the encoder; a scorer has none.
    """
    if encoder is None:
        return None, truncate_dim
    return Embedder(encoder, threads=threads, truncate_dim=truncate_dim), None


def echo_evaluations(evaluations: list[Evaluation]) -> None:
    """Print one row a variant."""
    rows = []
    for item in evaluations:
        order, levels = item.ranking, item.grading
        cells = [item.variant, str(item.dimension or "-"), f"{order.pairs:,}"]
        cells += [f"{value * 100:.2f}" for value in (order.ap_1, order.ap_2, order.ap_3, order.mean_ap)]
        cells += [f"{order.ndcg_at_10 * 100:.2f}", str(order.queries_used)]
        if levels is None:
            cells += ["-"] * 4
        else:
            cells += [f"{v:.3f}" for v in (levels.accuracy, levels.qwk, levels.ece, levels.brier)]
        rows.append(cells)
    header = ["variant", "dim", "pairs", "AP>=1", "AP>=2", "AP=3", "mean AP", "nDCG@10", "queries"]
    echo_table([*header, "accuracy", "QWK", "ECE", "Brier"], rows, right=tuple(range(1, 13)))
    if any(item.grading is None for item in evaluations):
        echo("no levels: fit them with relsdk calibrate", err=True)
