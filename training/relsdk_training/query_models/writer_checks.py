"""Check the settings and the checkpoint of a query model before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
)

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk_training.config.settings import QueryModelConfig
from relsdk_training.query_models._warm_start import check_warm_start

__all__ = ["SAVED_SETTINGS", "check_checkpoint", "check_settings", "positions"]

# What a query model that was saved says of itself.
SAVED_SETTINGS = "query_model.json"


def check_checkpoint(settings: QueryModelConfig) -> None:
    """Check that a writer can be made of its checkpoint, before anything is loaded.

    Raises:
        InputError: The checkpoint is of another kind, a layer is out of range, or the architecture has no
            decoder.
    """
    folder = Path(settings.checkpoint)
    if settings.kind != "warm_start":
        _check_kind(folder, settings.kind)
    elif not (folder / SAVED_SETTINGS).is_file():
        check_warm_start(folder, settings.decoder_layers, settings.encoder_layers)


def _check_kind(folder: Path, kind: str) -> None:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no checkpoint: {str(error).splitlines()[0]}") from error
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if kind == "seq2seq" else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in known:
        raise InputError(
            f"{folder} holds {config.model_type!r}, which is no {kind} language model; name another "
            "checkpoint or another query.kind"
        )


def check_settings(settings: QueryModelConfig) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        InputError: The prompt lacks a field, a number is out of range, or a setting is of another kind.
    """
    if settings.kind != "warm_start":
        if "{document}" not in settings.prompt or "{level}" not in settings.prompt:
            raise InputError(f"prompt {settings.prompt!r} lacks {{document}} or {{level}}")
        try:
            settings.prompt.format(document="", level="")
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"prompt {settings.prompt!r} cannot be filled in ({error}); {{document}} and {{level}} can"
            ) from error
        if len(settings.level_names) != NUM_LEVELS:
            raise InputError(f"level_names has {len(settings.level_names)} names; 4 are needed")
        if settings.contrast or settings.guidance != 1.0:
            raise InputError(f"contrast and guidance are for warm starts; kind is {settings.kind!r}")
    if settings.max_query_tokens < 2:
        raise InputError(f"max_query_tokens={settings.max_query_tokens}; at least 2 are needed")
    if not 0 < settings.top_p <= 1 or settings.temperature <= 0 or not 0 <= settings.unconditioned < 1:
        raise InputError(
            f"temperature={settings.temperature}, top_p={settings.top_p}, unconditioned="
            f"{settings.unconditioned}; needed are above 0, in (0, 1], and in [0, 1)"
        )


def positions(config: Any) -> int:
    """Return how many tokens an encoder has positions for."""
    # The positions of RoBERTa's family begin behind that of the pad token.
    offset = int(config.pad_token_id) + 1 if config.model_type.endswith("roberta") else 0
    return int(config.max_position_embeddings) - offset
