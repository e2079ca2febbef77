"""Attention fused into one operator: scores, mask, softmax and weighted sum, without the transposes between.

The patterns and the rewriting are onnxscript's. Only attention is fused: on a CPU, onnxruntime's kernels for
skip-layer-norm and bias-gelu were no faster than what they replace, and its `Attention` operator, which takes
the projections' weights, would keep those in fp32.
"""

from __future__ import annotations

import onnx_ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript.optimizer import optimize
from onnxscript.rewriter.ort_fusions import shape_optimization
from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa

__all__ = ["fuse_attention"]

_UNFINISHED = "ai.onnxruntime._fusion"


def fuse_attention(model: onnx_ir.Model) -> onnx_ir.Model:
    """Replace every attention by onnxruntime's `MultiHeadAttention` where all are recognised.

    Returns:
        The fused graph, or the one that was given: that of an architecture whose attention is not recognised
        (sliding windows, grouped keys) stays as it is.
    """
    fused = model.clone()
    ShapeInferencePass()(fused)
    optimize(fused)
    shape_optimization.rules.apply_to_model(fused)
    optimize(fused)
    fuse_sdpa(fused, apply_shape_inference=True)
    fuse_mha1(fused)
    fuse_mha2(fused)
    fuse_mha_scale(fused)
    optimize(fused)
    if any(node.domain == _UNFINISHED for node in fused.graph):
        return model
    for number, node in enumerate(fused.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return fused
