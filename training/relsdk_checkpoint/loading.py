"""A checkpoint folder read into torch, its layers cut, its weights updated by low-rank training."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from relsdk.bundle import EncoderSettings, read_encoder_settings
from relsdk.errors import BundleError, InputError, MissingExtraError, RelsdkError

__all__ = [
    "add_lora",
    "first_reason",
    "keep_layers",
    "load_tokenizer",
    "load_transformer",
    "merge_lora",
    "quiet",
    "set_dropout",
    "token_settings",
    "uses_token_types",
]

# What the names of low-rank updates hold.
_ADAPTER = ("lora_", ".base_layer.", "adapter")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def load_transformer(
    kind: Any,
    checkpoint: Path,
    *,
    whole: bool = False,
    new_head: bool = False,
    error: type[RelsdkError] = InputError,
    **options: Any,
) -> PreTrainedModel:
    """Load safetensors weights in fp32; no remote code, no pickle.

    Args:
        kind: An Auto class of transformers.
        checkpoint: The folder.
        whole: Refuse weights that are not exactly those of the architecture; otherwise what the checkpoint
            lacks, such as a head, starts at random.
        new_head: Start a head whose shape is not that of the checkpoint's at random, too.
        error: The class of errors to raise.
        options: For `from_pretrained`.

    Raises:
        RelsdkError: As `error`: the folder is no such checkpoint.
    """
    if whole and (checkpoint / "adapter_config.json").is_file():
        raise error(
            f"{checkpoint} is an adapter; merge it into its model first: merge_and_unload(), "
            "then save_pretrained()"
        )
    if not any(checkpoint.glob("*.safetensors")):
        raise error(f"{checkpoint} has no safetensors weights; name a checkpoint folder")
    try:
        with quiet():
            model, notes = kind.from_pretrained(
                checkpoint,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
                **options,
            )
    except Exception as cause:  # damaged files raise what the library happens to meet
        raise error(f"{checkpoint} cannot be loaded: {first_reason(cause)}") from cause
    if not new_head:
        _check_shapes(checkpoint, notes, error)
    if whole:
        _check_weights(checkpoint, notes, error)
    transformer: PreTrainedModel = model
    return transformer


def _check_shapes(checkpoint: Path, notes: Mapping[str, Any], error: type[RelsdkError]) -> None:
    """Raise an error where a weight has another shape than the architecture's."""
    if mismatched := sorted(
        str(item[0] if isinstance(item, tuple) else item) for item in notes["mismatched_keys"]
    ):
        raise error(
            f"{checkpoint}: {mismatched[0]} has another shape than config.json says; they are of two models"
        )


def _check_weights(checkpoint: Path, notes: Mapping[str, Any], error: type[RelsdkError]) -> None:
    """Raise an error unless the weights are those of the architecture, all of them and no others."""
    adapters = [name for name in notes["unexpected_keys"] if any(part in name for part in _ADAPTER)]
    if adapters:
        raise error(
            f"{checkpoint} holds low-rank updates beside its weights ({adapters[0]}, ...); merge them first: "
            "merge_and_unload(), then save_pretrained()"
        )
    missing = sorted(name for name in notes["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise error(
            f"{checkpoint} lacks {len(missing)} weights of its architecture ({missing[0]}, ...); "
            "an export would hold random ones"
        )


def load_tokenizer(checkpoint: Path) -> Any:
    """Load transformers' own tokenizer of a checkpoint.

    Raises:
        BundleError: Its files are missing, damaged or of another model.
    """
    try:
        return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # as above
        raise BundleError(f"{checkpoint} has no usable tokenizer: {first_reason(error)}") from error


def uses_token_types(transformer: nn.Module, tokenizer: Any) -> bool:
    """Say whether `token_type_ids` tell the tokens of two texts apart."""
    name = "token_type_ids"
    return name in tokenizer.model_input_names and name in signature(transformer.forward).parameters


def first_reason(error: BaseException) -> str:
    """Return the first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    plain = _ANSI.sub("", str(error))
    return next((line.strip() for line in plain.splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keep transformers' bars, reports and warnings off a user's terminal, and those of further loggers."""
    silenced = [logging.getLogger(name) for name in ("transformers", *loggers)]
    levels = [logger.level for logger in silenced]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in silenced:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, Any]:
    """Drop all layers but some, in place: a starting point for distillation.

    Args:
        model: A transformer.
        layers: Which to keep, counted from 0, in rising order; below 0, from the end: -1 is the last.
            Without any, only the embeddings stay.

    Returns:
        What changes in the model's configuration.

    Raises:
        InputError: A number is out of range or out of order, or the layers cannot be found.
    """
    config = model.config
    count = int(config.num_hidden_layers)
    numbers = [layer + count if layer < 0 else layer for layer in layers]
    if numbers != sorted(set(numbers)) or any(not 0 <= number < count for number in numbers):
        raise InputError(f"layers {list(layers)}; rising numbers out of 0 to {count - 1} are needed")
    stacks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(stacks) != 1:
        raise InputError(f"the layers of a {config.model_type} cannot be found ({len(stacks)} candidates)")
    parent, name = stacks[0]
    stack = nn.ModuleList([getattr(parent, name)[number] for number in numbers])
    setattr(parent, name, stack)
    for place, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # a decoder's place in its cache
                setattr(module, "layer_idx", place)  # noqa: B010 (nn.Module's types know no int)
    changes: dict[str, Any] = {"num_hidden_layers": len(numbers)}
    if getattr(config, "layer_types", None):
        changes["layer_types"] = [config.layer_types[number] for number in numbers]
    for key, value in changes.items():
        setattr(config, key, value)
    names = getattr(config, "attribute_map", {})
    return {names.get(key, key): value for key, value in changes.items()}


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


def merge_lora(model: nn.Module) -> PreTrainedModel:
    """Return the plain transformer, low-rank updates added to a copy of its weights."""
    if isinstance(model, PreTrainedModel):
        return model
    plain: PreTrainedModel = deepcopy(model).merge_and_unload()  # type: ignore[operator]
    return plain


def token_settings(checkpoint: Path) -> EncoderSettings:
    """Return how a folder, of a scorer, too, makes tokens; its other settings say nothing."""
    return read_encoder_settings(checkpoint, dimension=1)
