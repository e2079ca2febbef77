"""Train on real data and report on test: every run is one row of `bench/results/train.json`.

Resumable: a run that has a row is not repeated, a run that was killed goes on from its last checkpoint.
Settings were chosen on dev; test is read once, at the end of a run.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from filelock import FileLock

from bench.machine import machine_record
from relsdk.folders import write_file_atomically
from relsdk_training.config import EmbedConfig, RunConfig, ScoreConfig, load_config
from relsdk_training.data import load_pairs, pair_arrays
from relsdk_training.encoder import TextEncoder
from relsdk_training.loop import TrainResult
from relsdk_training.objectives import EmbeddingObjective, ScoreObjective
from relsdk_training.score_model import ScoreModel
from relsdk_training.tasks import train_embed, train_score

RECIPES = Path(__file__).resolve().parent.parent / "training/relsdk_training/recipes"
DIMS = (32, 64, 128, 256)
# name -> recipe and what differs from it; each row adds to the one before.
PLAIN = ["loss.weighting=binary", "loss.self_contrast=false", "loss.mask_margin=-1", "loss.cosent=0"]
PLAIN += ["loss.matryoshka_dims=[]"]
RARE = ["data.rare_share=0.045"]
EXPERIMENTS: dict[str, tuple[str, list[str]]] = {
    "embed": ("embed", []),
    "score categorical": ("score", []),
    "embed, levels 1 and 2 rare": ("embed", RARE),
    "score categorical, levels 1 and 2 rare": ("score", RARE),
    "plain InfoNCE on positives": ("embed", PLAIN),
    "+ label weights": ("embed", [*PLAIN[1:]]),
    "+ Matryoshka": ("embed", [*PLAIN[1:4]]),
    "+ self-contrast and masking": ("embed", ["loss.cosent=0"]),
    "+ hard negatives": ("embed", ["loss.cosent=0", "loss.hard_negatives=3"]),
    "+ ordinal": ("embed", ["loss.ordinal=0.3"]),
    "score ordinal": ("score", ["model.head=ordinal"]),
}


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Runs and checkpoints.")
@click.option("--only", multiple=True, help="Names of experiments [default: all].")
@click.option("--seeds", default=3, show_default=True)
def main(shared: Path, output: Path, work: Path, only: tuple[str, ...], seeds: int) -> None:
    """Run what has no row yet."""
    if "untrained" not in read_rows(output):
        add_row(output, "untrained", untrained(shared))
    for seed in range(seeds):
        for name in only or EXPERIMENTS:
            key = f"{name} / seed {seed}"
            if key in read_rows(output):
                continue
            click.echo(key, err=True)
            row = experiment(name, seed, shared, work / key.replace("/", "-").replace(" ", "_"))
            add_row(output, key, row)
            click.echo(json.dumps(row["test"]), err=True)


def read_rows(path: Path) -> dict[str, Any]:
    """Return the rows there are."""
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return rows


def add_row(path: Path, key: str, row: dict[str, Any]) -> None:
    """Add a row to those that are there now: another process may work on other experiments."""
    with FileLock(path.with_suffix(".lock")):
        write_file_atomically(path, json.dumps({**read_rows(path), key: row}, indent=1) + "\n")


def experiment(name: str, seed: int, shared: Path, folder: Path) -> dict[str, Any]:
    """Train one run, or go on with it, and measure its best checkpoint on test."""
    recipe, changes = EXPERIMENTS[name]
    kuake = shared / "data/kuake_qtr"
    overrides = [
        *(f"data.{split}={kuake / f'{split}.jsonl'}" for split in ("train", "dev", "test")),
        f"model.checkpoint={shared / 'models/me5-small-zh'}",
        f"run.output={folder}",
        f"run.seed={seed}",
        *changes,
    ]
    config = load_config(
        EmbedConfig if recipe == "embed" else ScoreConfig, RECIPES / f"{recipe}.toml", overrides
    )
    task = train_embed if recipe == "embed" else train_score
    result: TrainResult = task(config, resume=folder.exists(), on_step=_print)
    for state in folder.glob("state-*"):
        shutil.rmtree(state)
    content = asdict(config)
    for section, keys in {
        "data": ("train", "dev", "test"),
        "model": ("checkpoint",),
        "run": ("output",),
    }.items():
        for key in keys:
            content[section][key] = Path(content[section][key]).name
    return {
        "machine": machine_record(),
        "config": content,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "rows_per_second": round(result.rows_per_second, 2),
        "dev": rounded(result.best),
        "test": rounded(measure(config, folder / "best", kuake / "test.jsonl")),
    }


def measure(config: EmbedConfig | ScoreConfig, checkpoint: Path, path: Path) -> dict[str, float]:
    """Measure a checkpoint on a file of pairs, in fp32."""
    pairs = pair_arrays(load_pairs(str(path)))
    objective: EmbeddingObjective | ScoreObjective
    if isinstance(config, EmbedConfig):
        encoder = TextEncoder.load(checkpoint, max_tokens=config.model.max_tokens)
        loss = replace(config.loss, matryoshka_dims=DIMS, hard_negatives=0)
        objective = EmbeddingObjective(encoder, pairs, pairs, loss, RunConfig())
    else:
        model = ScoreModel.load(checkpoint, config.model.head, max_tokens=config.model.max_tokens)
        objective = ScoreObjective(model, pairs, pairs, RunConfig())
    objective.module.eval()
    with torch.inference_mode():
        return objective.evaluate(torch.device("cpu"))


def untrained(shared: Path) -> dict[str, Any]:
    """Measure the backbone as it is."""
    test = shared / "data/kuake_qtr/test.jsonl"
    found = measure(EmbedConfig(), shared / "models/me5-small-zh", test)
    return {"machine": machine_record(), "test": rounded(found)}


def rounded(measures: dict[str, float]) -> dict[str, float]:
    """Round to four digits."""
    return {name: round(float(np.float64(value)), 4) for name, value in measures.items()}


def _print(step: int, steps: int, statistics: dict[str, float]) -> None:
    if step % 20 == 0:
        click.echo(
            f"{step}/{steps}  loss {statistics['loss']:.3f}  {statistics['rows_per_second']:.1f} pairs/s",
            err=True,
        )


if __name__ == "__main__":
    main()
