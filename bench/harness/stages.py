"""Run a stage of a long measurement, and note when, of which commit, and what else the machine did."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.harness.machine import machine_record

# What others used of the CPUs, beyond which a machine had other work.
_IDLE = 0.1


def run_stage(name: str, stage: Callable[[], Any], seed: int) -> dict[str, Any]:
    """Run a stage and return its result with the record of the run."""
    load, start, others = os.getloadavg()[0], time.perf_counter(), _others_s()
    click.echo(f"{time.strftime('%H:%M:%S')} {name}, load average {load:.1f}", err=True)
    result = stage()
    seconds = time.perf_counter() - start
    cpus = max(0.0, (_others_s() - others) / seconds)
    machine = machine_record(seed)
    return {
        **{key: machine[key] for key in ("commit", "date", "command")},
        "seconds": round(seconds, 1),
        "load_average": {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)},
        "others_cpus": round(cpus, 2),
        "loaded": cpus > _IDLE,
        "result": result,
    }


def _others_s() -> float:
    """Return the CPU seconds of other processes, and what the host took, since the start of the machine."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, *rest = map(int, fields)
    busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy - sum(usage.ru_utime + usage.ru_stime for usage in own)
