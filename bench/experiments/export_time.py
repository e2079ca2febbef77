"""How long an export takes on one CPU, step by step.

Run by `make export-time`; needs the folder of real data (`../shared`). Each export is a process of its own,
held to one CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.harness.machine import machine_record
from bench.harness.stages import run_stage
from relsdk.files.folders import write_file_atomically

# Times the steps by the clock, and the CPU's time, which other processes do not lengthen as much.
_PROGRAM = """
import json, os, sys, time
from pathlib import Path

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
steps, last = {}, None

def on_step(step):
    global last
    now = step, time.perf_counter(), time.process_time()
    if last is not None:
        row = steps.setdefault(last[0], {"seconds": 0.0, "cpu_seconds": 0.0})
        row["seconds"] += now[1] - last[1]
        row["cpu_seconds"] += now[2] - last[2]
    last = now

on_step("import torch")
from relsdk_export.encoder import export_encoder

bundle = export_encoder(
    Path(sys.argv[1]), Path(sys.argv[2]), on_step=lambda step: step.startswith("note: ") or on_step(step)
)
on_step("")
variants = {
    one.name: {key: one.quality["parity"][key] for key in ("mean_cosine", "min_cosine")}
    for one in bundle.variants
}
print(json.dumps({"steps": steps, "variants": variants}))
"""


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=3, show_default=True)
def main(shared: Path, output: Path, rounds: int) -> None:
    """Measure the export of the shared encoder, with every variant."""
    checkpoint = shared / "models/me5-small-zh"
    run = run_stage("export", lambda: measure(checkpoint, rounds), 0)
    result = {
        "machine": machine_record(),
        "cpus": 1,
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "model": checkpoint.name,
        "rounds": rounds,
        **{key: run[key] for key in ("load_average", "others_cpus", "loaded")},
        **run["result"],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    total = result["total"]
    click.echo(f"{total['seconds']} s, of these {total['cpu_seconds']} s of CPU; wrote {output}")


def measure(checkpoint: Path, rounds: int) -> dict[str, Any]:
    """Export again and again; return seconds by step, medians of the rounds, and how close the files are."""
    found = [_export(checkpoint) for _ in range(rounds)]
    clocks = ("seconds", "cpu_seconds")
    totals = [{clock: sum(row[clock] for row in one["steps"].values()) for clock in clocks} for one in found]
    return {
        "steps": {
            step: {clock: round(median(one["steps"][step][clock] for one in found), 2) for clock in clocks}
            for step in found[0]["steps"]
        },
        "total": {clock: round(median(one[clock] for one in totals), 2) for clock in clocks},
        "variants": found[-1]["variants"],
    }


def _export(checkpoint: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(checkpoint), f"{folder}/bundle"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
