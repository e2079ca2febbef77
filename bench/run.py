"""Run the benchmark suites and write one JSON: the machine, and for each benchmark its percentiles.

Run by `make bench`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from bench.harness.machine import machine_record
from relsdk.files.folders import write_file_atomically


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("-k", "only", default="", help="pytest's -k: run some of the benchmarks.")
def main(output: Path, only: str) -> None:
    """Run bench/bench_*.py on one thread and write OUTPUT."""
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw.json"
        arguments = ["bench", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider", "-q", "-k", only]
        code = pytest.main([*arguments, f"--benchmark-json={raw}", "--benchmark-disable-gc"])
        if code:
            sys.exit(int(code))
        content = json.loads(raw.read_text())
    result = {
        "machine": machine_record(),
        "threads": 1,
        "benchmarks": [_entry(b) for b in content["benchmarks"]],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    click.echo(f"wrote {output}")


def _entry(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Condense one benchmark to milliseconds at the percentiles that matter."""
    milliseconds = np.array(benchmark["stats"]["data"]) * 1e3
    p50, p90, p95, p99 = (round(float(np.percentile(milliseconds, q)), 4) for q in (50, 90, 95, 99))
    return {
        "name": benchmark["name"],
        "rounds": len(milliseconds),
        "p50_ms": p50,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        **benchmark["extra_info"],
    }


if __name__ == "__main__":
    main()
