"""What studies with trainings share: options, keys of rows, and that a training has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from relsdk_training.engine.loop import TrainResult

_OPTIONS = (
    click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True),
    click.option("--output", type=click.Path(path_type=Path), required=True),
    click.option(
        "--work", type=click.Path(path_type=Path), required=True, help="Runs, checkpoints, bundles."
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="A.B=C", help="For every run; tests make it small."
    ),
)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `shared`, `output`, `work` and `overrides`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def row_key(name: str, budget: int, steps: int, seed: int) -> str:
    """Return the key of a row: "name / labelled pairs / steps / seed"."""
    return f"{name} / {budget} / {steps} / {seed}"


def row_name(key: str) -> str:
    """Return what was run."""
    return key.split(" / ")[0]


def study_of(key: str) -> tuple[int, int]:
    """Return labelled pairs and steps: rows that may be compared share both."""
    _, budget, steps, _ = key.split(" / ")
    return int(budget), int(steps)


def check_ended(result: TrainResult) -> None:
    """Refuse a training that was interrupted.

    Raises:
        click.ClickException: It was; the same command goes on.
    """
    if result.stopped in ("interrupted", "terminated"):
        raise click.ClickException(
            f"interrupted at step {result.steps}, no row is written; the same command goes on"
        )
