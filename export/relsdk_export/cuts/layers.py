"""Smaller models: fewer layers, a smaller vocabulary. What they cost is measured by whoever exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from relsdk.errors import InputError
from relsdk_export.checks import check_layers
from relsdk_export.cuts.vocabulary import VocabularyCut

__all__ = ["keep_layers", "keep_pieces"]


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, Any]:
    """Drop all layers but some, in place: a starting point for distillation.

    Args:
        model: A transformer.
        layers: Which to keep, counted from 0, in rising order.

    Returns:
        What changes in the model's configuration.

    Raises:
        InputError: A number is out of range or out of order, or the layers cannot be found.
    """
    config = model.config
    count = int(config.num_hidden_layers)
    check_layers(layers, count)
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        raise InputError(f"the layers of a {config.model_type} cannot be found ({len(found)} candidates)")
    parent, name = found[0]
    stack = getattr(parent, name)
    setattr(parent, name, nn.ModuleList([stack[number] for number in layers]))
    for number, layer in enumerate(getattr(parent, name)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # a decoder's place in its cache
                module.layer_idx = number
    changes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if getattr(config, "layer_types", None):
        changes["layer_types"] = [config.layer_types[number] for number in layers]
    for key, value in changes.items():
        setattr(config, key, value)
    names = getattr(config, "attribute_map", {})
    return {names.get(key, key): value for key, value in changes.items()}


def keep_pieces(model: PreTrainedModel, cut: VocabularyCut) -> dict[str, Any]:
    """Keep the embedding rows of a cut vocabulary, in place; return what changes in the configuration."""
    embedding = model.get_input_embeddings()
    smaller = nn.Embedding(len(cut.kept), embedding.weight.shape[1])
    smaller.weight = nn.Parameter(embedding.weight.detach()[torch.from_numpy(cut.kept)].clone())
    model.set_input_embeddings(smaller)
    changes = {"vocab_size": len(cut.kept)}
    pad = getattr(model.config, "pad_token_id", None)
    if pad is not None:
        changes["pad_token_id"] = cut.new_id(pad)
    for key, value in changes.items():
        setattr(model.config, key, value)
    return changes
