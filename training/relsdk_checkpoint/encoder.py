"""An encoder in torch: load a checkpoint, embed batches, save what `relsdk export encoder` takes.

Shape letters: B texts, T tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from relsdk.bundle import (
    DenseLayer,
    EncoderSettings,
    copy_tokenizer,
    read_dense,
    read_encoder_settings,
    write_layout,
)
from relsdk.errors import InputError
from relsdk_checkpoint.loading import (
    add_lora,
    keep_layers,
    load_transformer,
    merge_lora,
    quiet,
    set_dropout,
)

__all__ = ["TextEncoder", "dense_module", "pool"]

_POOLINGS = ("mean", "cls", "lasttoken")
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
}


class TextEncoder(nn.Module):
    """A transformer whose token vectors are pooled to one vector a text.

    Args:
        transformer: Gives `last_hidden_state` (B, T, D).
        settings: Pooling, prompts, limit, the folders of the linear layers.
        source: The checkpoint's folder, from which tokenizer and configuration are copied.
        dense: The linear layers behind the pooling.
    """

    def __init__(
        self,
        transformer: nn.Module,
        settings: EncoderSettings,
        source: Path,
        dense: Sequence[DenseLayer] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.dense = nn.Sequential(*map(dense_module, dense))
        self.settings = settings
        self.source = source

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        layers: Sequence[int] | None = None,
        prompts: Mapping[str, str] | None = None,
        max_tokens: int | None = None,
        lora_rank: int = 0,
        dropout: float | None = None,
    ) -> TextEncoder:
        """Load a Hugging Face or sentence-transformers folder, in fp32.

        Args:
            checkpoint: The folder.
            layers: Keep these layers only; a student's start.
            prompts: In place of the checkpoint's.
            max_tokens: A smaller limit than the checkpoint's.
            lora_rank: Train low-rank updates (peft) instead of all weights; 0 trains all.
            dropout: In place of the checkpoint's.

        Raises:
            InputError: The folder is no checkpoint, or a layer is out of range.
            MissingExtraError: LoRA without peft.
        """
        settings = read_encoder_settings(checkpoint)
        if settings.pooling not in _POOLINGS:
            raise InputError(
                f"{checkpoint} has {settings.pooling} pooling, which is exported and served, not trained; "
                f"start from an encoder with one of {list(_POOLINGS)} pooling"
            )
        if prompts is not None:
            default = settings.default_prompt if settings.default_prompt in prompts else ""
            settings = replace(settings, prompts=dict(prompts), default_prompt=default)
        if max_tokens is not None:
            settings = replace(settings, max_tokens=min(max_tokens, settings.max_tokens))
        transformer = load_transformer(AutoModel, checkpoint)
        if getattr(transformer, "pooler", None) is not None:
            transformer.pooler = None  # nothing uses it, and distributed training would wait for its gradient
        if layers is not None:
            keep_layers(transformer, layers)
        if dropout is not None:
            set_dropout(transformer, dropout)
        dense = [read_dense(checkpoint, layer) for layer in settings.dense]
        trained = add_lora(transformer, lora_rank) if lora_rank else transformer
        return cls(trained, settings, checkpoint, dense)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embed a batch.

        Args:
            inputs: `input_ids` and `attention_mask`, (B, T) int64, padded on the right.

        Returns:
            (B, D) float32, not normalised.
        """
        mask = inputs["attention_mask"]
        output = self.transformer(input_ids=inputs["input_ids"], attention_mask=mask)
        hidden: Tensor = output.last_hidden_state.float()  # (B, T, D)
        vectors: Tensor = self.dense(pool(hidden, mask, self.settings.pooling)).float()
        return vectors

    def save(self, folder: Path, *, matryoshka_dims: Sequence[int] = ()) -> None:
        """Write weights (safetensors), configuration, tokenizer and the sentence-transformers layout.

        Args:
            folder: An empty folder.
            matryoshka_dims: Dimensions that the vectors were trained to be cut to.
        """
        copy_tokenizer(self.source, folder)
        transformer: PreTrainedModel = merge_lora(self.transformer)
        with quiet():
            transformer.save_pretrained(folder)
        for name, module in zip(self.settings.dense, self.dense, strict=True):
            weight, bias = (value.detach().float().cpu().numpy() for value in module.parameters())
            *_, activation = module.children()
            DenseLayer(weight, bias, type(activation).__name__).write(folder, name)
        # Normalised: what was trained is the cosine.
        trained = replace(
            self.settings, normalize=True, similarity="cosine", matryoshka_dims=tuple(matryoshka_dims)
        )
        write_layout(folder, trained)


def dense_module(layer: DenseLayer) -> nn.Sequential:
    """Return a linear layer (E, D) and its activation in torch."""
    behind, before = layer.weight.shape
    linear = nn.Linear(before, behind)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weight))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    return nn.Sequential(linear, _ACTIVATIONS[layer.activation]())


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool the token vectors (B, T, D) of texts to one vector each (B, D).

    Args:
        hidden: The token vectors.
        mask: (B, T) int64, 1 for a real token, padding on the right.
        pooling: As in `EncoderSettings`.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        last = (mask.sum(dim=1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last)[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    if pooling == "max":
        return hidden.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    if pooling == "weightedmean":
        weights = weights * weights.cumsum(dim=1)
    total = weights.sum(dim=1).clamp(min=1e-9)  # (B, 1)
    if pooling == "mean_sqrt_len_tokens":
        total = total.sqrt()
    return (hidden * weights).sum(dim=1) / total
