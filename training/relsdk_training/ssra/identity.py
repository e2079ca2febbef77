"""What the result of a stage depends on besides its inputs, as values to hash. A place changes no result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from relsdk_training.config.settings import QueryModelConfig
from relsdk_training.config.ssra import FilterConfig, SsraConfig

__all__ = ["filter_identity", "judging_identity", "sampling_identity", "writing_identity"]

# Where a model or an endpoint is and how it is asked; which model answers does count.
_PLACES = ("checkpoint", "judge_url", "judge_key_env", "judge_timeout")


def writing_identity(config: SsraConfig) -> list[Any]:
    """Return what the queries depend on besides the model that writes them."""
    asked = config.synthesis
    return [
        asked.levels,
        asked.samples,
        bool(asked.endpoint_url),
        asked.endpoint_name,
        sampling_identity(config.query.model),
    ]


def sampling_identity(model: QueryModelConfig) -> list[float]:
    """Return what the choice of the next token depends on."""
    return [model.guidance, model.temperature, model.top_p]


def judging_identity(config: SsraConfig) -> list[Any]:
    """Return how a model that judges is read; its weights and its levels are inputs."""
    kind = config.filter.scorer
    model = config.score.model if kind == "cross_encoder" else config.embed.model
    return [kind, model.head, model.max_tokens]


def filter_identity(config: FilterConfig) -> dict[str, Any]:
    """Return what keeping and dropping depends on besides the models that judge."""
    return {name: value for name, value in asdict(config).items() if name not in _PLACES}
