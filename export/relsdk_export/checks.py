"""Checks of a checkpoint without torch, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relsdk.errors import BundleError, InputError
from relsdk.files.folders import restore_folder
from relsdk.typed_json import read_json

__all__ = ["check_checkpoint", "check_layers"]

# What the architectures call the number of their layers.
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")


def check_checkpoint(folder: Path, layers: Sequence[int] | None = None) -> None:
    """Raise unless a folder looks like a checkpoint, and has these layers.

    Raises:
        InputError: There is no such folder, or a layer is out of range or out of order.
        BundleError: It has no tokenizer.
    """
    restore_folder(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; name a checkpoint folder (get one with: relsdk model pull)")
    if not (folder / "tokenizer.json").is_file():
        raise BundleError(f"{folder} has no tokenizer.json; name a checkpoint folder")
    path = folder / "config.json"
    if layers is None or not path.is_file():
        return
    config = read_json(path, dict[str, Any], error=BundleError, remedy="get the checkpoint again")
    counts = [config[name] for name in _LAYERS if isinstance(config.get(name), int)]
    if counts:
        check_layers(layers, counts[0])


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise `InputError` unless these are layers of so many, in rising order."""
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < count:
        raise InputError(f"layers {list(layers)}; rising numbers out of 0 to {count - 1} are needed")
