"""The file of results, to which each program adds its stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.machine import machine_record
from bench.harness.stages import run_stage
from relsdk.files.folders import write_file_atomically

SEED = 0


def read_stages(output: Path) -> dict[str, Any]:
    """Return the stages that a file holds; none where there is no file."""
    if not output.is_file():
        return {}
    stages: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))["stages"]
    return stages


def write_stage(output: Path, name: str, work: Callable[[], Any], *, toy: bool = False) -> Any:
    """Run a stage, put its result in the place of an earlier one, and return the result."""
    stage, machine = run_stage(name, work, SEED), machine_record(SEED)
    stages = read_stages(output) | {name: {"cpu": machine["cpu"], "toy": toy, **stage}}
    content = {
        "machine": machine,
        "toy": any(one.get("toy", False) for one in stages.values()),
        "stages": stages,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return stage["result"]
