"""Batch-invariant int8: a text's vector never depends on the texts beside it.

onnxruntime's dynamic quantisation takes one scale for a whole activation tensor, so a text's vector changes
with its batch mates. Here an activation is scaled in one of two ways around onnxruntime's
`MatMulIntegerToFloat`; integer products are exact, so the result for a row depends on nothing but the row:

- behind a layer normalisation or an attention, whose outputs have steady ranges: by constants measured on
  real texts, which also move each channel's range around zero. They are the gain and bias of a second
  normalisation, or go into the projection of the attention's values, and cost nothing;
- everywhere else: each row (one token of one text) by its own largest magnitude, inside the graph; behind a
  GELU, whose outputs have a lowest value, by how far the row rises above that, with twice the resolution.

Where activations were measured, channels with outliers are first made smaller and the weights that meet them
larger (Xiao et al. 2023, SmoothQuant), weights are rounded so that their errors cancel on the measured
activations (`rounding`), and biases take up what rounded weights do to the mean activation (Nagel et al.
2019, bias correction). Weights have one scale for each output column, the embedding table one for each row.
Products that share an activation become one product.

Shape letters: B texts, T tokens, K inner width, N output width, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from relsdk.errors import RelsdkError
from relsdk_export.int8._encoder_function import wrap_encoder
from relsdk_export.int8._products import round_product
from relsdk_export.int8._rounding import round_rows
from relsdk_export.int8._scaling import Scale, choose_scale
from relsdk_export.int8.activations import Activation, weighted_inputs
from relsdk_export.onnx.graphs import check_graph, save_graph

__all__ = ["WEIGHT_RANGE", "quantize_int8"]

# A CPU with AVX2 or AVX512 but no VNNI adds two u8 x s8 products in 16 bits: 2 * 255 * 64 still fits,
# 2 * 255 * 127 does not. "any" has the full range and unsigned weights, whose kernels never saturate but are
# slower: the same integers as "avx512_vnni", so what is measured of the one holds for the other.
WEIGHT_RANGE = {"avx512_vnni": 127, "avx2": 64, "any": 127}
MICROSOFT = "com.microsoft"

# No output of these operators is lower: x * Phi(x) has its minimum at -0.16997, its tanh form at -0.17004.
_LOWEST = {"Gelu": -0.1701, "Relu": 0.0}

_PREFIX = "relsdk_int8_"
_CONSTANTS: dict[str, NDArray[Any]] = {
    "zero_point": np.array(128, dtype=np.uint8),
    "no_zero_point": np.array(0, dtype=np.uint8),
    "last_axis": np.array([-1], dtype=np.int64),
    "tiny": np.array(1e-12, dtype=np.float32),
    "one": np.array(1.0, dtype=np.float32),
    "per_127": np.array(1.0 / 127.0, dtype=np.float32),
    "per_255": np.array(1.0 / 255.0, dtype=np.float32),
}
_ZERO_POINT, _NO_ZERO_POINT, _LAST_AXIS, _TINY, _ONE, _PER_127, _PER_255 = (
    _PREFIX + name for name in _CONSTANTS
)


@dataclass
class _Rewrite:
    """The new parts of a graph, gathered while it is walked.

    Attributes:
        ranges: The largest magnitudes that weights are rounded to.
        rounded: The constants that depend on a range, by it and by their name; weights are int8.
    """

    weights: dict[str, NDArray[np.float32]]
    activations: Mapping[str, Activation]
    ranges: tuple[int, ...]
    vectors: dict[str, NDArray[np.float32]]
    biases: dict[str, tuple[onnx.NodeProto, NDArray[np.float32]]]
    lowest: dict[str, float]
    steady: dict[str, onnx.NodeProto | None] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, NDArray[Any]] = field(default_factory=dict)
    rounded: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    merged: set[str] = field(default_factory=set)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser; return its name."""
        self.added[name] = value
        return name


