"""Progress of long work on stderr: a line that is redrawn on a terminal, a line now and then elsewhere.

Work that takes less than ten seconds prints nothing where there is no terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress", "draws_on", "duration"]

_FIRST_LINE = 10.0  # seconds until the first line where nothing can be redrawn
_LINE_SHARE = 0.1  # then a line each tenth of the time so far,
_SLOWEST = 300.0  # but at least each five minutes
_REDRAW = 0.1


def draws_on(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that can redraw a line and show styles."""
    if stream is None or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


class Progress:
    """Shows stages of work on stderr; writing there never fails the work.

    Args:
        total: Steps of each stage, where known: gives a share and the time that is left.
        clock: Seconds; tests give another.
    """

    def __init__(self, total: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._stage = ""
        self._first = 0  # steps that were done when the clock started
        self._drawn = 0  # cells of the line that is on the terminal
        self._started = self._next = 0.0

    def __call__(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Show how far a stage has come.

        Args:
            stage: Its name; another one than before ends the line of that.
            done: Steps done.
            total: Steps of this stage, where not those given at first.
            note: Shown behind.
        """
        now = self._clock()
        draws = draws_on(sys.stderr)
        if stage != self._stage:
            self.finish()
            self._stage, self._started, self._first = stage, now, done
            self._next = now if draws else now + _FIRST_LINE
        total = self._total if total is None else total
        if now < self._next and not (draws and done == total):
            return
        line = _line(stage, done, total, done - self._first, now - self._started) + (
            f"  {note}" if note else ""
        )
        if draws:
            self._next = now + _REDRAW
            self._redraw(line)
        else:
            self._next = now + min(max(_FIRST_LINE, (now - self._started) * _LINE_SHARE), _SLOWEST)
            _write(line + "\n")

    def finish(self) -> None:
        """End the line that is being drawn."""
        if self._drawn:
            _write("\n")
        self._stage, self._drawn = "", 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _redraw(self, line: str) -> None:
        line = line[: shutil.get_terminal_size((80, 24)).columns - 1]
        _write("\r" + line + " " * (self._drawn - len(line)))
        self._drawn = len(line)


def _line(stage: str, done: int, total: int | None, timed: int, seconds: float) -> str:
    """Describe a stage of which `timed` steps took so many seconds."""
    if not total or done > total:
        rate = f", {timed / seconds:,.0f}/s" if seconds >= 1 else ""
        return f"{stage} {done:,}{rate}"
    line = f"{stage} {done:,} of {total:,}"
    if timed > 0 and done < total and seconds >= 1:
        line += f", {duration(seconds / timed * (total - done))} left"
    return line


def duration(seconds: float) -> str:
    """Return a time in words: "2h 05m", "3m 20s" or "7s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # full or closed: nobody can be told
        pass
