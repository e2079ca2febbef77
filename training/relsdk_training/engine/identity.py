"""The identity of a training: its settings without places, its checkpoint by content."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from relsdk.files.folders import file_sha256, json_sha256

__all__ = ["checkpoint_hash", "training_identity", "weights_hash"]

# What a model folder is read from.
_READ = (".json", ".model", ".safetensors", ".txt")
# By section: places, whose content counts and not the name; what changes no result, or only later sampling.
_LEFT_OUT = {
    "data": ("train", "dev", "test", "texts"),
    "distill": ("queries", "pairs"),
    "model": ("checkpoint", "guidance", "temperature", "top_p"),
    "run": ("output", "threads", "timeout"),
    "teacher": ("checkpoints", "pairs"),
}


def training_identity(config: Any) -> Any:
    """Return what a training depends on besides its data.

    Args:
        config: The root dataclass of a task.
    """
    content = {
        section: {k: v for k, v in values.items() if k not in _LEFT_OUT.get(section, ())}
        for section, values in asdict(config).items()
    }
    return [content, checkpoint_hash(config.model.checkpoint)]


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
