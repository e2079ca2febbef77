"""From the start of a process to its first vector, imports and model loading included."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np

from bench.harness.interleave import Contender, measure
from bench.serving.children import READY
from bench.serving.peers import OURS, PEERS, note, wanted
from bench.serving.processes import answer, start_child
from bench.serving.settings import Settings


def run(settings: Settings) -> list[dict[str, Any]]:
    """Start one process after the other; files are in the page cache after the warm-up."""
    first = {name: answer(start_child(settings, "start", name)) for name in wanted(settings)}
    contenders = []
    for name, found in first.items():
        if "absent" in found:
            settings.absent.setdefault(name, found["absent"])
            continue
        if name in PEERS:
            note(settings, PEERS[name].package)
        contenders.append(
            Contender(
                name,
                lambda _, name=name: _until_first_vector(settings, name),
                role="ours" if name in OURS else "peer",
                quality=_quality(found, first["relsdk fp32"], name),
                extra={"memory": {"resident_mb": found["resident_mb"]}},
                after=_finish,
            )
        )
    return measure(
        "cold_start",
        "process start to first vector",
        [*contenders, settings.yardstick],
        settings.plan(7, 1, warmup=0),
        unit="starts",
    )


def _until_first_vector(settings: Settings, name: str) -> subprocess.Popen[str]:
    child = start_child(settings, "start", name)
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if line != READY:
        child.kill()
        child.communicate()
        raise RuntimeError(f"{name} gave no vector but {line!r}")
    return child


def _finish(child: subprocess.Popen[str]) -> None:
    child.communicate()


def _quality(found: dict[str, Any], exact: dict[str, Any], name: str) -> dict[str, float]:
    if name in PEERS and not PEERS[name].same_weights:
        return {}
    return {"cosine_to_fp32": round(float(np.dot(found["vector"], exact["vector"])), 6)}
