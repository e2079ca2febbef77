"""Encoders as the native engine reads them: random ones of any shape, and their arithmetic in numpy.

Shape letters: B texts, T tokens, D width, H heads, I inner width, K rows and N columns of a weight.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from relsdk.runtime.hardware import cpu_features
from relsdk.runtime.native_engine import native_engine


@dataclass(frozen=True)
class Shape:
    """What a random encoder is like.

    Attributes:
        largest: The largest integer weight.
        extreme: Every weight is the largest or its negative, and most activations are rounded to 0 or 255.
        typed: The graph has an input token_type_ids.
    """

    width: int = 32
    heads: int = 2
    inner: int = 64
    layers: int = 2
    relu: bool = False
    padding: int = -1
    largest: int = 127
    extreme: bool = False
    vocabulary: int = 50
    positions: int = 600
    types: int = 2
    typed: bool = False


def random_encoder(shape, rng):
    """Return a graph of one `relsdk.Encoder`, without the function that it stands for."""
    width, inner = shape.width, shape.inner
    weights = []

    def add(values, kind=np.float32):
        weights.append(np.ascontiguousarray(values).astype(kind))

    def norm(*, last=False):
        add(rng.uniform(0.5, 1.5, width))
        add(rng.normal(0, 0.5, width))
        if not last:
            add(rng.uniform(20, 60, width) * (20 if shape.extreme else 1))
            add(rng.normal(0, 5, width))

    def product(rows, columns, units):
        packed = (columns // 16, rows // 4, 16, 4)
        if shape.extreme:
            add(shape.largest * np.where(rng.random(packed) < 0.9, 1, -1), np.int8)
        else:
            add(rng.integers(-shape.largest, shape.largest + 1, packed), np.int8)
        step = rows * 127 if shape.extreme else np.sqrt(rows) * 25
        add(units * rng.uniform(0.5, 1.5, columns) / (step * shape.largest))
        add(units * rng.normal(0, 0.1, columns))

    for count in (shape.vocabulary, shape.types, shape.positions):
        add(rng.integers(-127, 128, (count, width)), np.int8)
        add(rng.uniform(0.005, 0.02, (count, 1)))
    norm()
    for layer in range(shape.layers):
        product(width, 3 * width, np.repeat([1.0, 1.0, 60.0], width))
        product(width, width, 1.0)
        norm()
        product(width, inner, 1.0)
        add(rng.uniform(0.5, 2.0, inner))
        product(inner, width, 0.01)
        norm(last=layer + 1 == shape.layers)
    settings = {
        "width": width,
        "inner": inner,
        "heads": shape.heads,
        "layers": shape.layers,
        "relu": int(shape.relu),
        "padding": shape.padding,
        "epsilon": 1e-5,
        "lowest": 0.0 if shape.relu else float(np.float32(-0.1701)),
    }
    return encoder_graph(weights, settings, typed=shape.typed)


def encoder_graph(weights, settings, *, typed):
    """Return a graph of one operator with these constants and settings."""
    constants = [numpy_helper.from_array(value, f"w{i}") for i, value in enumerate(weights)]
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * typed
    types = "token_type_ids" if typed else "one_type"
    node = helper.make_node(
        "Encoder",
        ["input_ids", "attention_mask", types, *(item.name for item in constants)],
        ["last_hidden_state"],
        domain="relsdk",
        **settings,
    )
    if not typed:
        constants.append(numpy_helper.from_array(np.zeros((1, 1), np.int64), types))
    graph = helper.make_graph(
        [node],
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "T", "D"])],
        constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("relsdk", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Oracle:
    """The arithmetic of a graph's encoder in float64 numbers and exact integers.

    Its outcome is that of float32 numbers within their precision, but where a number lies so close to the
    middle of two integers that it is rounded to the other one.
    """

    def __init__(self, model):
        (node,) = (node for node in model.graph.node if node.domain == "relsdk")
        for item in node.attribute:
            setattr(self, item.name, helper.get_attribute_value(item))
        self.outside = node.input[2] in {item.name for item in model.graph.input}
        constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        waiting = iter([constants[name] for name in node.input[3:]])

        def reals(count):
            return [next(waiting).astype(np.float64) for _ in range(count)]

        def product():
            packed = next(waiting)
            blocks, quarters = packed.shape[:2]
            weights = packed.transpose(1, 3, 0, 2).reshape(4 * quarters, 16 * blocks)
            return [weights.astype(np.float64), *reals(2)]  # float64 holds these sums exactly

        self.tables = [np.prod(np.broadcast_arrays(*reals(2)), axis=0) for _ in range(3)]
        self.embedding = reals(4)
        self.stack = [
            (product(), product(), reals(4), product(), *reals(1), product(), reals(4 if rest else 2))
            for rest in range(self.layers - 1, -1, -1)
        ]
        assert next(waiting, None) is None

    def __call__(self, input_ids, attention_mask, token_type_ids=None):
        """Return the last layer's vectors (B, T, D); those of padding are zeros."""
        result = np.zeros((*input_ids.shape, self.width))
        types = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        for text, mask in enumerate(attention_mask.astype(bool)):
            if mask.any():
                ids = input_ids[text]
                rows = zip(self.tables, (ids, types[text], self._positions(ids)), strict=True)
                result[text, mask] = self._encode(sum(table[places[mask]] for table, places in rows))
        return result

    def _positions(self, ids):
        if self.padding < 0:
            return np.arange(len(ids))
        real = ids != self.padding
        return np.cumsum(real) * real + self.padding

    def _encode(self, x):
        x, units = self._norm(x, *self.embedding)
        for mixed, output, middle, up, inverse, down, end in self.stack:
            queries, keys, values = np.split(_product(_whole(units, 128), 128, *mixed), 3, axis=-1)
            attended = self._attend(queries, keys, values)
            x, units = self._norm(_product(_whole(attended, 128), 128, *output) + x, *middle)
            wide = _product(_whole(units, 128), 128, *up)
            wide = np.maximum(wide, 0) if self.relu else wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
            wide = (wide - self.lowest) * inverse
            largest = np.maximum(wide.max(axis=-1, keepdims=True), 1e-12)
            units = _whole(wide / largest / np.float64(np.float32(1 / 255)), 0)
            weights, columns, bias = down
            x, units = self._norm(_product(units, 0, weights, columns, 0.0) * largest + bias + x, *end)
        return x

    def _norm(self, x, gain, bias, unit_gain=0.0, unit_bias=0.0):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.epsilon)
        return x * gain + bias, x * unit_gain + unit_bias

    def _attend(self, queries, keys, values):
        def heads(x):
            return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

        scores = heads(queries) @ heads(keys).transpose(0, 2, 1) / np.sqrt(self.width // self.heads)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ heads(values)).transpose(1, 0, 2).reshape(len(queries), -1)


def _whole(x, zero_point):
    return np.clip(np.rint(x) + zero_point, 0, 255)


def _product(units, zero_point, weights, columns, bias):
    return (units - zero_point) @ weights * columns + bias


def session(model, library=None, *, threads=1):
    """Return onnxruntime's session of a graph or file; `library` is the engine's, None leaves it out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    # As sessions of the SDK have it; with it numbers differ in their last bits.
    disabled = ["SkipLayerNormFusion"]
    return onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def hidden(session, feed):
    """Return the last layer's vectors (B, T, D) of a feed; inputs that the graph has not are left out."""
    names = {item.name for item in session.get_inputs()}
    given = {name: values for name, values in feed.items() if name in names}
    return session.run(["last_hidden_state"], given)[0]


def random_texts(rng, texts, length, *, vocabulary, kind="right", padding=1, types=2):
    """Return a feed of texts of random lengths: padding on the right, on the left, or holes anywhere."""
    ids = rng.integers(padding + 1, vocabulary, (texts, length))
    lengths = rng.integers(1, length + 1, texts)
    lengths[0] = length
    if kind == "holes":
        mask = rng.random((texts, length)) < 0.7
    else:
        mask = np.arange(length) < lengths[:, None]
        mask = mask[:, ::-1] if kind == "left" else mask
        ids[~mask] = padding
    return {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ascontiguousarray(mask).astype(np.int64),
        "token_type_ids": rng.integers(0, types, (texts, length)).astype(np.int64),
    }


def differences(found, expected, mask):
    """Return the largest difference and the cosine of every token that is no padding."""
    real = mask.astype(bool)
    found, expected = found[real].astype(np.float64), expected[real].astype(np.float64)
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    return np.abs(found - expected).max(axis=-1), (found * expected).sum(axis=-1) / lengths


def follows_onnxruntime():
    """Whether the engine runs with the instructions whose last bits it follows, as onnxruntime does.

    With AVX-512 and no VNNI the engine takes AVX2, and onnxruntime sums its floats sixteen at a time.
    """
    name = native_engine()[1]
    alike = name == "avx512_vnni" or (name == "avx2" and "avx512f" not in cpu_features())
    return alike and onnxruntime.__version__.startswith("1.32.")
