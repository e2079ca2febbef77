"""Hugging Face folders: loading without surprises, dropping layers, low-rank training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from relsdk.bundle import EncoderSettings, read_encoder_settings
from relsdk.errors import InputError, MissingExtraError

__all__ = ["add_lora", "keep_layers", "load_transformer", "merged", "quiet", "set_dropout", "token_settings"]


def load_transformer(kind: Any, checkpoint: Path, **options: Any) -> PreTrainedModel:
    """Load safetensors weights in fp32; no remote code, no pickle.

    Args:
        kind: An Auto class of transformers.
        checkpoint: The folder.
        options: For `from_pretrained`.

    Raises:
        InputError: The folder is no such checkpoint.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise InputError(f"{checkpoint} has no safetensors weights; name a checkpoint folder")
    try:
        with quiet():
            model: PreTrainedModel = kind.from_pretrained(
                checkpoint, dtype=torch.float32, use_safetensors=True, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{checkpoint} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off a user's terminal."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Drop all layers but some, in place.

    Args:
        model: A transformer.
        layers: Which to keep, counted from 0, in rising order; below 0, from the end: -1 is the last.

    Raises:
        InputError: A number is out of range or out of order, or the layers cannot be found.
    """
    count = int(model.config.num_hidden_layers)
    numbers = [layer + count if layer < 0 else layer for layer in layers]
    if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < count:
        raise InputError(f"layers {list(layers)}; rising numbers out of 0 to {count - 1} are needed")
    stacks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(stacks) != 1:
        raise InputError(
            f"the layers of a {model.config.model_type} cannot be found ({len(stacks)} candidates)"
        )
    parent, name = stacks[0]
    kept = [getattr(parent, name)[number] for number in numbers]
    setattr(parent, name, nn.ModuleList(kept))
    model.config.num_hidden_layers = len(numbers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in numbers]


def set_dropout(model: nn.Module, probability: float) -> None:
    """Change every dropout of a transformer, in place.

    Raises:
        InputError: The probability is not in [0, 1).
    """
    if not 0.0 <= probability < 1.0:
        raise InputError(f"dropout {probability}; 0 or more and less than 1 is needed")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        if isinstance(getattr(module, "attention_dropout", None), float):  # kept as a number by some
            setattr(module, "attention_dropout", probability)  # noqa: B010 (nn.Module's types know no float)


def add_lora(model: PreTrainedModel, rank: int, *, head: Sequence[str] = ()) -> nn.Module:
    """Freeze a model and put trainable low-rank updates on its linear layers (Hu et al. 2022).

    Args:
        model: A transformer.
        rank: Of the updates; their scale is twice the rank over the rank.
        head: Names of modules that are trained whole: they start at random.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora_rank", "train") from error
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", modules_to_save=list(head) or None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        wrapped: nn.Module = get_peft_model(model, config)
    return wrapped


def merged(model: nn.Module) -> PreTrainedModel:
    """Return the plain transformer, low-rank updates added to a copy of its weights."""
    if isinstance(model, PreTrainedModel):
        return model
    plain: PreTrainedModel = deepcopy(model).merge_and_unload()  # type: ignore[operator]
    return plain


def token_settings(checkpoint: Path) -> EncoderSettings:
    """Return how a folder, of a scorer, too, makes tokens; its other settings say nothing."""
    return read_encoder_settings(checkpoint, dimension=1)
