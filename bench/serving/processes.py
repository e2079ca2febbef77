"""Start `bench.serving.children` and read what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from bench.harness.machine import ROOT
from bench.serving.settings import Settings


def start_child(settings: Settings, role: str, name: str, **request: Any) -> subprocess.Popen[str]:
    """Start a child for an encoder; its answer is on its standard output."""
    content = {
        "name": name,
        "models": settings.models.to_dict(),
        "threads": settings.threads,
        **request,
    }
    with tempfile.NamedTemporaryFile(
        "w", dir=settings.temporary, suffix=".json", delete=False, encoding="utf-8"
    ) as file:  # a soak's texts are more than a command line holds
        json.dump(content, file)
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "bench.serving.children", role, file.name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"},
    )


def answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a child's end and return its last line.

    Raises:
        RuntimeError: It failed.
    """
    output, _ = child.communicate()
    lines = output.strip().splitlines()
    if child.returncode or not lines:
        raise RuntimeError(f"{child.args} ended with code {child.returncode}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found
