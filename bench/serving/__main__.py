"""Run the suites and write one result file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from bench.serving import ON_REQUEST, SUITES

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(SUITES)),
    help="Run these suites [all but soak and million_*].",
)
@click.option(
    "--small", is_flag=True, help="Toy sizes and few rounds: does it run? Its numbers mean nothing."
)
@click.option("--no-peers", is_flag=True, help="relsdk only: to compare two commits.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), envvar="RELSDK_BENCH_BUNDLE")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), envvar="RELSDK_BENCH_CHECKPOINT")
@click.option("--scorer", type=click.Path(path_type=Path, exists=True), help="A cross-encoder's bundle.")
@click.option(
    "--tower", type=click.Path(path_type=Path, exists=True), help="An encoder's bundle with a query tower."
)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="For what is made [.bench].")
def main(
    output: Path,
    only: tuple[str, ...],
    small: bool,
    no_peers: bool,
    threads: int,
    bundle: Path | None,
    checkpoint: Path | None,
    scorer: Path | None,
    tower: Path | None,
    work: Path | None,
) -> None:
    """Time relsdk and its peers by turns and write OUTPUT, after each suite anew.

    Without --bundle, the encoder is that of the shared folder, else the one that `relsdk model pull` makes.
    With --only, what OUTPUT holds of other suites stays, so that a run that was stopped can be completed.
    """
    for name in _POOLS:  # before numpy and torch read them
        os.environ[name] = str(threads)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from bench.serving.settings import header, make_settings
    from relsdk.bundle import read_bundle
    from relsdk.files.atomic import hold_lock
    from relsdk.files.folders import write_file_atomically

    if tower is not None and not all(variant.query_file for variant in read_bundle(tower).variants):
        raise click.UsageError(
            f"{tower} has no query tower; make one with: relsdk export encoder --query-tower"
        )

    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        settings = make_settings(
            Path(temporary),
            small=small,
            peers=not no_peers,
            threads=threads,
            bundle=bundle,
            checkpoint=checkpoint,
            scorer=scorer,
            tower=tower,
            cache=work,
        )
        flags = {"--small": small, "--no-peers": no_peers}
        command = ["bench.serving", *_shown(output, only, flags, threads)]
        made = _begun(output, {**header(settings, command), "rows": []}, only)
        output.parent.mkdir(parents=True, exist_ok=True)
        for name in only or [name for name in SUITES if name not in ON_REQUEST]:
            click.echo(f"suite {name}", err=True)
            rows = resolve_name(SUITES[name])(settings)
            with hold_lock(output.with_name(f"{output.name}.lock"), wait=True):
                if only:  # another run may have completed it meanwhile, beside this one
                    made = _begun(output, made, only)
                made = _with_suite(made, header(settings, command), name, rows)
                write_file_atomically(output, json.dumps(made, ensure_ascii=False, indent=1) + "\n")
    for warning in made["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"wrote {output}")


def _begun(output: Path, empty: dict[str, Any], only: tuple[str, ...]) -> dict[str, Any]:
    """Return what other runs left that this one completes, else `empty`."""
    from bench.results_format.compare import differences_of_header
    from bench.results_format.records import Results, read_results
    from relsdk.errors import InputError

    if not only or not output.is_file():
        return empty
    try:
        earlier = read_results(output)
    except InputError as error:
        raise click.UsageError(f"{error}; or name another file") from error
    different = differences_of_header(earlier, Results(output, empty["header"], ()))
    if different or earlier.header["small"] != empty["header"]["small"]:
        raise click.UsageError(
            f"{output} is of another kind of run ({'; '.join(different) or '--small'}); name another file"
        )
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def _with_suite(
    made: dict[str, Any], fresh: dict[str, Any], name: str, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a result file with a suite measured, in the order of `SUITES`; its header dates each suite."""
    from bench.harness.interleave import warnings_of

    places = list(SUITES)
    rows = sorted(
        [*(row for row in made["rows"] if row["suite"] != name), *rows],
        key=lambda row: places.index(row["suite"]),
    )
    header = fresh["header"]
    now = {key: header["machine"][key] for key in ("commit", "date", "command")}
    header["peers"] = dict(sorted({**made["header"]["peers"], **header["peers"]}.items()))
    header["suites"] = {
        **made["header"].get("suites", {}),
        name: {**now, "load_average": header["load_average"]},
    }
    return {**fresh, "warnings": warnings_of(rows), "rows": rows}


def _shown(output: Path, only: tuple[str, ...], flags: dict[str, bool], threads: int) -> list[str]:
    """The arguments as a reader would type them; absolute paths say nothing elsewhere."""
    parts = [part for name in only for part in ("--only", name)]
    parts += [flag for flag, given in flags.items() if given]
    name = output.name if output.is_absolute() else str(output)
    return ["--output", name, *parts, "--threads", str(threads)]


if __name__ == "__main__":
    main()
