"""Batch-invariant int8: every activation row has a scale of its own.

onnxruntime's dynamic quantisation takes one scale for a whole activation tensor, so a text's vector changes
with the texts it shares a batch with. Here each row (one token of one text) is scaled by its own largest
magnitude, inside the graph, by plain ONNX operators around `MatMulInteger`; integer products are exact, so
the result for a row depends on nothing but the row. Weights have one scale per output column, the embedding
table one per row.

Shape letters: B texts, T tokens, K inner width, N output width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from relsdk.errors import RelsdkError

__all__ = ["WEIGHT_RANGE", "quantize_int8"]

# Without VNNI, an AVX2 CPU adds two u8 x s8 products in 16 bits: 2 * 255 * 64 still fits, 2 * 255 * 127 does
# not.
WEIGHT_RANGE = {"avx512_vnni": 127, "avx2": 64}

_PREFIX = "relsdk_int8_"
_ZERO_POINT = 128


@dataclass
class _Rewrite:
    """What is gathered while the graph is walked."""

    weights: dict[str, NDArray[np.float32]]
    largest: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    quantised_rows: dict[str, str] = field(default_factory=dict)


def quantize_int8(source: Path, target: Path, *, isa: str) -> int:
    """Rewrite an fp32 graph with int8 weights and per-row int8 activations.

    Args:
        source: The fp32 ONNX file.
        target: The file to write.
        isa: A key of `WEIGHT_RANGE`.

    Returns:
        How many matrix products and embedding look-ups were quantised.

    Raises:
        RelsdkError: The graph has no matrix product with constant weights.
    """
    model = onnx.load(source)
    graph = model.graph
    float_tensors = [item for item in graph.initializer if item.data_type == TensorProto.FLOAT]
    rewrite = _Rewrite(
        weights={item.name: numpy_helper.to_array(item) for item in float_tensors if len(item.dims) == 2},
        largest=WEIGHT_RANGE[isa],
    )
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in rewrite.weights:
            _quantize_matmul(node, rewrite)
        elif node.op_type == "Gather" and node.input[0] in rewrite.weights and _axis(node) == 0:
            _quantize_gather(node, rewrite)
        else:
            rewrite.nodes.append(node)
    if not rewrite.replaced:
        raise RelsdkError(f"{source} has no matrix product with constant weights")
    _install(model, rewrite)
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return len(rewrite.replaced)


def _quantize_matmul(node: onnx.NodeProto, rewrite: _Rewrite) -> None:
    """(B, T, K) @ (K, N): integer product of the quantised row and column, then both scales."""
    source, name = node.input
    output = node.output[0]
    if name not in rewrite.replaced:
        values, scale = _symmetric(rewrite.weights[name], rewrite.largest, axis=0)
        rewrite.added[f"{name}_int8"], rewrite.added[f"{name}_scale"] = values, scale[0]
        rewrite.replaced.add(name)
    row = _quantized_rows(source, rewrite)
    product, real, scaled = (f"{_PREFIX}{output}_{step}" for step in ("product", "real", "scaled"))
    rewrite.nodes += [
        helper.make_node(
            "MatMulInteger", [f"{row}_value", f"{name}_int8", f"{_PREFIX}zero_point"], [product], name=product
        ),
        helper.make_node("Cast", [product], [real], to=TensorProto.FLOAT, name=real),
        helper.make_node("Mul", [real, f"{name}_scale"], [scaled], name=scaled),
        helper.make_node("Mul", [scaled, f"{row}_scale"], [output], name=f"{_PREFIX}{output}"),
    ]


def _quantized_rows(source: str, rewrite: _Rewrite) -> str:
    """Add, once per activation, the nodes that make its rows uint8; return the prefix of their names."""
    if source in rewrite.quantised_rows:
        return rewrite.quantised_rows[source]
    row = f"{_PREFIX}{source}"
    steps = [
        ("Abs", [source], "abs", {}),
        ("ReduceMax", [f"{row}_abs", f"{_PREFIX}last_axis"], "largest", {"keepdims": 1}),
        ("Mul", [f"{row}_largest", f"{_PREFIX}per_127"], "step", {}),
        ("Max", [f"{row}_step", f"{_PREFIX}tiny"], "scale", {}),
        ("Div", [source, f"{row}_scale"], "units", {}),
        ("Add", [f"{row}_units", f"{_PREFIX}shift"], "shifted", {}),  # the cast cuts towards 0: + 0.5 rounds
        ("Cast", [f"{row}_shifted"], "value", {"to": TensorProto.UINT8}),
    ]
    for operator, inputs, step, attributes in steps:
        output = f"{row}_{step}"
        rewrite.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
    rewrite.quantised_rows[source] = row
    return row


def _quantize_gather(node: onnx.NodeProto, rewrite: _Rewrite) -> None:
    """Embedding look-up (V, K): gather the int8 row and its scale."""
    name, ids = node.input
    output = node.output[0]
    if name not in rewrite.replaced:
        values, scale = _symmetric(rewrite.weights[name], 127, axis=1)
        rewrite.added[f"{name}_int8"], rewrite.added[f"{name}_scale"] = values, scale
        rewrite.replaced.add(name)
    row, real, scale_row = (
        f"{_PREFIX}{output}_{step}" for step in ("table_row", "table_real", "table_scale")
    )
    rewrite.nodes += [
        helper.make_node("Gather", [f"{name}_int8", ids], [row], axis=0, name=row),
        helper.make_node("Cast", [row], [real], to=TensorProto.FLOAT, name=real),
        helper.make_node("Gather", [f"{name}_scale", ids], [scale_row], axis=0, name=scale_row),
        helper.make_node("Mul", [real, scale_row], [output], name=f"{_PREFIX}{output}"),
    ]


def _symmetric(
    weights: NDArray[np.float32], largest: int, *, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to int8 in [-largest, largest] with one scale along `axis` (kept as an axis of length 1)."""
    scale = np.maximum(np.abs(weights).max(axis=axis, keepdims=True) / largest, 1e-12).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _install(model: onnx.ModelProto, rewrite: _Rewrite) -> None:
    """Put the new nodes and constants into the graph; drop constants that nothing uses any more."""
    graph = model.graph
    rewrite.added.update(
        {
            f"{_PREFIX}zero_point": np.array(_ZERO_POINT, dtype=np.uint8),
            f"{_PREFIX}last_axis": np.array([-1], dtype=np.int64),
            f"{_PREFIX}per_127": np.array(1.0 / 127.0, dtype=np.float32),
            f"{_PREFIX}tiny": np.array(1e-12, dtype=np.float32),
            f"{_PREFIX}shift": np.array(_ZERO_POINT + 0.5, dtype=np.float32),
        }
    )
    del graph.node[:]
    graph.node.extend(rewrite.nodes)
    used = {name for node in rewrite.nodes for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in rewrite.added.items())
