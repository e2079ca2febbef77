"""Run the suites and write one result file."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path

import click

from bench.suites import SUITES

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--only", multiple=True, type=click.Choice(list(SUITES)), help="Run these suites [all].")
@click.option(
    "--small", is_flag=True, help="Toy sizes and few rounds: does it run? Its numbers mean nothing."
)
@click.option("--million", is_flag=True, help="Also search a million vectors.")
@click.option("--no-peers", is_flag=True, help="relsdk only: to compare two commits.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), envvar="RELSDK_BENCH_BUNDLE")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), envvar="RELSDK_BENCH_CHECKPOINT")
@click.option("--scorer", type=click.Path(path_type=Path, exists=True), help="A cross-encoder's bundle.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="For what is made [.bench].")
def main(
    output: Path,
    only: tuple[str, ...],
    small: bool,
    million: bool,
    no_peers: bool,
    threads: int,
    bundle: Path | None,
    checkpoint: Path | None,
    scorer: Path | None,
    work: Path | None,
) -> None:
    """Time relsdk and its peers by turns and write OUTPUT.

    Without --bundle, the encoder is that of the shared folder, else the one that `relsdk model pull` makes.
    """
    for name in _POOLS:  # before numpy and torch read them
        os.environ[name] = str(threads)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from bench.suites.settings import header, make_settings

    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        settings = make_settings(
            Path(temporary),
            small=small,
            million=million,
            peers=not no_peers,
            threads=threads,
            bundle=bundle,
            checkpoint=checkpoint,
            scorer=scorer,
            cache=work,
        )
        rows = []
        for name in only or SUITES:
            click.echo(f"suite {name}", err=True)
            rows += importlib.import_module(SUITES[name]).run(settings)
        flags = {"--small": small, "--million": million, "--no-peers": no_peers}
        result = header(settings, ["bench.suites", *_shown(output, only, flags, threads)])
    from bench.interleave import warnings_of
    from relsdk.folders import write_file_atomically

    warnings = warnings_of(rows)
    result.update(warnings=warnings, rows=rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"wrote {output}")


def _shown(output: Path, only: tuple[str, ...], flags: dict[str, bool], threads: int) -> list[str]:
    """The arguments as a reader would type them; absolute paths say nothing elsewhere."""
    parts = [part for name in only for part in ("--only", name)]
    parts += [flag for flag, given in flags.items() if given]
    name = output.name if output.is_absolute() else str(output)
    return ["--output", name, *parts, "--threads", str(threads)]


if __name__ == "__main__":
    main()
