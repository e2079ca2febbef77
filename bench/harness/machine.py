"""The machine that a result was measured on; every committed number carries this record."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from relsdk.runtime.hardware import choose_threads, cpu_features

PACKAGES = ("relsdk", "numpy", "onnxruntime", "tokenizers", "hnswlib", "torch", "transformers", "onnx")
ROOT = Path(__file__).resolve().parents[2]


def machine_record(seed: int = 0) -> dict[str, Any]:
    """Return CPU, threads, versions, commit, command, seed and date."""
    threads = choose_threads()
    wanted = {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "arm64"}
    return {
        "cpu": _cpu_model(),
        "cpu_features": sorted(wanted & cpu_features()),
        "cpus": threads.affinity,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "command": shlex.join(["python", "-m", _module(), *_arguments()]),
        "seed": seed,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _module() -> str:
    """Return the dotted name of the program that runs: `bench.experiments.ssra`, `bench.serving`."""
    path = Path(sys.argv[0]).resolve()
    if not path.is_relative_to(ROOT):
        return path.name
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def _arguments() -> list[str]:
    """Return the arguments; absolute paths, which say nothing elsewhere, cut to their last part."""
    return [Path(a).name if os.path.isabs(a) else a for a in sys.argv[1:]]