def quantize_int8(
    source: Path, targets: Mapping[str, Path], activations: Mapping[str, Activation] | None = None
) -> int:
    """Rewrite an fp32 graph with int8 weights and int8 activations.

    Args:
        source: The fp32 ONNX file.
        targets: The files to write, by keys of `WEIGHT_RANGE`; those of one range get the same integers.
        activations: `relsdk_export.int8.activations.measure_activations` of the source; without it every
            activation is scaled row by row, nothing is smoothed, and weights are rounded to the nearest.

    Returns:
        How many weight matrices and embedding tables were quantised.

    Raises:
        RelsdkError: The graph has no matrix product with constant weights, and no embedding table.
    """
    model = onnx.load(source)
    products = weighted_inputs(model)
    floats = [item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT]
    rewrite = _Rewrite(
        weights={item.name: numpy_helper.to_array(item) for item in floats if len(item.dims) == 2},
        activations=activations or {},
        ranges=tuple(sorted({WEIGHT_RANGE[isa] for isa in targets})),
        vectors={item.name: numpy_helper.to_array(item) for item in floats if len(item.dims) == 1},
        biases=_biases(model),
        lowest={
            node.output[0]: _LOWEST[node.op_type] for node in model.graph.node if node.op_type in _LOWEST
        },
    )
    rewrite.steady.update((node.output[0], node) for node in model.graph.node if _is_steady(node, rewrite))
    _scale_attention(model, products, rewrite)
    first = {nodes[0].name: (activation, nodes) for activation, nodes in products.items()}
    others = {node.name for nodes in products.values() for node in nodes[1:]}
    for node in model.graph.node:
        if node.name in first:
            _quantize_products(*first[node.name], rewrite)
        elif node.op_type == "Gather" and node.input[0] in rewrite.weights and _axis(node) == 0:
            _quantize_gather(node, rewrite)
        elif node.name not in others and node.name not in rewrite.merged:
            rewrite.nodes.append(node)
    if not rewrite.replaced:
        raise RelsdkError(f"{source} has no matrix product with constant weights and no embedding table")
    originals = list(model.graph.initializer)
    for isa, target in targets.items():
        _install(model, rewrite, originals, isa)
        written = onnx.ModelProto()
        written.CopyFrom(model)
        save_graph(written, target, mapped=wrap_encoder(written))
        check_graph(target)
    return len(rewrite.replaced)


def _quantize_products(activation: str, nodes: list[onnx.NodeProto], rewrite: _Rewrite) -> None:
    """(B, T, K) @ (K, N) for every N that meets the activation: one integer product, scaled back, split."""
    matrices = [rewrite.weights[node.input[1]] for node in nodes]
    rewrite.replaced.update(node.input[1] for node in nodes)
    exact = np.concatenate(matrices, axis=1)  # (K, N)
    site = f"{_PREFIX}{activation}"
    statistics, steady = rewrite.activations.get(activation), activation in rewrite.steady
    outputs, bias = _outputs(nodes, rewrite)  # names, (N,)
    lowest = rewrite.lowest.get(activation)
    middle = np.full(len(exact), lowest or 0.0, dtype=np.float32)  # (K,)
    scale = None
    if statistics is not None:
        scale = choose_scale(statistics, matrices, statistics.middle if steady else middle)
        middle = scale.middle
    rows, zero_point = None, _ZERO_POINT
    if scale is not None and steady:
        step = scale.step
        quantised = _steady_rows(activation, site, scale, rewrite)
    else:
        step, zero_point = (1 / 127, _ZERO_POINT) if lowest is None else (1 / 255, _NO_ZERO_POINT)
        quantised, rows = _own_rows(activation, site, scale, lowest, rewrite)
    weights, columns, bias_name = f"{site}_weights", f"{site}_columns", f"{site}_bias"
    inputs = [quantised, weights, _ONE, columns, zero_point, ""]
    biased = bias is not None or statistics is not None or middle.any()
    if biased and rows is None:
        inputs.append(bias_name)
    for largest, rounded in round_product(exact, statistics, scale, middle, rewrite.ranges).items():
        constants = rewrite.rounded.setdefault(largest, {})
        constants[weights] = rounded.values
        constants[columns] = (rounded.columns * step).astype(np.float32)
        if biased:
            constants[bias_name] = (rounded.lost if bias is None else rounded.lost + bias).astype(np.float32)
    result = outputs[0] if len(nodes) == 1 else f"{site}_result"
    product = result if rows is None else f"{site}_product"
    rewrite.add("MatMulIntegerToFloat", inputs, product, domain=MICROSOFT)
    if rows is not None:
        product = rewrite.add("Mul", [product, rows], f"{site}_real" if biased else result)
        if biased:
            rewrite.add("Add", [product, bias_name], result)
    if len(nodes) > 1:
        sizes = rewrite.constant(f"{site}_sizes", np.array([m.shape[1] for m in matrices], dtype=np.int64))
        split = helper.make_node("Split", [result, sizes], outputs, axis=-1, name=f"{site}_split")
        rewrite.nodes.append(split)


