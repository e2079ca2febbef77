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

    Attributes:
        signal: The first one; None as long as there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
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

    @property
    def stopped(self) -> str:
        """How a training that ends now ended; one of several processes may have met no signal."""
        return "terminated" if self.signal == signal.SIGTERM else "interrupted"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            before = self._before[number]
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.signal = number
