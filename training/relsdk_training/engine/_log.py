"""The log of a run: one JSON object a line, appended as it happens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, TrainingError
from relsdk.files.folders import write_file_atomically

__all__ = ["RunLog", "read_log"]


class RunLog:
    """Appends to a run's log.

    Args:
        path: The file.
        after: Steps beyond this one are dropped first: a resumed run writes them again.
    """

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self.path = path
        kept = [line for line in read_log(path) if after and line["step"] <= after] if path.exists() else []
        write_file_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line of kind "step" or "dev"; what is no number, such as an undefined measure, as null.

        Raises:
            TrainingError: The disk is full or not writable.
        """
        rounded = {
            name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in values.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **rounded}) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written ({error.strerror or error}); make room, go on with --resume"
            ) from error


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a log's lines; a last line that a kill cut off is left out.

    Raises:
        InputError: A line in the middle is damaged.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # nothing follows, not even the end of the line
                return
            raise InputError(f"{path}, line {number}: not JSON ({error}); delete the line") from error
