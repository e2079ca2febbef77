"""The options of commands that fill a folder of parts, and what they say at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from relsdk.cli.output import counted, echo, echo_json
from relsdk.errors import InputError
from relsdk.progress import Progress, duration
from relsdk.shards.folder import PartsSummary

__all__ = [
    "echo_summary",
    "parts_progress",
    "ray_option",
    "refuse_file_name",
    "refuse_workers",
    "workers_option",
]

_OF_FILES = frozenset({".csv", ".gz", ".json", ".jsonl", ".ndjson", ".npz", ".parquet", ".tsv", ".txt"})

workers_option = click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that make parts; on a cluster, workers [default: 1; on a cluster what it has room for].",
)
ray_option = click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="Make the parts on a Ray cluster: the one this machine belongs to, or that of an address. All "
    "its machines see the input, the model and the folder under the same paths.",
)


@contextmanager
def parts_progress() -> Iterator[Progress]:
    """Show progress; what Ray prints meanwhile goes to stderr, since stdout is for the summary."""
    with Progress() as progress, redirect_stdout(sys.stderr):
        yield progress


def refuse_file_name(output: Path) -> None:
    """Raise `InputError` when the name of a folder is that of a file."""
    if output.suffix.lower() in _OF_FILES and not os.path.isdir(output):
        raise InputError(
            f"{output} is named like a file, and a folder of parts is written; leave out {output.suffix}"
        )


def refuse_workers(workers: int | None, ray: str | None, remedy: str) -> None:
    """Raise `InputError` when workers were asked of what is no folder of parts."""
    if workers is not None or ray is not None:
        raise InputError(f"--workers and --ray make a folder of parts; {remedy}")


def echo_summary(summary: PartsSummary, as_json: bool) -> None:
    """Print what is in a folder now, and how long a million rows take at the rate of this run."""
    rate, million = summary.rows_per_second, summary.seconds_per_million
    if as_json:
        content: dict[str, Any] = {
            "output": str(summary.folder),
            "rows": summary.rows,
            "parts": summary.parts,
            "kept": summary.kept,
            "tokens": summary.tokens,
            "truncated": summary.truncated,
            "computed": summary.computed,
            "seconds": round(summary.seconds, 3),
            "texts_per_second": None if rate is None else round(rate, 3),
            "seconds_per_million": None if million is None else round(million, 1),
        }
        echo_json(content)
        return
    kept = f" ({summary.kept:,} of them before)" if summary.kept else ""
    size = f"{counted(summary.rows, 'row')} in {counted(summary.parts, 'part')}{kept}"
    cut = f", {counted(summary.truncated, 'text')} cut to what the model reads" if summary.truncated else ""
    echo(f"{summary.folder}: {size}, {counted(summary.tokens, 'token')}{cut}")
    if rate is None or million is None:
        echo("nothing to do: every part is there and whole")
        return
    echo(
        f"{counted(summary.computed, 'row')} in {duration(summary.seconds)}: {rate:,.1f} a second; a million "
        f"would take {duration(million)} at this rate, start included"
    )
