"""The instruction sets that the native engine has kernels for, and the choice of one that is not the best."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSTRUCTION_SETS = ("avx512_vnni", "avx_vnni", "avx2", "neon_dotprod")


@contextmanager
def instruction_set(library: Path, name: str) -> Iterator[bool]:
    """Sessions made in the body compute with this instruction set; yields whether this CPU has it."""
    engine = ctypes.CDLL(str(library))
    engine.relsdk_instruction_set.restype = ctypes.c_char_p
    before = engine.relsdk_instruction_set()
    try:
        yield bool(engine.relsdk_choose_instruction_set(name.encode()))
    finally:
        engine.relsdk_choose_instruction_set(before)
