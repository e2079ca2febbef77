"""Turn what safetensors raises on a full disk into the error of any write that a disk refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["writing_weights"]


@contextmanager
def writing_weights() -> Iterator[None]:
    """Raise safetensors' own error as the OSError that it is, for `staged_folder` to tell.

    Raises:
        OSError: The file system refused (full, no permission).
    """
    from safetensors import SafetensorError  # of an extra

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{error}; free some space") from error
