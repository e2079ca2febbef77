"""The cost of a query with a student or a query tower: int8, one thread, all in one interleaved run.

Run by `make train-latency`, after `make train-real` (whose checkpoints it exports). A student that was not
trained is cut from its teacher: what a query costs depends on the shape of a model and not on its weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from transformers import AutoConfig

from bench.experiments.graded_pairs import EXPERIMENTS, KINDS, TEACHER, read_rows, trained_checkpoint
from bench.experiments.graded_pairs_report import write_report
from bench.experiments.quantisation import interleaved
from bench.harness.machine import machine_record
from relsdk import Embedder
from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_queries
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_export.encoder import export_encoder
from relsdk_export.pipeline import DEFAULT_VARIANTS
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig

INT8 = [name for name in DEFAULT_VARIANTS if name.startswith("int8")]


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True, help="As of train_real.")
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=300, show_default=True, help="Timed queries for each model.")
@click.option("--seed", default=0, show_default=True, help="Whose checkpoints; all seeds are as fast.")
def main(shared: Path, work: Path, output: Path, rounds: int, seed: int) -> None:
    """Time every student of a seed beside its teacher."""
    teacher = trained_checkpoint(work, f"{TEACHER} / seed {seed}")
    if teacher is None:
        raise click.ClickException(f"{work} holds no {TEACHER!r} of seed {seed}; run: make train-real")
    texts = [query.text for query in read_queries(shared / "data/queries/video_search.txt")][:rounds]
    with TemporaryDirectory() as folder:
        models = {TEACHER: _exported(teacher, Path(folder) / "teacher")}
        trained = []
        for number, (name, (recipe, settings)) in enumerate(EXPERIMENTS.items()):
            if KINDS[recipe][0] is not DistillConfig:
                continue
            checkpoint = trained_checkpoint(work, f"{name} / seed {seed}")
            if checkpoint is not None:
                trained.append(name)
            else:
                layers = load_config(DistillConfig, RECIPES / f"{recipe}.toml", settings).model.layers
                checkpoint = _cut(teacher, layers, Path(folder) / f"cut-{number}")
            if checkpoint is None:
                continue
            click.echo(f"export {name}", err=True)
            target = Path(folder) / str(number)
            tower = "query tower" in name
            models[name] = _exported(teacher if tower else checkpoint, target, checkpoint if tower else None)
        times = {name: np.median(found) for name, found in interleaved(models, texts).items()}
    tokens = models[TEACHER]._runner.tokenizer.tokenize([f"query: {text}" for text in texts]).lengths
    result: dict[str, Any] = {
        "machine": machine_record(seed),
        "threads": 1,
        "variant": models[TEACHER].variant.name,
        "tokens_p50": float(np.median(tokens)),
        "models": {
            name: {
                "query_p50_ms": round(float(seconds) * 1e3, 3),
                "time_to_teacher": round(float(seconds / times[TEACHER]), 3),
                "weights": "trained" if name in (TEACHER, *trained) else "cut from the teacher",
            }
            for name, seconds in times.items()
        },
    }
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    trained_rows = output.with_name("train.json")
    if trained_rows.is_file():  # its report shows times, too
        write_report(read_rows(trained_rows), trained_rows.with_suffix(".md"))
    click.echo(json.dumps(result["models"], indent=1))


def _cut(teacher: Path, layers: Sequence[int], folder: Path) -> Path | None:
    """Write those layers of a teacher as a checkpoint; None where it has not as many, or none are named."""
    if not layers or max(layers) >= AutoConfig.from_pretrained(teacher).num_hidden_layers:
        return None
    folder.mkdir()
    TextEncoder.load(teacher, layers=layers).save(folder)
    return folder


def _exported(checkpoint: Path, target: Path, tower: Path | None = None) -> Embedder:
    bundle = export_encoder(checkpoint, target, query_tower=tower, variants=INT8)
    embedder = Embedder(bundle.path, threads=1)
    embedder.warmup()
    return embedder


if __name__ == "__main__":
    main()
