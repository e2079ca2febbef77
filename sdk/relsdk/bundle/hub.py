"""Models from the Hugging Face hub or a mirror of it (`HF_ENDPOINT`); `HF_HUB_OFFLINE` is honoured."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from relsdk.errors import BundleError, MissingExtraError

__all__ = ["download", "is_hub_id", "local_model"]

# As the hub itself has it: letters, digits, "-", "_", "."; neither first nor last "-" or ".".
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"{_NAME}/{_NAME}")
_LONGEST = 96
_CONFIGURATION = ["*.json", "README.md", "1_Pooling/*", "2_Normalize/*", "*_Dense/model.safetensors"]


def is_hub_id(model: str) -> bool:
    """Whether a string has the form `owner/name` of a hub repository (and is no local path)."""
    if len(model) > _LONGEST or "--" in model or ".." in model or not _HUB_ID.fullmatch(model):
        return False
    return not Path(model).exists()


def local_model(model: str | os.PathLike[str]) -> Path:
    """Return a model's folder: a local path as it is; of a hub id, its configuration and ONNX files.

    Raises:
        BundleError: The hub cannot be reached or has no such repository.
    """
    name = os.fspath(model)
    return (
        download(name, ["onnx/*", "*.onnx", "*.onnx_data", "*.onnx.data"]) if is_hub_id(name) else Path(name)
    )


def download(hub_id: str, weights: Sequence[str]) -> Path:
    """Download a repository's configuration and some of its weights into the hub's own cache.

    Args:
        hub_id: `owner/name`.
        weights: Patterns of the other files wanted.

    Returns:
        The snapshot's folder.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        BundleError: The hub cannot be reached (or `HF_HUB_OFFLINE` forbids it) or has no such repository.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtraError("loading from the Hugging Face hub", "backbone") from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*_CONFIGURATION, *weights], etag_timeout=10))
    except (OSError, HfHubHTTPError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        reason = "HF_HUB_OFFLINE is set" if offline else str(error).splitlines()[0]
        raise BundleError(
            f"there is no folder {hub_id}, and {endpoint} cannot be reached or has no model of that name: "
            f"{reason}; name a local folder, or set HF_ENDPOINT"
        ) from error
