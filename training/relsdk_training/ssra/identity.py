"""What the result of a stage depends on, as values to hash: settings without places, weights by content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from relsdk.folders import file_sha256, json_sha256
from relsdk_training.config import QueryConfig, QueryModelConfig
from relsdk_training.config_files import config_hash
from relsdk_training.ssra.config import SsraConfig

__all__ = [
    "folder_hash",
    "sampling_identity",
    "training_identity",
    "weights_hash",
    "without_sampling",
    "writing_identity",
]


def writing_identity(config: SsraConfig) -> list[Any]:
    """Return what the queries depend on besides the model that writes them."""
    asked = config.synthesis
    return [
        asked.levels,
        asked.samples,
        asked.endpoint_url,
        asked.endpoint_name,
        sampling_identity(config.query.model),
    ]


def sampling_identity(model: QueryModelConfig) -> list[float]:
    """Return what the choice of the next token depends on."""
    return [model.guidance, model.temperature, model.top_p]


def training_identity(config: Any) -> Any:
    """Return what the result of a training depends on; a checkpoint counts by its weights, not its place."""
    unplaced = replace(config, model=replace(config.model, checkpoint=""))
    return [config_hash(unplaced), weights_hash(config.model.checkpoint)]


def weights_hash(checkpoint: str) -> str:
    """Return a hash of a checkpoint's weights; "" where none is named."""
    return folder_hash(Path(checkpoint)) if checkpoint else ""


def without_sampling(config: QueryConfig) -> QueryConfig:
    """Return the settings that training depends on, and sampling does not."""
    usual = QueryModelConfig()
    sampling = {name: getattr(usual, name) for name in ("guidance", "temperature", "top_p")}
    return replace(config, model=replace(config.model, **sampling))


def folder_hash(folder: Path) -> str:
    """Return a hash of the weights in a folder, 16 hex digits."""
    return json_sha256([[path.name, file_sha256(path)] for path in sorted(folder.glob("*.safetensors"))])[:16]
