"""Keep numpy's matrix products within the threads that relsdk may use.

numpy starts a thread for every CPU that it sees and has no call for less. Inside a container whose quota is
smaller the kernel stops those threads again and again. OpenBLAS, which numpy's wheels bring along, has such a
call; with another library nothing is bounded.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from relsdk.runtime.hardware import choose_threads

__all__ = ["blas_threads", "bounded_blas"]

_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads64_")


class _Bound:
    """The size of a process's pool: the first who enters sets it, the last who leaves restores it."""

    def __init__(self, get: Callable[[], int], set_: Callable[[int], None]) -> None:
        self.get = get
        self._set = set_
        self._lock = threading.Lock()
        self._inside = 0
        self._own = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def enter(self, limit: int) -> bool:
        """Return whether there is anything to leave."""
        with self._lock:
            if not self._inside:
                self._own = self.get()
                if self._own <= limit:
                    return False
                self._set(limit)
            self._inside += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._own)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread may have held the parent's
        if self._inside:
            self._inside = 0
            self._set(self._own)


@contextmanager
def bounded_blas() -> Iterator[None]:
    """Bound the threads of numpy's products while the body runs, in the whole process."""
    bound = _openblas()
    entered = bound is not None and bound.enter(_limit())
    try:
        yield
    finally:
        if bound is not None and entered:
            bound.leave()


def blas_threads() -> int | None:
    """Return how many threads a product takes in `bounded_blas`; None where that is not known."""
    bound = _openblas()
    return None if bound is None else min(bound.get(), _limit())


@lru_cache(maxsize=1)
def _limit() -> int:
    """Return the choice for this process; reading quotas for every search would take longer than a search."""
    return choose_threads().threads


@lru_cache(maxsize=1)
def _openblas() -> _Bound | None:
    """Find the OpenBLAS that this process has loaded."""
    for path in _loaded_libraries():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in (*_NAMES, "openblas_{}_num_threads"):
            if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                get, set_ = getattr(library, name.format("get")), getattr(library, name.format("set"))
                get.restype, set_.restype, set_.argtypes = ctypes.c_int, None, [ctypes.c_int]
                return _Bound(get, set_)
    return None


def _loaded_libraries() -> list[Path]:
    """Return numpy's own OpenBLAS first, then others that are mapped into this process."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs")
    own = [path for folder in folders for path in sorted(folder.glob("*openblas*"))]
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return own
    mapped = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "openblas" in line.lower())
    return [*own, *(path for path in map(Path, mapped) if path not in own)]
