"""A score model in torch: a cross-encoder with a 4-way or an ordinal head.

Shape letters: B pairs, T tokens, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from relsdk.bundle import Head, ScorerSettings, copy_tokenizer, write_scorer_layout
from relsdk.errors import InputError
from relsdk_checkpoint.loading import (
    add_lora,
    keep_layers,
    load_tokenizer,
    load_transformer,
    merge_lora,
    quiet,
    set_dropout,
    token_settings,
    uses_token_types,
)

__all__ = ["ScoreModel"]

_OUTPUTS = {"categorical": 4, "ordinal": 3}
# What transformers call the layers on top of the encoder.
_HEADS = ("classifier", "score", "pre_classifier", "head")


class ScoreModel(nn.Module):
    """A sequence classifier that judges pairs.

    Args:
        transformer: Gives `logits` (B, C).
        settings: Head and limit.
        source: The checkpoint's folder, from which the tokenizer is copied.
        uses_types: Whether the tokens of the two texts are told apart by `token_type_ids`.
    """

    def __init__(
        self, transformer: nn.Module, settings: ScorerSettings, source: Path, *, uses_types: bool
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.settings = settings
        self.source = source
        self.uses_types = uses_types

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        head: Head,
        *,
        layers: Sequence[int] | None = None,
        max_tokens: int | None = None,
        lora_rank: int = 0,
        dropout: float | None = None,
    ) -> ScoreModel:
        """Load an encoder or a scorer's checkpoint; a head that it lacks starts at random.

        Args:
            checkpoint: The folder.
            head: "categorical" (4-way) or "ordinal" (cumulative).
            layers: Keep these layers only.
            max_tokens: A smaller limit than the checkpoint's.
            lora_rank: Train low-rank updates (peft) and the head instead of all weights; 0 trains all.
            dropout: In place of the checkpoint's.

        Raises:
            InputError: The folder is no checkpoint, the head is unknown, or a layer is out of range.
            MissingExtraError: LoRA without peft.
        """
        if head not in _OUTPUTS:
            raise InputError(f"head {head!r}; allowed are {sorted(_OUTPUTS)}")
        transformer = load_transformer(
            AutoModelForSequenceClassification,
            checkpoint,
            num_labels=_OUTPUTS[head],
            new_head=True,
        )
        transformer.config.relsdk_head = head
        if layers is not None:
            keep_layers(transformer, layers)
        if dropout is not None:
            set_dropout(transformer, dropout)
        tokens = token_settings(checkpoint)
        settings = ScorerSettings(
            head,
            min(max_tokens or tokens.max_tokens, tokens.max_tokens),
            pad_token=tokens.pad_token,
            truncation_side=tokens.truncation_side,
        )
        uses_types = uses_token_types(transformer, load_tokenizer(checkpoint))
        model = add_lora(transformer, lora_rank, head=_head(transformer)) if lora_rank else transformer
        return cls(model, settings, checkpoint, uses_types=uses_types)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Judge a batch.

        Args:
            inputs: `input_ids`, `attention_mask` and perhaps `token_type_ids`, (B, T) int64.

        Returns:
            Logits (B, C) float32.
        """
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self.uses_types else [])]
        logits: Tensor = self.transformer(**{name: inputs[name] for name in names}).logits
        return logits.float()

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into an empty folder."""
        copy_tokenizer(self.source, folder)
        with quiet():
            merge_lora(self.transformer).save_pretrained(folder)
        write_scorer_layout(folder, self.settings)


def _head(transformer: nn.Module) -> list[str]:
    """Return the names of what a classifier has beyond its encoder, and of an encoder's pooler."""
    own = [name for name, _ in transformer.named_children() if name in _HEADS]
    poolers = [name for name, _ in transformer.named_modules() if name.endswith(".pooler")]
    return [*own, *poolers]
