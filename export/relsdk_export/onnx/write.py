"""A torch module to an fp32 ONNX file.

Shape letters: B texts of a batch, T tokens, D dimension.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from relsdk.errors import RelsdkError
from relsdk_checkpoint.loading import first_reason, quiet
from relsdk_export.onnx.bert import OPSET, encoder_graph, scorer_graph
from relsdk_export.onnx.convert import PairClassifier, SentenceEncoder
from relsdk_export.onnx.graphs import save_program

__all__ = ["trace", "write_onnx"]

# Loggers of notes on the exporter's own internals; what matters is checked on the result.
_EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


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
