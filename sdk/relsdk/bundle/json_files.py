"""JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relsdk.errors import BundleError

__all__ = ["read_json", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented, as people compare them."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path, *, required: bool = True, kind: type = dict) -> Any:
    """Read a JSON file whose top is of one kind; a missing one is empty when it is not required.

    Raises:
        BundleError: The file is missing, not JSON or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return kind()
        raise BundleError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, kind):
        raise BundleError(f"{path} holds {type(content).__name__}; {kind.__name__} is needed")
    return content