def _outputs(nodes: list[onnx.NodeProto], rewrite: _Rewrite) -> tuple[list[str], NDArray[np.float32] | None]:
    """Return the names that products stand for, and their biases (N,) where each has one to take in."""
    outputs = [node.output[0] for node in nodes]
    if not all(output in rewrite.biases for output in outputs):
        return outputs, None
    additions = [rewrite.biases[output][0] for output in outputs]
    rewrite.merged.update(addition.name for addition in additions)
    biases = np.concatenate([rewrite.biases[output][1] for output in outputs])
    return [addition.output[0] for addition in additions], biases.astype(np.float32)


def _scale_attention(
    model: onnx.ModelProto, products: Mapping[str, list[onnx.NodeProto]], rewrite: _Rewrite
) -> None:
    """Scale the values of an attention as the product behind it needs them, in their weights and bias.

    Attention takes means over rows, column by column, so its output comes out scaled, too.
    """
    made_by = {node.output[0]: node for node in model.graph.node}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for activation, nodes in products.items():
        attention, statistics = made_by.get(activation), rewrite.activations.get(activation)
        if attention is None or attention.op_type != "MultiHeadAttention" or statistics is None:
            continue
        values = attention.input[2]
        product = next((name for name, (node, _) in rewrite.biases.items() if node.output[0] == values), "")
        if product not in made_by or uses[values] != 1 or uses[activation] != len(nodes):
            continue
        addition, bias = rewrite.biases[product]
        weight = made_by[product].input[1]
        if weight not in rewrite.weights or uses[weight] != 1:
            continue
        scale = choose_scale(
            statistics, [rewrite.weights[node.input[1]] for node in nodes], statistics.middle
        )
        unit = scale.smooth * scale.step
        rewrite.weights[weight] = rewrite.weights[weight] / unit
        rewrite.biases[product] = (addition, (bias - scale.middle) / unit)
        rewrite.steady[activation] = None


def _biases(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, NDArray[np.float32]]]:
    """Return, for each tensor whose only use is the addition of a constant vector, node and vector."""
    vectors = {item.name: item for item in model.graph.initializer if len(item.dims) == 1}
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    biases = {}
    for name, nodes in uses.items():
        if name not in vectors and len(nodes) == 1 and nodes[0].op_type == "Add":
            constants = [other for other in nodes[0].input if other in vectors]
            if len(constants) == 1:
                biases[name] = (nodes[0], numpy_helper.to_array(vectors[constants[0]]))
    return biases


def _is_steady(node: onnx.NodeProto, rewrite: _Rewrite) -> bool:
    gain_and_bias = list(node.input[1:])
    return (
        node.op_type == "LayerNormalization"
        and len(gain_and_bias) == 2
        and all(name in rewrite.vectors for name in gain_and_bias)
    )


