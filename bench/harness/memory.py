"""Memory of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def memory_now() -> tuple[float, float]:
    """Return resident MB (10^6 bytes), and those that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    resident, anonymous = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon"))
    return round(resident, 1), round(anonymous, 1)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds the highest values at the end; they are read ten times a second."""
    ended, found = threading.Event(), {"peak_resident_mb": 0.0, "peak_anonymous_mb": 0.0}

    def look() -> None:
        while True:
            for name, value in zip(found, memory_now(), strict=True):
                found[name] = max(found[name], value)
            if ended.wait(0.1):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
