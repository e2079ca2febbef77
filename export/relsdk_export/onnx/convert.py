"""A checkpoint as a torch module with pooling and normalisation inside, whole and checked.

Shape letters: B texts of a batch, T tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from relsdk.bundle import DenseLayer, EncoderSettings, ScorerSettings, read_dense
from relsdk.errors import BundleError
from relsdk_checkpoint.encoder import dense_module, pool
from relsdk_checkpoint.loading import first_reason, load_tokenizer, load_transformer, quiet, uses_token_types

__all__ = [
    "PairClassifier",
    "SentenceEncoder",
    "load_encoder",
    "load_scorer",
]

# Others are tried, too: the parity check decides.
TESTED_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "qwen3")


class SentenceEncoder(nn.Module):
    """A transformer with pooling, linear layers and normalisation, as one module.

    Args:
        transformer: Gives `last_hidden_state` (B, T, D).
        settings: Which pooling, and whether to normalise.
        dense: The linear layers behind the pooling.
    """

    def __init__(
        self, transformer: PreTrainedModel, settings: EncoderSettings, dense: Sequence[DenseLayer] = ()
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.dense = nn.Sequential(*map(dense_module, dense))
        self.pooling = settings.pooling
        self.normalize = settings.normalize
        self.max_tokens = settings.max_tokens
        self.width = settings.dimension
        self.cut: int | None = None
        self.tokenizer: Any = None  # transformers' own, of a checkpoint that was loaded

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64, 1 for a real token, padding on the right.

        Returns:
            Token vectors (B, T, D) and text vectors (B, D), these cut to the first `cut` dimensions.
        """
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # (B, T, D)
        pooled = self.dense(pool(hidden, attention_mask, self.pooling))[:, : self.cut]  # (B, D)
        if self.normalize:
            pooled = nn.functional.normalize(pooled, p=2.0, dim=-1)
        return hidden, pooled


class PairClassifier(nn.Module):
    """A sequence classifier as a module whose only output is its logits.

    Args:
        transformer: Gives `logits` (B, C).
        settings: Of the scorer.
        uses_types: Whether the first text's tokens and the second's are told apart by `token_type_ids`.
    """

    def __init__(self, transformer: PreTrainedModel, settings: ScorerSettings, *, uses_types: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.max_tokens = settings.max_tokens
        self.uses_types = uses_types

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return the logits (B, C) of ids, mask and perhaps types, each (B, T) int64, padded on the right."""
        types = {"token_type_ids": token_type_ids} if self.uses_types else {}
        logits: Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def load_encoder(checkpoint: Path, settings: EncoderSettings) -> SentenceEncoder:
    """Load a Hugging Face checkpoint (safetensors only, no remote code) in fp32, ready for inference.

    Raises:
        BundleError: The folder is no such checkpoint.
    """
    dense = [read_dense(checkpoint, layer) for layer in settings.dense]
    encoder = SentenceEncoder(_load(AutoModel, checkpoint), settings, dense).eval()
    _check_architecture(encoder, checkpoint)
    encoder.tokenizer = load_tokenizer(checkpoint)
    _check_tokenizer(encoder.transformer, encoder.tokenizer, checkpoint)
    return encoder


def load_scorer(checkpoint: Path, settings: ScorerSettings) -> PairClassifier:
    """Load a cross-encoder checkpoint as `load_encoder` loads an encoder.

    Raises:
        BundleError: The folder is no such checkpoint.
    """
    transformer = _load(AutoModelForSequenceClassification, checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    _check_tokenizer(transformer, tokenizer, checkpoint)
    uses_types = uses_token_types(transformer, tokenizer)
    return PairClassifier(transformer, settings, uses_types=uses_types).eval()


def _load(kind: Any, checkpoint: Path) -> PreTrainedModel:
    """Load all weights of a checkpoint with attention as plain operators, which graph optimisers can see."""
    return load_transformer(
        kind, checkpoint, whole=True, error=BundleError, attn_implementation="eager"
    ).eval()


def _check_tokenizer(model: PreTrainedModel, tokenizer: Any, checkpoint: Path) -> None:
    """Raise `BundleError` where the tokenizer has ids that the embedding has no row for."""
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=vocabulary.__getitem__)
    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary[token] >= rows:
        raise BundleError(
            f"{checkpoint}: token {token!r} has id {vocabulary[token]}, and the embedding has {rows} rows; "
            "add rows with resize_token_embeddings(), or remove the token"
        )


def _check_architecture(encoder: SentenceEncoder, checkpoint: Path) -> None:
    """Raise `BundleError` unless ids and mask alone give token vectors of the width that is stated."""
    config = encoder.transformer.config
    tested = f"tested architectures are {', '.join(TESTED_ARCHITECTURES)}"
    if getattr(config, "is_encoder_decoder", False):
        raise BundleError(
            f"{checkpoint} is an encoder-decoder ({config.model_type}), not an encoder; {tested}"
        )
    ids = torch.zeros((1, 2), dtype=torch.int64)
    try:
        with torch.inference_mode(), quiet():
            _, pooled = encoder(ids, torch.ones_like(ids))
    except Exception as error:  # whatever a model's own code raises
        raise BundleError(
            f"{checkpoint} ({config.model_type}) makes no token vectors of ids and mask: "
            f"{first_reason(error)}; {tested}"
        ) from error
    if pooled.shape[1] != encoder.width:
        raise BundleError(
            f"{checkpoint} makes vectors of width {pooled.shape[1]}, its configuration says {encoder.width}"
        )
