"""A torch checkpoint to an fp32 ONNX graph with pooling and normalisation inside.

Shape letters: B texts of a batch, T tokens, D dimension.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from relsdk.bundle import EncoderSettings
from relsdk.errors import BundleError, RelsdkError
from relsdk_export.graphs import save_program

__all__ = ["SentenceEncoder", "load_encoder", "write_onnx"]

OPSET = 20  # the first with Gelu as one operator
# Others are tried, too: the parity check decides.
TESTED_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "qwen3")


class SentenceEncoder(nn.Module):
    """A transformer with pooling and normalisation, as one module.

    Args:
        transformer: Gives `last_hidden_state` (B, T, D).
        settings: Which pooling, and whether to normalise.
    """

    def __init__(self, transformer: PreTrainedModel, settings: EncoderSettings) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = settings.pooling
        self.normalize = settings.normalize
        self.max_tokens = settings.max_tokens
        self.dimension = settings.dimension

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64, 1 for a real token, padding on the right.

        Returns:
            Token vectors (B, T, D) and text vectors (B, D).
        """
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # (B, T, D)
        pooled = self._pool(hidden, attention_mask)  # (B, D)
        if self.normalize:
            pooled = nn.functional.normalize(pooled, p=2.0, dim=-1)
        return hidden, pooled

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "lasttoken":
            last = (mask.sum(dim=1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[-1])
            return hidden.gather(1, last)[:, 0]
        weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def load_encoder(checkpoint: Path, settings: EncoderSettings) -> SentenceEncoder:
    """Load a Hugging Face checkpoint (safetensors only, no remote code) in fp32, ready for inference.

    Raises:
        BundleError: The folder is no such checkpoint.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise BundleError(f"{checkpoint} has no safetensors weights; name a checkpoint folder")
    try:
        with _quiet():
            model = AutoModel.from_pretrained(
                checkpoint,
                dtype=torch.float32,
                attn_implementation="eager",  # plain operators, which graph optimisers can see
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"{checkpoint} cannot be loaded: {str(error).splitlines()[0]}") from error
    encoder = SentenceEncoder(model.eval(), settings).eval()
    _check_architecture(encoder, checkpoint)
    return encoder


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
        with torch.inference_mode(), _quiet():
            _, pooled = encoder(ids, torch.ones_like(ids))
    except Exception as error:  # whatever a model's own code raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BundleError(
            f"{checkpoint} ({config.model_type}) makes no token vectors of ids and mask: {reason}; {tested}"
        ) from error
    if pooled.shape[1] != encoder.dimension:
        raise BundleError(
            f"{checkpoint} makes vectors of width {pooled.shape[1]}, "
            f"its configuration says {encoder.dimension}"
        )


def write_onnx(model: SentenceEncoder, path: Path, *, max_tokens: int) -> None:
    """Export with dynamic batch and length.

    The graph's inputs are `input_ids` and `attention_mask` (B, T) int64; its outputs `last_hidden_state` (B,
    T, D), which other runtimes pool themselves, and `sentence_embedding` (B, D).

    Args:
        model: The module.
        path: The file to write.
        max_tokens: Upper bound of T.

    Raises:
        RelsdkError: torch cannot export this architecture.
    """
    ids = torch.full((2, 8), 5, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=max_tokens)
    shape = {0: batch, 1: tokens}
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                (ids, mask),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state", "sentence_embedding"],
                dynamic_shapes={"input_ids": shape, "attention_mask": shape},
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            name = type(model.transformer).__name__
            raise RelsdkError(f"torch cannot export {name} to ONNX: {str(error).splitlines()[0]}") from error
        if program is None:
            raise RelsdkError("torch exported nothing")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_program(program.model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' notes on their own internals; what matters is checked on the result."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "transformers")
    ]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
