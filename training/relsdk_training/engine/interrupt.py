"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["STOPPED_FROM_OUTSIDE", "InterruptAfterStep"]

# How a training ended that goes on with --resume.
STOPPED_FROM_OUTSIDE = ("interrupted", "terminated")


class InterruptAfterStep:
    """Remembers the first Ctrl-C or SIGTERM, so that a step is never half done; the second acts as before.

    A signal that was ignored (`nohup`, a background job) stays so.
    """

    def __init__(self) -> None:
        self.asked = False
        self.stopped = "interrupted"  # or "terminated", by SIGTERM
        self._before: dict[int, Any] = {}

    def __enter__(self) -> InterruptAfterStep:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            before = self._before[number]
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.asked = True
        if number == signal.SIGTERM:
            self.stopped = "terminated"
