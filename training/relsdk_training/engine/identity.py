"""The identity of a training: its settings without places, its checkpoint by content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relsdk.files.folders import file_sha256, json_sha256

__all__ = ["checkpoint_hash", "section_identity", "training_identity", "weights_hash"]

# What a model folder is read from.
_READ = (".json", ".model", ".safetensors", ".txt")
# By section: places, whose content counts and not the name; what changes no result, or only later sampling.
_LEFT_OUT = {
    "data": ("train", "dev", "test", "texts", "weak", "written"),
    "distill": ("queries", "pairs"),
    "model": ("checkpoint", "guidance", "temperature", "top_p"),
    "run": ("output", "threads", "timeout"),
    "teacher": ("checkpoints", "pairs"),
}
# Settings that came later: at these values a training is what it was before, and resumes its folder.
_LATER = {
    "data": {"weak_weight": 1.0, "written_weight": 1.0, "human_last": 0.0},
    "loss": {"wasserstein": 0.0},
}


def training_identity(config: Any) -> Any:
    """Return what a training depends on besides its data.

    Args:
        config: The root dataclass of a task.
    """
    content = {name: section_identity(name, values) for name, values in asdict(config).items()}
    return [content, checkpoint_hash(config.model.checkpoint)]


def section_identity(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a section of the settings changes: without places, and without what changes nothing."""
    left_out, later = _LEFT_OUT.get(name, ()), _LATER.get(name, {})
    return {k: v for k, v in settings.items() if k not in left_out and not (k in later and later[k] == v)}


def checkpoint_hash(checkpoint: str | Path) -> str:
    """Return a hash of all that a checkpoint's folder says: weights, tokenizer, prompts; "" for no name."""
    if not checkpoint:
        return ""
    folder = Path(checkpoint)
    files = sorted(path for path in folder.rglob("*") if path.suffix in _READ and path.is_file())
    return json_sha256([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])[:16]


def weights_hash(folder: Path) -> str:
    """Return a hash of the weights in a folder and in those of its linear layers, 16 hex digits."""
    files = sorted(folder.rglob("*.safetensors"))
    return json_sha256([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])[:16]
