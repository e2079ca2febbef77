"""Do levels and probabilities keep what they promise? `make trust` -> bench/results/trust.json and .md.

An encoder, a query tower and a score model learn from 2,000 labelled pairs. Everything is then measured on
labelled pairs that none of them saw. Each part is an entry of the JSON and is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.experiments.graded_pairs import add_to, read_rows
from bench.experiments.rows import study_options
from bench.experiments.trust_errors import (
    few_labels,
    measured_errors,
    shifted_priors,
)
from bench.experiments.trust_models import Models
from bench.experiments.trust_promises import kept_promises, promises_from_dev
from bench.experiments.trust_report import write_report
from bench.experiments.trust_sample import measured_sample
from bench.experiments.trust_spline import compared_splines
from bench.harness.machine import machine_record


@click.command()
@study_options
@click.option("--labels", default=2000, show_default=True, help="That the models learn from.")
@click.option("--pairs", default=2000, show_default=True, help="That a split calibrates on.")
@click.option("--splits", default=200, show_default=True)
@click.option("--documents", default=5000, show_default=True, help="Of the sample world.")
@click.option("--steps", default=200, show_default=True, help="Of the encoder's training.")
@click.option("--seed", default=1, show_default=True, help="Of trainings and splits.")
def main(
    shared: Path,
    output: Path,
    work: Path,
    labels: int,
    pairs: int,
    splits: int,
    documents: int,
    steps: int,
    seed: int,
    overrides: tuple[str, ...],
) -> None:
    """Measure what is not measured yet."""
    models = Models(
        shared,
        work,
        labels=labels,
        seed=seed,
        steps=steps,
        overrides=overrides,
        on_step=partial(click.echo, err=True),
    )
    unseen = models.labels("unseen"), models.queries("unseen")
    parts: dict[str, Callable[[], Any]] = {
        "promises": lambda: kept_promises(
            models.outputs("encoder", "unseen"), *unseen, pairs=pairs, splits=splits, seed=seed
        ),
        "few labels": lambda: few_labels(
            models.outputs("encoder", "unseen"), *unseen, seed=seed, draws=min(splits, 100)
        ),
        "errors": lambda: measured_errors(models),
        "from dev to test": lambda: promises_from_dev(models),
        "prior shift": lambda: shifted_priors(models, seed=seed, draws=min(splits, 20)),
        "spline": lambda: compared_splines(models, seed=seed, draws=min(splits, 40)),
        "sample corpus": lambda: measured_sample(
            models, documents=documents, labels=labels, seed=seed, splits=splits
        ),
    }
    for name, measure in parts.items():
        if name in read_rows(output):
            continue
        click.echo(name, err=True)
        row = {
            "machine": machine_record(seed),
            "pairs": {**counts(models), "fitted": pairs},
            "found": measure(),
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        add_to(output, name, row, write_report)
        click.echo(json.dumps(row["found"]), err=True)


def counts(models: Models) -> dict[str, int]:
    """Return how many pairs each split has."""
    return {name: len(getattr(models, name)) for name in ("unseen", "dev", "test", "others")}


if __name__ == "__main__":
    main()
