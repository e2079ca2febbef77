"""Import onnxruntime without its telemetry, and refuse versions whose results are wrong.

From 1.32 on, onnxruntime writes a device id and a database into the user's cache folder and sends events,
unless a variable says no while it is imported; its own call for that comes too late.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from relsdk.errors import RelsdkError

__all__ = ["MINIMUM_ONNXRUNTIME", "check_onnxruntime", "onnxruntime", "telemetry"]

# Below, the attention bias of a batch is read wrongly (onnxruntime pull 24017): the vectors of texts of
# different lengths are garbage, and some batches end in a segmentation fault.
MINIMUM_ONNXRUNTIME = (1, 21, 1)
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Set the variable for the time of the import, unless the user set it to something."""
    if _TELEMETRY in os.environ:
        yield
        return
    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        del os.environ[_TELEMETRY]


_imported_before = "onnxruntime" in sys.modules  # by somebody who may have left it on
with _without_telemetry():
    import onnxruntime


def telemetry() -> str:
    """Say for people whether onnxruntime writes and sends something about its use."""
    if _TELEMETRY in os.environ:
        return f"as {_TELEMETRY}={os.environ[_TELEMETRY]!r} says"
    return "its own choice: it was imported before relsdk" if _imported_before else "off"


def check_onnxruntime() -> None:
    """Refuse a version that gives wrong results.

    Raises:
        RelsdkError: The installed onnxruntime is too old.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", onnxruntime.__version__)[:3])
    if version < MINIMUM_ONNXRUNTIME:
        minimum = ".".join(map(str, MINIMUM_ONNXRUNTIME))
        raise RelsdkError(
            f"onnxruntime {onnxruntime.__version__} gives wrong vectors for batches of texts; {minimum} or "
            f"newer is needed: pip install -U 'onnxruntime>={minimum}'"
        )
