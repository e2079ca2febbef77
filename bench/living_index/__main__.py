"""Measure a living index, stage by stage, and write the results after each.

    python -m bench.living_index --output bench/results/index.json --work runs/index

What is built is kept in the folder of `--work`; a stage that OUTPUT holds is not run again, unless it is
named.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from bench.harness.machine import ROOT, machine_record
from bench.harness.stages import run_stage
from bench.living_index.contenders import CONTENDERS, contender_class
from bench.living_index.corpus import SEED
from bench.living_index.run import LARGE, LARGE_TOY, SMALL, TOY, Run

_STAGES = "bench.living_index.stages_"
# name -> function of a Run; in this order.
STAGES = {
    "million-build": f"{_STAGES}million:build",
    "million-delete": f"{_STAGES}million:delete",
    "million-add": f"{_STAGES}million:add",
    "million-compact": f"{_STAGES}million:compact",
    "million-search": f"{_STAGES}million:search",
    "million-filters": f"{_STAGES}million:filtered",
    "million-hybrid": f"{_STAGES}million:hybrid",
    "million-peer": f"{_STAGES}million:peer",
    "build": f"{_STAGES}peers:build",
    "search": f"{_STAGES}peers:search",
    "filters": f"{_STAGES}peers:filtered",
    "changes": f"{_STAGES}peers:changes",
    "hybrid": f"{_STAGES}peers:hybrid",
}


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=ROOT / ".bench" / "index")
@click.option(
    "--shared", type=click.Path(path_type=Path), default=ROOT.parent / "shared", help="Real titles."
)
@click.option("--only", multiple=True, type=click.Choice(list(STAGES)), help="Run these, again if need be.")
@click.option("--contender", multiple=True, type=click.Choice(list(CONTENDERS)), help="[all that are here]")
@click.option("--threads", default=2, show_default=True, help="For the graphs of the million.")
@click.option("--small", is_flag=True, help="Toy sizes: does it run? Its numbers mean nothing.")
def main(
    output: Path,
    work: Path,
    shared: Path,
    only: tuple[str, ...],
    contender: tuple[str, ...],
    threads: int,
    small: bool,
) -> None:
    """Measure changes, filters and hybrid retrieval beside the peers, and write OUTPUT."""
    from relsdk.files.folders import write_file_atomically

    present, absent = _versions(contender or tuple(CONTENDERS))
    sizes = {"small": TOY, "large": LARGE_TOY} if small else {"small": SMALL, "large": LARGE}
    run = Run(work, shared, tuple(present), threads, **sizes)
    stages = json.loads(output.read_text(encoding="utf-8"))["stages"] if output.is_file() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, function in STAGES.items():
        if name not in only if only else name in stages:
            continue
        stages[name] = run_stage(name, partial(resolve_name(function), run), SEED)
        content = {
            "machine": machine_record(SEED),
            "toy": small,
            "sizes": {key: _size(size) for key, size in sizes.items()},
            "contenders": {"present": present, "absent": absent},
            "stages": {key: stages[key] for key in STAGES if key in stages},
        }
        write_file_atomically(output, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    click.echo(f"wrote {output}")


def _versions(names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Return versions of those that are here, and why others are not."""
    present, absent = {}, {}
    for name in names:
        try:
            present[name] = version(contender_class(name).package)
        except (ImportError, PackageNotFoundError) as error:
            absent[name] = f"not installed: {error}"
    return present, absent


def _size(size: Any) -> dict[str, Any]:
    return {**vars(size), "steps": list(size.steps)}


if __name__ == "__main__":
    main()
