"""A writer of queries made out of an encoder: the same weights read documents and start the decoder.

As Rothe et al. 2020 (Leveraging Pre-trained Checkpoints for Sequence Generation), with a shallow decoder
whose cross-attention starts from self-attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, EncoderDecoderModel

from relsdk.errors import InputError
from relsdk_checkpoint.loading import load_transformer, quiet
from relsdk_training.config.settings import QueryModelConfig

__all__ = ["check_warm_start", "warm_start"]

# Whose layers can attend to a document in transformers.
_ARCHITECTURES = ("bert", "roberta", "xlm-roberta")


def warm_start(
    checkpoint: Path, decoder_layers: Sequence[int], encoder_layers: int = 0
) -> EncoderDecoderModel:
    """Make an encoder-decoder model out of an encoder.

    Args:
        checkpoint: Folder of the encoder.
        decoder_layers: Which of its layers the decoder starts from, in rising order; of an encoder that has
            not so many, those of the defaults are spread over what it has.
        encoder_layers: How many of its first layers stay the encoder; 0, or more than there are, keeps all.

    Raises:
        InputError: The folder is no checkpoint, a layer is out of range, or the architecture has no decoder.
    """
    encoder = load_transformer(AutoModel, checkpoint)
    config = encoder.config
    layers, encoder_layers = _fit(config, checkpoint, decoder_layers, encoder_layers)
    ours = deepcopy(config)
    ours.update(
        {"is_decoder": True, "add_cross_attention": True, "num_hidden_layers": len(layers), "use_cache": True}
    )
    with quiet():
        decoder = AutoModelForCausalLM.from_config(ours)
    _copy_layers(encoder, decoder, layers)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    if encoder_layers:
        encoder.encoder.layer = encoder.encoder.layer[:encoder_layers]
        encoder.config.num_hidden_layers = encoder_layers
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.pad_token_id = config.pad_token_id
    return model


def check_warm_start(checkpoint: Path, decoder_layers: Sequence[int], encoder_layers: int = 0) -> None:
    """Check what `warm_start` would refuse, without loading weights; arguments and errors as there."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint} cannot be loaded: {str(error).splitlines()[0]}") from error
    _fit(config, checkpoint, decoder_layers, encoder_layers)


def _fit(
    config: Any, checkpoint: Path, decoder_layers: Sequence[int], encoder_layers: int
) -> tuple[list[int], int]:
    """Return both settings as an encoder of this depth allows them."""
    if config.model_type not in _ARCHITECTURES:
        raise InputError(
            f"{checkpoint} is a {config.model_type}, which makes no decoder; a warm start takes one of "
            f"{', '.join(_ARCHITECTURES)}, others write with query_model.kind seq2seq or causal"
        )
    count = int(config.num_hidden_layers)
    layers = list(decoder_layers)
    if tuple(layers) == QueryModelConfig.decoder_layers and layers[-1] >= count:
        layers = sorted({math.ceil(part * count / len(layers)) - 1 for part in range(1, len(layers) + 1)})
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < count:
        raise InputError(f"decoder_layers {layers}; rising numbers out of 0 to {count - 1} are needed")
    if encoder_layers < 0:
        raise InputError(f"encoder_layers={encoder_layers}; 0 (all) to {count} are allowed")
    return layers, min(encoder_layers, count)


def _copy_layers(encoder: Any, decoder: Any, layers: Sequence[int]) -> None:
    base = decoder.base_model
    base.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for mine, number in zip(base.encoder.layer, layers, strict=True):
        theirs = encoder.encoder.layer[number]
        missing, unexpected = mine.load_state_dict(theirs.state_dict(), strict=False)
        if unexpected or any(not name.startswith("crossattention.") for name in missing):
            raise InputError(f"layer {number} of the encoder does not fit a decoder: {missing}, {unexpected}")
        mine.crossattention.load_state_dict(theirs.attention.state_dict())
    with torch.no_grad():
        for module in _head(decoder):
            if isinstance(module, nn.Linear) and module.in_features == module.out_features:
                nn.init.eye_(module.weight)
                nn.init.zeros_(module.bias)
    decoder.tie_weights()


def _head(decoder: Any) -> list[nn.Module]:
    return [module for name, module in decoder.named_modules() if name.startswith(("cls.", "lm_head."))]
