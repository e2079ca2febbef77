"""Rows of results: keys of "name / labelled pairs / steps / seed", and that a training has ended."""

from __future__ import annotations

import click

from relsdk_training.engine.loop import TrainResult


def row_key(name: str, budget: int, steps: int, seed: int) -> str:
    """Return the key of a row."""
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
