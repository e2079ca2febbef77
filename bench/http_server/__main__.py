"""Measure `relsdk serve`, stage by stage, and write the results after each.

    python -m bench.http_server --output bench/results/serve.json

What is made is kept in the folder of `--work`; a stage that OUTPUT holds is not run again, unless it is
named.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from bench.harness.machine import ROOT, machine_record
from bench.harness.stages import run_stage
from bench.http_server.models import prepare
from bench.http_server.processes import Cpus
from bench.http_server.run import TOY, Run, Sizes

SEED = 0
_STAGES = "bench.http_server.stages_"
# name -> function of a Run; in this order.
STAGES = {
    "added": f"{_STAGES}single:added",
    "routes": f"{_STAGES}single:routes",
    "memory": f"{_STAGES}single:memory",
    "throughput": f"{_STAGES}load:throughput",
    "overload": f"{_STAGES}load:overload",
    "peers": f"{_STAGES}peers:beside_peers",
    "soak": f"{_STAGES}load:soak",
}


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=ROOT / ".bench" / "http")
@click.option("--shared", type=click.Path(path_type=Path), default=ROOT.parent / "shared", help="Real data.")
@click.option("--only", multiple=True, type=click.Choice(list(STAGES)), help="Run these, again if need be.")
@click.option("--peer", "peers", multiple=True, help="Run these peers [all].")
@click.option("--soak-s", type=float, help="Seconds of the soak [3600].")
@click.option("--small", is_flag=True, help="Toy sizes: does it run? Its numbers mean nothing.")
def main(
    output: Path,
    work: Path,
    shared: Path,
    only: tuple[str, ...],
    peers: tuple[str, ...],
    soak_s: float | None,
    small: bool,
) -> None:
    """Measure the server beside the library and beside other servers, and write OUTPUT."""
    sizes = TOY if small else Sizes()
    sizes = sizes if soak_s is None else replace(sizes, soak_s=soak_s)
    folders, cpus = prepare(work, shared), Cpus.choose()
    cpus.hold_client()
    run = Run(work, shared, folders, cpus, sizes, peers or None)
    measure(run, output, only, toy=small)
    click.echo(f"wrote {output}")


def measure(run: Run, output: Path, only: tuple[str, ...] = (), *, toy: bool = False) -> None:
    """Run the stages that are named, or those that the output has not, and write it after each."""
    from relsdk.files.folders import write_file_atomically

    stages = json.loads(output.read_text(encoding="utf-8"))["stages"] if output.is_file() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, function in STAGES.items():
        if name not in only if only else name in stages:
            continue
        stages[name] = run_stage(name, partial(resolve_name(function), run), SEED)
        content: dict[str, Any] = {
            "machine": machine_record(SEED),
            "toy": toy,
            "sizes": asdict(run.sizes),
            "cpus": asdict(run.cpus),
            "real_queries": run.texts.real,
            "stages": {key: stages[key] for key in STAGES if key in stages},
        }
        write_file_atomically(output, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
