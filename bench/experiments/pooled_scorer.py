"""An encoder, a taught score model, and both pooled, as served: int8, calibrated on dev, measured on test.

Run by `make pool`, after `make train-real` (whose checkpoints it exports). One row a seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.experiments.graded_pairs import TAUGHT, TEACHER, add_to, trained_checkpoint
from bench.harness.machine import machine_record
from relsdk import Embedder
from relsdk.formats import read_pairs
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.open import open_pair_model
from relsdk.models.pair_model import PairModel
from relsdk.models.pooled_scorer import pooled
from relsdk.tools.evaluation import Evaluation, calibrate_bundle, evaluate
from relsdk_export.encoder import export_encoder
from relsdk_export.pipeline import DEFAULT_VARIANTS
from relsdk_export.scorer import export_scorer

INT8 = [name for name in DEFAULT_VARIANTS if name.startswith("int8")]


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True, help="As of train_real.")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--fp32", is_flag=True, help="Measure fp32 files: a toy of tests loses too much in int8.")
def main(shared: Path, work: Path, output: Path, seeds: tuple[int, ...], fp32: bool) -> None:
    """Measure every seed whose encoder and score model are there."""
    kuake = shared / "data/kuake_qtr"
    found = 0
    for seed in seeds:
        encoder, scorer = (trained_checkpoint(work, f"{name} / seed {seed}") for name in (TEACHER, TAUGHT))
        if encoder is None or scorer is None:
            continue
        found += 1
        rows = measure(encoder, scorer, kuake, ["fp32"] if fp32 else INT8)
        add_to(output, f"seed {seed}", {"machine": machine_record(seed), **rows}, lambda rows, path: None)
        click.echo(json.dumps(rows), err=True)
    if not found:
        raise click.ClickException(f"{work} holds no {TEACHER!r} with its {TAUGHT!r}; run: make train-real")


def measure(encoder: Path, scorer: Path, kuake: Path, files: list[str]) -> dict[str, Any]:
    """Export both, calibrate on dev each alone and together, measure on test."""
    dev, test = (list(read_pairs(kuake / f"{split}.jsonl")) for split in ("dev", "test"))
    with TemporaryDirectory() as folder:
        retriever = export_encoder(encoder, Path(folder) / "encoder", variants=files).path
        bundle = export_scorer(scorer, Path(folder) / "scorer", variants=files).path
        embedder = Embedder(retriever)
        variant = [open_pair_model(bundle).variant.name]
        calibrate_bundle(retriever, dev, variants=[embedder.variant.name])
        calibrate_bundle(bundle, dev, variants=variant)
        (report,) = calibrate_bundle(bundle, dev, variants=variant, encoder=embedder)
        embedder = Embedder(retriever)  # with its levels
        models: dict[str, PairModel] = {
            "encoder": BiEncoder(embedder),
            "score model, taught": open_pair_model(bundle),
            "both, pooled": pooled(open_pair_model(bundle), embedder),
        }
        return {
            "variants": [embedder.variant.name, *variant],
            "held_out_log_loss_on_dev": report.held_out_log_loss,
            "test": {name: _figures(evaluate(model, test)) for name, model in models.items()},
        }


def _figures(found: Evaluation) -> dict[str, float]:
    order, levels = found.ranking.to_dict(), (found.grading.to_dict() if found.grading else {})
    wanted = ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")
    figures = {name: order[name] for name in wanted}
    figures |= {name: levels[name] for name in ("accuracy", "qwk", "log_loss", "ece")}
    return {name: round(float(value), 5) for name, value in figures.items()}


if __name__ == "__main__":
    main()
