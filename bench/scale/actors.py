"""Time bulk encoding with one and two workers: local processes, and actors of a Ray cluster on this machine.

    python -m bench.scale actors --output bench/results/scale.json

A round runs each contender once, every second round in reverse, so that a drift of the machine meets all of
them. Each worker has one thread. Two workers need two idle cores: others_cpus says who had
them before each run (Ray's own processes count as others in the record of the stage).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.harness.machine import ROOT
from bench.http_server.models import prepare_tower
from bench.results_format.statistics import median_estimate
from bench.scale.results import SEED, write_stage
from relsdk.bundle import read_bundle
from relsdk.formats import write_documents
from relsdk.shards import encode_shards, open_runner
from relsdk_sample.documents import make_documents

# name -> workers, and the address of a cluster.
CONTENDERS: dict[str, tuple[int, str | None]] = {
    "1 process": (1, None),
    "2 processes": (2, None),
    "1 actor": (1, "local"),
    "2 actors": (2, "local"),
}
# CPUs of others before a run, beyond which the machine had other work.
_IDLE = 0.1
_RATIOS = (("2 processes", "1 process"), ("2 actors", "1 actor"), ("1 actor", "1 process"))


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="Encoder [one of 12 layers].")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=ROOT / ".bench" / "http")
@click.option("--shared", type=click.Path(path_type=Path), default=ROOT.parent / "shared", help="Real data.")
@click.option("--contender", multiple=True, type=click.Choice(list(CONTENDERS)), help="[all]")
@click.option("--small", is_flag=True, help="One round: does it run? Its numbers mean little.")
def main(
    output: Path, bundle: Path | None, work: Path, shared: Path, contender: tuple[str, ...], small: bool
) -> None:
    """Time one and two workers, and write the stage "actors" of OUTPUT."""
    bundle = bundle or prepare_tower(work, shared)
    rows, rounds = 4096, 1 if small else 2  # four parts: two workers have two more to make than to begin with
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        place = Path(temporary)
        texts = place / "documents.jsonl"
        write_documents(texts, make_documents(SEED, rows))

        def run() -> dict[str, Any]:
            return measure(bundle, texts, place, contender or tuple(CONTENDERS), rounds)

        write_stage(output, "actors", run, toy=small)
    click.echo(f"wrote {output}")


def measure(
    bundle: Path, texts: Path, place: Path, names: tuple[str, ...] = tuple(CONTENDERS), rounds: int = 3
) -> dict[str, Any]:
    """Run the contenders by turns; return rates, and the ratios of what belongs together.

    Args:
        bundle: An encoder.
        texts: A file of documents.
        place: A folder for parts.
        names: Of contenders.
        rounds: How many times each runs.
    """
    rates: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    others: list[float] = []
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            others.append(_busy_cpus())
            rate, wall = _run(bundle, texts, place / "parts", *CONTENDERS[name])
            rates[name].append(rate)
            seconds[name].append(wall)
            click.echo(f"round {number + 1}, {name}: {rate:,.1f} texts/s, {wall:.1f} s", err=True)
    rows = {
        name: {
            "workers": CONTENDERS[name][0],
            "on": "processes" if CONTENDERS[name][1] is None else "Ray",
            "texts_per_second": {"median": round(float(np.median(rates[name])), 1), "rounds": rates[name]},
            "seconds_with_start": seconds[name],
        }
        for name in names
    }
    ratios = {
        f"{many} / {one}": _ratio(rates[many], rates[one])
        for many, one in _RATIOS
        if many in rates and one in rates
    }
    return {
        "model": read_bundle(bundle).name,
        "versions": _versions(),
        "others_cpus": others,
        "loaded": max(others) > _IDLE,
        "contenders": rows,
        "ratios": ratios,
    }


def _busy_cpus() -> float:
    """Return how many CPUs others keep busy while this process waits for a second."""

    def busy() -> float:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")

    before, start = busy(), time.perf_counter()
    time.sleep(1)
    return round((busy() - before) / (time.perf_counter() - start), 2)


def _run(bundle: Path, texts: Path, folder: Path, workers: int, ray: str | None) -> tuple[float, float]:
    """Return texts a second once each worker has made a part, and the seconds with reading and starting."""
    shutil.rmtree(folder, ignore_errors=True)
    ends: list[tuple[float, int]] = []

    def note(stage: str, done: int, total: int | None) -> None:
        if stage == "documents" and done:
            ends.append((time.perf_counter(), done))

    start = time.perf_counter()
    encode_shards(bundle, texts, folder, runner=open_runner(workers, ray), threads=1, on_progress=note)
    wall = time.perf_counter() - start
    (begun, before), (ended, after) = ends[workers - 1], ends[-1]
    return round((after - before) / (ended - begun), 1), round(wall, 2)


def _ratio(many: list[float], one: list[float]) -> dict[str, float]:
    """Return the median over the rounds of their ratios, with its bootstrap interval."""
    estimate = median_estimate(np.divide(many, one), seed=SEED)
    return {
        "median": round(estimate.median, 3),
        "low": round(estimate.low, 3),
        "high": round(estimate.high, 3),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("ray", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
