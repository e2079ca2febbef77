"""relsdk's own kernels for the encoders of int8 files: an operator of onnxruntime, compiled on installation.

A file whose encoder is the operator `relsdk.Encoder` runs in onnxruntime without it, too: the operator is a
function of onnxruntime's own ones.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from relsdk.errors import BundleError

__all__ = ["has_native_encoder", "native_engine"]

_LIBRARY = Path(__file__).with_name("librelsdk.so")
# What the library and this package agree on: operator.cpp has the same number.
_VERSION = 1
# A node's domain (field 7 of NodeProto in onnx.proto): no other part of a graph begins so.
_DOMAIN = b"\x3a\x06relsdk"


@cache
def native_engine() -> tuple[Path | None, str]:
    """Look for the engine; the answer is remembered.

    Returns:
        The library that onnxruntime loads, and the instruction set that it computes with; or None, and why it
        is not used, for people.
    """
    if not _LIBRARY.exists():
        return None, "not built: there was no C++17 compiler; install one, and relsdk again"
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        version, instruction_set = library.relsdk_version(), library.relsdk_instruction_set
    except (OSError, AttributeError) as error:
        return None, f"does not load: {error}; install relsdk again"
    if version != _VERSION:
        return None, f"of another version of relsdk ({version}, not {_VERSION}); install relsdk again"
    instruction_set.restype = ctypes.c_char_p
    name = instruction_set()
    if name is None:
        return None, "needs a CPU with AVX2 or ARM dot products"
    return _LIBRARY, name.decode()


def has_native_encoder(path: Path) -> bool:
    """Whether the encoder of an ONNX file is the operator that the engine computes.

    Raises:
        BundleError: The file cannot be read.
    """
    try:
        return _DOMAIN in path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
