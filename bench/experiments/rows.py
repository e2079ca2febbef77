"""The keys of `bench/results/ssra.json`: "name / labelled pairs / steps / seed"."""

from __future__ import annotations


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