def _steady_rows(activation: str, site: str, scale: Scale, rewrite: _Rewrite) -> str:
    """Quantise by a constant scale; values beyond the measured range saturate.

    A normalisation is repeated with the scale in its gain and bias; an attention's output is scaled already.
    """
    normalisation = rewrite.steady[activation]
    if normalisation is None:
        return rewrite.add("QuantizeLinear", [activation, _ONE, _ZERO_POINT], f"{site}_quantised")
    gain, bias = (rewrite.vectors[name] for name in normalisation.input[1:3])
    unit = scale.smooth * scale.step
    again = onnx.NodeProto()
    again.CopyFrom(normalisation)
    again.name = again.output[0] = f"{site}_units"
    again.input[1] = rewrite.constant(f"{site}_gain", (gain / unit).astype(np.float32))
    again.input[2] = rewrite.constant(f"{site}_shift", ((bias - scale.middle) / unit).astype(np.float32))
    rewrite.nodes.append(again)
    return rewrite.add("QuantizeLinear", [again.name, _ONE, _ZERO_POINT], f"{site}_quantised")


def _own_rows(
    activation: str, site: str, scale: Scale | None, lowest: float | None, rewrite: _Rewrite
) -> tuple[str, str]:
    """Quantise each row by its own largest magnitude, or by how far it rises above the lowest value.

    Returns the names of the quantised rows and of their scales.
    """
    if lowest:
        bound = rewrite.constant(f"{site}_lowest", np.array(lowest, dtype=np.float32))
        activation = rewrite.add("Sub", [activation, bound], f"{site}_raised")
    if scale is not None:
        inverse = rewrite.constant(f"{site}_inverse", (1.0 / scale.smooth).astype(np.float32))
        activation = rewrite.add("Mul", [activation, inverse], f"{site}_smoothed")
    magnitude = activation if lowest is not None else rewrite.add("Abs", [activation], f"{site}_magnitude")
    largest = rewrite.add("ReduceMax", [magnitude, _LAST_AXIS], f"{site}_largest", keepdims=1)
    rows = rewrite.add("Max", [largest, _TINY], f"{site}_rows")
    units = rewrite.add("Div", [activation, rows], f"{site}_units")
    step, zero_point = (_PER_127, _ZERO_POINT) if lowest is None else (_PER_255, _NO_ZERO_POINT)
    return rewrite.add("QuantizeLinear", [units, step, zero_point], f"{site}_quantised"), rows


def _quantize_gather(node: onnx.NodeProto, rewrite: _Rewrite) -> None:
    """Embedding look-up (V, K): gather the int8 row and its scale."""
    table, ids = node.input
    output = node.output[0]
    site = f"{_PREFIX}{output}"
    if table not in rewrite.replaced:
        values, scale = round_rows(rewrite.weights[table], 127)
        rewrite.constant(f"{table}_int8", values)
        rewrite.constant(f"{table}_scale", scale)
        rewrite.replaced.add(table)
    row = rewrite.add("Gather", [f"{table}_int8", ids], f"{site}_table_row", axis=0)
    real = rewrite.add("Cast", [row], f"{site}_table_real", to=TensorProto.FLOAT)
    scale_row = rewrite.add("Gather", [f"{table}_scale", ids], f"{site}_table_scale", axis=0)
    rewrite.add("Mul", [real, scale_row], output)


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _install(
    model: onnx.ModelProto, rewrite: _Rewrite, originals: Iterable[onnx.TensorProto], isa: str
) -> None:
    """Put the new nodes and constants for a key of `WEIGHT_RANGE` into the graph, in place of what is there.

    Of the original constants those stay that are used.
    """
    graph = model.graph
    new = {**{_PREFIX + name: value for name, value in _CONSTANTS.items()}, **rewrite.added}
    new.update(rewrite.rounded.get(WEIGHT_RANGE[isa], {}))  # none of a graph without products
    for node in rewrite.nodes:
        if node.op_type == "MatMulIntegerToFloat":
            node.input[5] = _ZERO_POINT if isa == "any" else ""
            if isa == "any":  # unsigned, around the zero point
                new[node.input[1]] = (new[node.input[1]].astype(np.int16) + 128).astype(np.uint8)
    used = {name for node in rewrite.nodes for name in node.input} | {item.name for item in graph.output}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(rewrite.nodes)
    graph.initializer.extend(item for item in originals if item.name in used)
    graph.initializer.extend(numpy_helper.from_array(new[name], name) for name in new if name in used)
    if MICROSOFT not in {item.domain for item in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
