"""Ctrl-C during training."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["InterruptAfterStep"]


class InterruptAfterStep:
    """Remembers the first Ctrl-C, so that a step is never half done; the second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> InterruptAfterStep:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
