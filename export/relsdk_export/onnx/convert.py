"""A torch checkpoint to an fp32 ONNX graph with pooling and normalisation inside.

Shape letters: B texts of a batch, T tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from relsdk.bundle import DenseLayer, EncoderSettings, ScorerSettings, read_dense
from relsdk.errors import BundleError, RelsdkError
from relsdk_checkpoint.encoder import pool
from relsdk_checkpoint.loading import first_reason, load_tokenizer, load_transformer, quiet, uses_token_types
from relsdk_export.onnx.bert import OPSET, encoder_graph, scorer_graph
from relsdk_export.onnx.graphs import save_program

__all__ = [
    "PairClassifier",
    "SentenceEncoder",
    "load_encoder",
    "load_scorer",
    "trace",
    "write_onnx",
]

# Others are tried, too: the parity check decides.
TESTED_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "qwen3")
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
}
# Loggers of notes on the exporter's own internals; what matters is checked on the result.
_EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


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
        self.dense = nn.Sequential(*(_dense(layer) for layer in dense))
        self.pooling = settings.pooling
        self.normalize = settings.normalize
        self.max_tokens = settings.max_tokens
        self.width = settings.dimension
        self.cut: int | None = None

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


def _dense(layer: DenseLayer) -> nn.Sequential:
    behind, before = layer.weight.shape
    linear = nn.Linear(before, behind)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weight))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    return nn.Sequential(linear, _ACTIVATIONS[layer.activation]())


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
    _check_tokenizer(encoder.transformer, load_tokenizer(checkpoint), checkpoint)
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


def write_onnx(model: SentenceEncoder | PairClassifier, path: Path) -> None:
    """Write a graph with dynamic batch and length, attention fused where it is recognised.

    The graph's inputs are `input_ids`, `attention_mask` and perhaps `token_type_ids`, (B, T) int64. Its
    outputs are an encoder's `last_hidden_state` (B, T, D), which other runtimes pool themselves, and
    `sentence_embedding` (B, D), alone where that was cut to fewer dimensions; or a scorer's `logits` (B, C).

    Args:
        model: The module.
        path: The file to write.

    Raises:
        RelsdkError: torch cannot export this architecture.
    """
    graph = scorer_graph(model) if isinstance(model, PairClassifier) else encoder_graph(model)
    if graph is None:
        from relsdk_export.onnx.fusion import fuse_attention  # slow to import, and seldom needed

        graph = fuse_attention(trace(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_program(graph, path)


def trace(model: SentenceEncoder | PairClassifier) -> onnx_ir.Model:
    """Let torch export a module of any architecture; nothing is fused.

    Raises:
        RelsdkError: torch cannot export it.
    """
    ids = torch.full((2, min(8, model.max_tokens)), 5, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, ids.shape[1] // 2 + 1 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    module: nn.Module = model
    if isinstance(model, PairClassifier):
        outputs = ["logits"]
        if model.uses_types:
            inputs["token_type_ids"] = torch.zeros_like(ids)
    elif model.cut is None:
        outputs = ["last_hidden_state", "sentence_embedding"]
    else:
        module, outputs = _TextVectors(model), ["sentence_embedding"]
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=model.max_tokens)}
    with quiet(*_EXPORTERS):
        try:
            program = torch.onnx.export(
                module,
                kwargs=inputs,
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=dict.fromkeys(inputs, shape),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            name = type(model.transformer).__name__
            raise RelsdkError(f"torch cannot export {name} to ONNX: {first_reason(error)}") from error
        if program is None:
            raise RelsdkError("torch exported nothing")
        return program.model


class _TextVectors(nn.Module):
    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(input_ids, attention_mask)[1]
        return vectors
