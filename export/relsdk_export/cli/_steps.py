"""Say on stderr what an export is doing and how long each step took."""

from __future__ import annotations

import time

from relsdk.cli.output import echo

__all__ = ["Steps"]

_NOTE = "note: "


class Steps:
    """Times steps; each ends where the next begins.

    Attributes:
        seconds: By step, in their order; steps of one name are added up. `finish` adds the "total".
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._began = time.perf_counter()
        self._step = ""

    def __call__(self, step: str) -> None:
        """Begin a step, or print a note about the one that is running."""
        if step.startswith(_NOTE):
            echo(f"    {step}", err=True)
            return
        self._end()
        echo(f"... {step}", dim=True, err=True)
        self._step = step

    def finish(self) -> dict[str, float]:
        """End the last step, print the total, and return the seconds."""
        self._end()
        self.seconds["total"] = round(self._began - self._started, 2)
        _echo_seconds("total", self.seconds["total"])
        return self.seconds

    def _end(self) -> None:
        now = time.perf_counter()
        if self._step:
            took = now - self._began
            self.seconds[self._step] = round(self.seconds.get(self._step, 0.0) + took, 2)
            _echo_seconds(self._step, took)
        self._began = now


def _echo_seconds(step: str, seconds: float) -> None:
    echo(f"{seconds:6.1f} s  {step}", err=True)
