"""Deterministic parts of long work: planned, run by processes or machines, verified, taken up again.

What is named here is imported when it is first used: training takes the runner, and no models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relsdk.shards.encode import encode_shards
    from relsdk.shards.parts_encoder import PartsEncoder
    from relsdk.shards.runner import open_runner
    from relsdk.shards.score import score_shards

__all__ = ["PartsEncoder", "encode_shards", "open_runner", "score_shards"]

_MODULES = {
    "PartsEncoder": "parts_encoder",
    "encode_shards": "encode",
    "open_runner": "runner",
    "score_shards": "score",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for from its module, once (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"relsdk.shards.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
