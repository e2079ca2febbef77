"""The transformer of an int8 graph as one operator, which is a function of the graph itself.

`relsdk.Encoder` is a model-local function (ONNX IR 8) whose body are the operators that it replaces: a
runtime that does not know it runs those. relsdk's native engine computes it in one step. Its weights lie in
the file as the engine reads them, (N / 16, K / 4, 16, 4): 16 columns together, four of their numbers after
each other.

Shape letters: B texts, T tokens, K channels of an activation, N columns of a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["wrap_encoder"]

_DOMAIN = "relsdk"
_NAME = "Encoder"
_BLOCK = 16
_POSITION_OPERATORS = {"Range", "Squeeze", "Shape"}


class _OtherGraph(Exception):
    """The graph has not the form that the engine computes."""


@dataclass
class _Found:
    """What was found of an encoder, from its last operator to its first.

    Attributes:
        weights: Names of constants in the engine's order, layer by layer from the last.
        packed: Names of those that are integer weights (K, N).
        numbers: Settings that must be the same in every layer.
    """

    weights: list[list[str]] = field(default_factory=list)
    packed: set[str] = field(default_factory=set)
    numbers: dict[str, float] = field(default_factory=dict)

    def agree(self, name: str, value: float) -> None:
        """Note a setting.

        Raises:
            _OtherGraph: It was another before.
        """
        if self.numbers.setdefault(name, value) != value:
            raise _OtherGraph(name)


class _Graph:
    """Reads a graph from its end."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {item.name: item for item in model.graph.initializer}
        self.inputs = {item.name for item in model.graph.input}
        self.made_by = {name: node for node in model.graph.node for name in node.output}

    def made(self, name: str, operator: str, *, inputs: int = 0) -> onnx.NodeProto:
        """Return the node that makes a value.

        Raises:
            _OtherGraph: It is of another operator, or has another number of inputs.
        """
        node = self.made_by.get(name)
        if node is None or node.op_type != operator or (inputs and len(node.input) != inputs):
            raise _OtherGraph(f"{name} is not made by {operator}")
        return node

    def value(self, name: str) -> NDArray[Any]:
        """Return a constant.

        Raises:
            _OtherGraph: It is none.
        """
        if name not in self.constants:
            raise _OtherGraph(f"{name} is not constant")
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def number(self, name: str) -> float:
        """Return a constant number."""
        value = self.value(name)
        if value.size != 1:
            raise _OtherGraph(f"{name} is not one number")
        return float(value.reshape(()))

    def shape(self, name: str, kind: int = TensorProto.FLOAT) -> tuple[int, ...]:
        """Return the shape of a constant of a type."""
        if name not in self.constants or self.constants[name].data_type != kind:
            raise _OtherGraph(f"{name} is not constant, or of another type")
        return tuple(self.constants[name].dims)

    def length(self, name: str) -> int:
        """Return the length of a constant vector of real numbers."""
        shape = self.shape(name)
        if len(shape) != 1:
            raise _OtherGraph(f"{name} is not a vector")
        return shape[0]

    def ancestors(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that a value is computed by, each once."""
        found: dict[str, onnx.NodeProto] = {}
        waiting = [name]
        while waiting:
            node = self.made_by.get(waiting.pop())
            if node is not None and node.output[0] not in found:
                found[node.output[0]] = node
                waiting.extend(node.input)
        return list(found.values())


def wrap_encoder(model: onnx.ModelProto) -> list[str]:
    """Make the transformer of a graph of ours one operator; a graph of another form stays as it is.

    Args:
        model: An int8 graph, changed in place.

    Returns:
        Names of the integer weights in the order in which the engine reads them; none where the graph is not
        of the form that it computes.
    """
    graph = _Graph(model)
    for node in reversed(model.graph.node):
        if node.op_type == "LayerNormalization":
            try:
                found, types = _read(graph, node.output[0])
            except _OtherGraph:
                return []
            return _replace(model, graph, node.output[0], found, types)
    return []


def _read(graph: _Graph, hidden: str) -> tuple[_Found, str]:
    """Read an encoder whose last vectors are `hidden`; return it and the name of the tokens' types."""
    found = _Found()
    units = ""  # what the last layer's vectors are rounded from: nothing
    while (before := _read_layer(graph, found, hidden, units)) is not None:
        hidden, units = before
    types = _read_embeddings(graph, found, hidden, units)
    return found, types


def _read_layer(graph: _Graph, found: _Found, hidden: str, units: str) -> tuple[str, str] | None:
    """Read the layer that makes `hidden`; return its input's names, or None where there is no layer."""
    total = graph.made(graph.made(hidden, "LayerNormalization").input[0], "Add")
    real = graph.made(total.input[0], "Add")
    scaled = graph.made_by.get(real.input[0])
    if scaled is None or scaled.op_type != "Mul":
        return None  # the embeddings
    product = graph.made_by.get(scaled.input[0])
    if product is None or product.op_type != "MatMulIntegerToFloat":
        return None
    end = _norm(graph, found, hidden, units)
    middle_hidden, bias, rows = total.input[1], real.input[1], scaled.input[1]
    activation, down = _product(graph, scaled.input[0], zero_point=0)
    wide, inverse = _own_rows(graph, found, activation, rows)
    middle_units, up = _product(graph, wide, zero_point=128)
    middle = _norm(graph, found, middle_hidden, _steady(graph, middle_units))
    total = graph.made(graph.made(middle_hidden, "LayerNormalization").input[0], "Add")
    attended, output = _product(graph, total.input[0], zero_point=128)
    attention = graph.made(_steady(graph, attended), "MultiHeadAttention", inputs=5)
    settings = {item.name: helper.get_attribute_value(item) for item in attention.attribute}
    mask = graph.made(attention.input[4], "Cast")
    if set(settings) != {"num_heads"} or attention.input[3] or mask.input[0] != "attention_mask":
        raise _OtherGraph("attention has other settings")
    found.agree("heads", settings["num_heads"])
    split = graph.made(attention.input[0], "Split")
    if list(split.output) != list(attention.input[:3]) or np.unique(graph.value(split.input[1])).size != 1:
        raise _OtherGraph("queries, keys and values are not equal parts")
    quantised, mixed = _product(graph, split.input[0], zero_point=128)
    found.agree("width", graph.length(bias))
    found.agree("inner", graph.length(inverse))
    width, inner = int(found.numbers["width"]), int(found.numbers["inner"])
    wanted = [(mixed, 3, (width, 3 * width)), (output, 3, (width, width)), (up, 3, (width, inner))]
    for names, count, shape in [*wanted, (down, 2, (inner, width))]:
        if len(names) != count or tuple(graph.constants[names[0]].dims) != shape:
            raise _OtherGraph("products have other shapes")
    found.packed.update((mixed[0], output[0], up[0], down[0]))
    found.weights.append([*mixed, *output, *middle, *up, inverse, *down, bias, *end])
    return str(total.input[1]), _steady(graph, quantised)


def _norm(graph: _Graph, found: _Found, hidden: str, units: str) -> list[str]:
    """Return gain and bias of a normalisation and, where it is repeated for rounding, those of that."""
    node = graph.made(hidden, "LayerNormalization", inputs=3)
    names = list(node.input[1:])
    nodes = [node]
    if units:
        again = graph.made(units, "LayerNormalization", inputs=3)
        if again.input[0] != node.input[0]:
            raise _OtherGraph("another vector is rounded")
        nodes.append(again)
        names += again.input[1:]
    for one in nodes:
        settings = {item.name: helper.get_attribute_value(item) for item in one.attribute}
        if settings.pop("axis", -1) != -1 or set(settings) != {"epsilon"}:
            raise _OtherGraph("normalisation has other settings")
        found.agree("epsilon", settings["epsilon"])
    for name in names:
        found.agree("width", graph.length(name))
    return names


def _product(graph: _Graph, name: str, *, zero_point: int) -> tuple[str, list[str]]:
    """Return what an integer product multiplies, and the names of its weights, scales and, if any, bias."""
    node = graph.made(name, "MatMulIntegerToFloat")
    quantised, weights, step, columns, zero, weights_zero, *bias = [*node.input, ""][:7]
    stored = graph.constants.get(weights)
    if stored is None or graph.number(step) != 1.0 or graph.number(zero) != zero_point:
        raise _OtherGraph("scales are others")
    unsigned = stored.data_type == TensorProto.UINT8
    if unsigned != bool(weights_zero) or (unsigned and graph.number(weights_zero) != 128):
        raise _OtherGraph("weights have another zero point")
    if len(stored.dims) != 2 or stored.dims[0] % _BLOCK or stored.dims[1] % _BLOCK:
        raise _OtherGraph("weights are no multiple of 16 wide")
    if any(graph.length(vector) != stored.dims[1] for vector in (columns, *filter(None, bias))):
        raise _OtherGraph("columns have other scales")
    return quantised, [weights, columns, *(item for item in bias if item)]


def _steady(graph: _Graph, quantised: str) -> str:
    """Return what is rounded by a constant scale of 1 around 128."""
    node = graph.made(quantised, "QuantizeLinear", inputs=3)
    if graph.number(node.input[1]) != 1.0 or graph.number(node.input[2]) != 128:
        raise _OtherGraph("scales are others")
    return str(node.input[0])


def _own_rows(graph: _Graph, found: _Found, quantised: str, rows: str) -> tuple[str, str]:
    """Return what an activation function is applied to before each row is rounded by its largest value.

    The second name is that of the factors between.
    """
    node = graph.made(quantised, "QuantizeLinear", inputs=3)
    if graph.number(node.input[1]) != np.float32(1.0 / 255.0) or graph.number(node.input[2]) != 0:
        raise _OtherGraph("scales are others")
    units = graph.made(node.input[0], "Div")
    largest = graph.made(rows, "Max", inputs=2)
    highest = graph.made(largest.input[0], "ReduceMax", inputs=2)
    if units.input[1] != rows or highest.input[0] != units.input[0]:
        raise _OtherGraph("rows have other scales")
    if graph.number(largest.input[1]) != np.float32(1e-12) or graph.value(highest.input[1]).tolist() != [-1]:
        raise _OtherGraph("rows have other scales")
    smoothed = graph.made(units.input[0], "Mul")
    activation, lowest = smoothed.input[0], 0.0
    if activation in graph.made_by and graph.made_by[activation].op_type == "Sub":
        raised = graph.made(activation, "Sub")
        activation, lowest = raised.input[0], graph.number(raised.input[1])
    found.agree("lowest", lowest)
    function = graph.made_by.get(activation)
    if function is None or function.op_type not in ("Gelu", "Relu") or function.attribute:
        raise _OtherGraph("the activation function is another")
    found.agree("relu", float(function.op_type == "Relu"))
    return str(function.input[0]), str(smoothed.input[1])


def _read_embeddings(graph: _Graph, found: _Found, hidden: str, units: str) -> str:
    """Read tables and normalisation of the embeddings; return the name of the tokens' types."""
    if not found.weights:
        raise _OtherGraph("there is no layer: nothing for the engine")
    norm = _norm(graph, found, hidden, units)
    total = graph.made(graph.made(hidden, "LayerNormalization").input[0], "Add")
    first = graph.made(total.input[0], "Add")
    width = int(found.numbers["width"])
    words, ids = _table(graph, first.input[0], width)
    types, kinds = _table(graph, first.input[1], width)
    positions, places = _table(graph, total.input[1], width)
    if ids != "input_ids" or (kinds != "token_type_ids" and graph.shape(kinds, TensorProto.INT64) != (1, 1)):
        raise _OtherGraph("tables are read by other inputs")
    found.numbers["padding"] = _padding(graph, places)
    found.weights.append([*words, *types, *positions, *norm])
    return kinds


def _table(graph: _Graph, name: str, width: int) -> tuple[list[str], str]:
    """Return the names of a table's rows and scales, and of what it is read by."""
    scaled = graph.made(name, "Mul")
    row = graph.made(graph.made(scaled.input[0], "Cast").input[0], "Gather")
    scale = graph.made(scaled.input[1], "Gather")
    rows = graph.shape(row.input[0], TensorProto.INT8)
    if row.input[1] != scale.input[1] or rows[1:] != (width,) or graph.shape(scale.input[0]) != (rows[0], 1):
        raise _OtherGraph("a table has other scales")
    if any(item.i != 0 for node in (row, scale) for item in node.attribute):
        raise _OtherGraph("a table is read by its columns")
    return [row.input[0], scale.input[0]], str(row.input[1])


def _padding(graph: _Graph, places: str) -> int:
    """Return the token that positions do not count, or -1: they count all."""
    nodes = graph.ancestors(places)
    operators = {node.op_type for node in nodes}
    if operators == _POSITION_OPERATORS:
        ranges = graph.made(places, "Range")
        length = graph.made(graph.made(ranges.input[1], "Squeeze").input[0], "Shape")
        part = {item.name: helper.get_attribute_value(item) for item in length.attribute}
        if length.input[0] != "input_ids" or part != {"start": 1, "end": 2}:
            raise _OtherGraph("positions are of another length")
        if graph.number(ranges.input[0]) != 0 or graph.number(ranges.input[2]) != 1:
            raise _OtherGraph("positions are others")
        return -1
    total = graph.made(places, "Add")
    counted = graph.made(total.input[0], "Mul")
    real = graph.made(counted.input[1], "Cast")
    same = graph.made(graph.made(real.input[0], "Not").input[0], "Equal")
    count = graph.made(counted.input[0], "CumSum")
    if (
        count.input[0] != real.output[0]
        or same.input[0] != "input_ids"
        or graph.value(count.input[1]).tolist() != [1]
        or count.attribute
        or total.input[1] != same.input[1]
    ):
        raise _OtherGraph("positions are others")
    return int(graph.number(total.input[1]))


def _replace(model: onnx.ModelProto, graph: _Graph, hidden: str, found: _Found, types: str) -> list[str]:
    """Put one operator, and the function that it is, in the place of an encoder's nodes."""
    width, heads = int(found.numbers["width"]), int(found.numbers["heads"])
    inside = {node.output[0] for node in graph.ancestors(hidden)}
    outside = [node for node in model.graph.node if node.output[0] not in inside]
    wanted = {name for node in outside for name in node.input} | {item.name for item in model.graph.output}
    made = {name for node in graph.ancestors(hidden) for name in node.output}
    if wanted & made != {hidden} or width % heads or width // heads % _BLOCK:
        return []
    weights = [name for part in reversed(found.weights) for name in part]
    inputs = ["input_ids", "attention_mask", types, *weights]
    if len(set(inputs)) != len(inputs):
        return []
    body = [node for node in model.graph.node if node.output[0] in inside]
    used = {name for node in body for name in node.input if name}
    constants = sorted(used.intersection(graph.constants).difference(inputs))
    numbers = found.numbers
    settings: dict[str, Any] = {
        "width": width,
        "inner": int(numbers["inner"]),
        "heads": heads,
        "layers": len(found.weights) - 1,
        "relu": int(numbers["relu"]),
        "padding": int(numbers["padding"]),
        "epsilon": numbers["epsilon"],
        "lowest": numbers["lowest"],
    }
    unpacked = [node for name in sorted(found.packed) for node in _unpack(graph.constants[name])]
    function = helper.make_function(
        _DOMAIN,
        _NAME,
        [_inner(name, found.packed) for name in inputs],
        [hidden],
        [
            *(helper.make_node("Constant", [], [name], value=graph.constants[name]) for name in constants),
            *unpacked,
            *body,
        ],
        list(model.opset_import),
        list(settings),
    )
    operator = helper.make_node(_NAME, inputs, [hidden], name=_NAME, domain=_DOMAIN, **settings)
    _install(model, graph, [operator, *outside], found.packed, drop=constants)
    if hidden not in {item.name for item in model.graph.output}:
        # Checkers do not look into a function for it.
        shape = ["batch", "tokens", width]
        model.graph.value_info.append(helper.make_tensor_value_info(hidden, TensorProto.FLOAT, shape))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return [name for name in weights if graph.constants[name].data_type != TensorProto.FLOAT]


def _inner(name: str, packed: Iterable[str]) -> str:
    """Return the name that a function has for an input of it."""
    return f"{name}_packed" if name in packed else name


def _unpack(tensor: TensorProto) -> list[onnx.NodeProto]:
    """Return the nodes that make weights (K, N) of packed ones; a runtime computes them once, on loading."""
    name, unsigned = tensor.name, tensor.data_type == TensorProto.UINT8
    rows, columns = tensor.dims
    signed = f"{name}_signed" if unsigned else name
    nodes = [
        # In two steps, of which each has a fast path in onnxruntime.
        helper.make_node("Transpose", [f"{name}_packed"], [f"{name}_fours"], perm=[1, 0, 2, 3]),
        *_reshape(f"{name}_fours", (rows // 4, columns, 4), f"{name}_columns"),
        helper.make_node("Transpose", [f"{name}_columns"], [f"{name}_turned"], perm=[0, 2, 1]),
        *_reshape(f"{name}_turned", (rows, columns), signed),
    ]
    if unsigned:
        middle = numpy_helper.from_array(np.array(128, dtype=np.int32), f"{name}_middle")
        nodes += [
            helper.make_node("Constant", [], [f"{name}_middle"], value=middle),
            helper.make_node("Cast", [signed], [f"{name}_whole"], to=TensorProto.INT32),
            helper.make_node("Add", [f"{name}_whole", f"{name}_middle"], [f"{name}_raised"]),
            helper.make_node("Cast", [f"{name}_raised"], [name], to=TensorProto.UINT8),
        ]
    return nodes


def _reshape(name: str, shape: Sequence[int], result: str) -> list[onnx.NodeProto]:
    sizes = numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{result}_shape")
    return [
        helper.make_node("Constant", [], [f"{result}_shape"], value=sizes),
        helper.make_node("Reshape", [name, f"{result}_shape"], [result]),
    ]


def _install(
    model: onnx.ModelProto,
    graph: _Graph,
    nodes: Sequence[onnx.NodeProto],
    packed: Iterable[str],
    *,
    drop: Iterable[str],
) -> None:
    """Put nodes into the graph, integer weights into the engine's order; drop constants that are gone."""
    used = {name for node in nodes for name in node.input}
    gone = set(drop).difference(used)
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name in packed:
            kept.append(numpy_helper.from_array(_pack(numpy_helper.to_array(tensor)), tensor.name))
        elif tensor.name not in gone:
            kept.append(tensor)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]


def _pack(weights: NDArray[Any]) -> NDArray[np.int8]:
    """Return integer weights (K, N) as (N / 16, K / 4, 16, 4) signed ones."""
    signed = (weights.astype(np.int16) - 128).astype(np.int8) if weights.dtype == np.uint8 else weights
    rows, columns = signed.shape
    parts = signed.reshape(rows // 4, 4, columns // _BLOCK, _BLOCK)
    return np.ascontiguousarray(parts.transpose(2, 0, 3, 1))
