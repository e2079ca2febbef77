"""Simulate collections of 10 and of 1,000 million documents from the rates of one machine.

    python -m bench.scale simulate --output bench/results/scale.json

OUTPUT holds the rates, which `python -m bench.scale rates` measured. Every assumption is an option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from bench.scale.committed import compare
from bench.scale.limits import most_workers
from bench.scale.records import Assumptions, Rates
from bench.scale.results import read_stages, write_stage
from bench.scale.simulation import simulate

__all__ = ["CORES", "DOCUMENTS", "main"]

DOCUMENTS = (10_000_000, 1_000_000_000)
CORES = (1, 16, 256)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each assumption."""
    for one in reversed(fields(Assumptions)):
        name = f"--{one.name.replace('_', '-')}"
        text = one.metadata["text"]
        command = click.option(name, default=one.default, show_default=True, help=text)(command)
    return command


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--documents", multiple=True, type=click.IntRange(1), default=DOCUMENTS, show_default=True)
@click.option("--cores", multiple=True, type=click.IntRange(1), default=CORES, show_default=True)
@_options
def main(output: Path, documents: tuple[int, ...], cores: tuple[int, ...], **assumed: Any) -> None:
    """Read the stage "rates" of OUTPUT, and write the stage "simulation"."""
    stages = read_stages(output)
    if "rates" not in stages:
        raise click.ClickException(f"{output} has no rates; run python -m bench.scale rates first")
    rates, assumptions = Rates.from_dict(stages["rates"]["result"]), Assumptions(**assumed)

    def run() -> dict[str, Any]:
        return {
            **simulate(rates, assumptions, documents, cores),
            "most_workers": most_workers(rates, assumptions),
            "beside_other_results": compare(rates),
        }

    write_stage(output, "simulation", run, toy=bool(stages["rates"].get("toy")))
    click.echo(f"wrote {output}")
