from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from relsdk.bundle import Variant
from relsdk.errors import RelsdkError
from relsdk.runtime.variants import runs_exactly
from relsdk_export.int8.activations import measure_activations
from relsdk_export.int8.quantize import WEIGHT_RANGE, quantize_int8


def make_graph(path, weights, table=None):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="y")]
    initializers = [numpy_helper.from_array(weights, "w")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", weights.shape[0]])]
    if table is not None:
        nodes.insert(0, helper.make_node("Gather", ["table", "ids"], ["x"], axis=0, name="x"))
        initializers.append(numpy_helper.from_array(table, "table"))
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "t", weights.shape[1]])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def run(path, **feed):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], feed)[0]


def by_hand(x, weights, largest):
    """The scheme in numpy: rows of x to uint8 around 128, columns of w to int8."""
    row = np.abs(x).max(axis=-1, keepdims=True)
    quantised = np.rint(x / row * np.float32(127))
    column = np.abs(weights).max(axis=0) / largest
    return quantised @ np.rint(weights / column) * (row / 127) * column


@pytest.mark.parametrize("isa", WEIGHT_RANGE)
def test_matmul_equals_the_scheme_by_hand(tmp_path, isa):
    if not runs_exactly(Variant("v", "v.onnx", "int8", isa)):
        pytest.skip(f"this CPU saturates {isa} files")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(48, 24)).astype(np.float32)
    make_graph(tmp_path / "m.onnx", weights)
    assert quantize_int8(tmp_path / "m.onnx", {isa: tmp_path / "q.onnx"}) == 1
    x = rng.normal(size=(3, 5, 48)).astype(np.float32)
    np.testing.assert_allclose(
        run(tmp_path / "q.onnx", x=x), by_hand(x, weights, WEIGHT_RANGE[isa]), atol=1e-4
    )
    error = np.abs(run(tmp_path / "q.onnx", x=x) - x @ weights).max()
    assert 0 < error < 0.5


def test_a_row_depends_on_nothing_but_itself(tmp_path):
    rng = np.random.default_rng(1)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    quantize_int8(tmp_path / "m.onnx", {"avx2": tmp_path / "q.onnx"})
    x = rng.normal(size=(4, 6, 48)).astype(np.float32)
    loud = x.copy()
    loud[1:] *= 1000
    np.testing.assert_array_equal(run(tmp_path / "q.onnx", x=x)[0], run(tmp_path / "q.onnx", x=loud)[0])
    np.testing.assert_array_equal(run(tmp_path / "q.onnx", x=x)[:1], run(tmp_path / "q.onnx", x=x[:1]))


def test_avx2_weights_cannot_overflow_sixteen_bits(tmp_path):
    rng = np.random.default_rng(2)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    quantize_int8(tmp_path / "m.onnx", {"avx2": tmp_path / "q.onnx"})
    stored = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    assert 2 * 255 * int(np.abs(stored["relsdk_int8_x_weights"]).max()) < 2**15
    assert stored["relsdk_int8_x_weights"].dtype == np.int8
    assert "w" not in stored


def test_the_file_for_any_cpu_holds_the_integers_of_the_full_range_one(tmp_path):
    rng = np.random.default_rng(2)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    held = {}
    for isa in ("any", "avx512_vnni"):
        quantize_int8(tmp_path / "m.onnx", {isa: tmp_path / f"{isa}.onnx"})
        model = onnx.load(tmp_path / f"{isa}.onnx")
        held[isa] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    unsigned, signed = (held[isa].pop("relsdk_int8_x_weights") for isa in ("any", "avx512_vnni"))
    assert unsigned.dtype == np.uint8
    np.testing.assert_array_equal(unsigned.astype(int) - 128, signed)
    assert held["any"].keys() == held["avx512_vnni"].keys()
    for name, value in held["any"].items():
        np.testing.assert_array_equal(value, held["avx512_vnni"][name])


def test_files_written_together_are_those_written_alone(tmp_path):
    rng = np.random.default_rng(8)
    make_layer(tmp_path / "m.onnx", rng)
    activations = measured(tmp_path / "m.onnx", rng.normal(size=(8, 16, 48)).astype(np.float32))
    for order in (list(WEIGHT_RANGE), list(WEIGHT_RANGE)[::-1]):
        quantize_int8(tmp_path / "m.onnx", {isa: tmp_path / f"{isa}.onnx" for isa in order}, activations)
        for isa in order:
            quantize_int8(tmp_path / "m.onnx", {isa: tmp_path / "alone.onnx"}, activations)
            assert (tmp_path / f"{isa}.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def test_a_row_of_zeros_stays_zero(tmp_path):
    make_graph(tmp_path / "m.onnx", np.ones((8, 4), dtype=np.float32))
    quantize_int8(tmp_path / "m.onnx", {"avx2": tmp_path / "q.onnx"})
    np.testing.assert_array_equal(
        run(tmp_path / "q.onnx", x=np.zeros((1, 2, 8), np.float32)), np.zeros((1, 2, 4))
    )


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_behind_a_gelu_rows_use_all_of_their_range(tmp_path, measured, approximate):
    """The inputs hold GELU's minimum: nothing may be clipped there."""
    rng = np.random.default_rng(7)
    weights = rng.integers(-127, 128, size=(48, 24)).astype(np.float32)  # whole: only activations are rounded
    weights[0] = 127
    make_graph(tmp_path / "m.onnx", weights)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.input[0].name = "before"
    gelu = helper.make_node("Gelu", ["before"], ["x"], name="x", approximate=approximate)
    model.graph.node.insert(0, gelu)
    onnx.save(model, tmp_path / "m.onnx")
    before = rng.normal(size=(3, 5, 48)).astype(np.float32)
    before[:, :, :8] = -0.7518
    seen = None
    if measured:
        feed = {"before": before, "attention_mask": np.ones((3, 5), np.int64)}
        seen = measure_activations(tmp_path / "m.onnx", [feed])
    quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}, seen)
    exact, found = (run(tmp_path / name, before=before) for name in ("m.onnx", "q.onnx"))
    symmetric = by_hand(gelu_of(before, approximate), weights, 127)
    assert ((found - exact) ** 2).mean() < (0.6 if measured else 0.35) * ((symmetric - exact) ** 2).mean()


def gelu_of(x, approximate):
    return torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy()


def test_the_embedding_table_is_quantised_by_row(tmp_path):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(10, 48)).astype(np.float32) * np.logspace(-3, 3, 10, dtype=np.float32)[:, None]
    weights = np.eye(48, dtype=np.float32)
    make_graph(tmp_path / "m.onnx", weights, table)
    assert quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}) == 2
    found = run(tmp_path / "q.onnx", ids=np.arange(10)[None])[0]
    relative = np.abs(found - table).max(axis=1) / np.abs(table).max(axis=1)
    assert relative.max() < 0.012
    assert (tmp_path / "q.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size / 2


def test_a_table_without_products_is_quantised(tmp_path):
    """The graph of a static query tower."""
    rng = np.random.default_rng(3)
    make_graph(
        tmp_path / "m.onnx", np.eye(48, dtype=np.float32), rng.normal(size=(10, 48)).astype(np.float32)
    )
    model = onnx.load(tmp_path / "m.onnx")
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    gather.output[0] = model.graph.output[0].name
    kept = helper.make_node("Gather", list(gather.input), list(gather.output), name="rows", axis=0)
    del model.graph.node[:]
    model.graph.node.append(kept)
    onnx.save(model, tmp_path / "m.onnx")
    feed = {"ids": np.arange(10)[None], "attention_mask": np.ones((1, 10), np.int64)}
    seen = measure_activations(tmp_path / "m.onnx", [feed])
    assert seen == {}
    assert quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}, activations=seen) == 1
    exact, found = (run(tmp_path / name, ids=feed["ids"]) for name in ("m.onnx", "q.onnx"))
    np.testing.assert_allclose(found, exact, atol=np.abs(exact).max() / 127)


def test_nothing_to_quantise_is_an_error(tmp_path):
    make_graph(tmp_path / "m.onnx", np.ones((8, 4), dtype=np.float32))
    model = onnx.load(tmp_path / "m.onnx")
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 4]))
    onnx.save(model, tmp_path / "n.onnx")
    with pytest.raises(RelsdkError, match="no matrix product"):
        quantize_int8(tmp_path / "n.onnx", {"avx2": tmp_path / "q.onnx"})


def make_layer(path, rng, middle=0.0):
    """Layer normalisation with outlier channels around `middle`, then three products that share it."""
    gain = np.ones(48, dtype=np.float32)
    gain[[3, 17]] = 30.0
    matrices = {name: rng.normal(size=(48, 24)).astype(np.float32) for name in "qkv"}
    nodes = [helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["n"], axis=-1, name="n")]
    nodes += [helper.make_node("MatMul", ["n", name], [f"m{name}"], name=f"m{name}") for name in "qkv"]
    nodes += [
        helper.make_node("Add", [f"b{name}", f"m{name}"], [f"y{name}"], name=f"y{name}") for name in "qkv"
    ]
    nodes.append(helper.make_node("Concat", ["yq", "yk", "yv"], ["y"], axis=-1, name="y"))
    biases = {f"b{name}": rng.normal(size=24).astype(np.float32) for name in "qkv"}
    constants = {"gain": gain, "bias": np.full(48, middle, dtype=np.float32), **matrices, **biases}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", 48])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "t", 72])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def measured(path, x):
    """What `measure_activations` finds on x; the mask hides the last row."""
    mask = np.ones(x.shape[:2], dtype=np.int64)
    mask[-1, -1] = 0
    return measure_activations(path, [{"x": x, "attention_mask": mask}])


def test_what_is_measured_leaves_padding_out(tmp_path):
    rng = np.random.default_rng(4)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    x = rng.normal(size=(3, 5, 48)).astype(np.float32)
    x[-1, -1] = 1e6
    real = x.reshape(-1, 48)[:-1]
    found = measured(tmp_path / "m.onnx", x)["x"]
    np.testing.assert_allclose(found.low, real.min(axis=0))
    np.testing.assert_allclose(found.high, real.max(axis=0))
    np.testing.assert_allclose(found.mean, real.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(real.T, bias=True), atol=1e-5)


def test_products_that_share_an_activation_become_one_and_outliers_are_smoothed(tmp_path):
    rng = np.random.default_rng(5)
    make_layer(tmp_path / "m.onnx", rng)
    x = rng.normal(size=(8, 16, 48)).astype(np.float32)
    assert quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "plain.onnx"}) == 3
    activations = measured(tmp_path / "m.onnx", x)
    quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "smooth.onnx"}, activations)
    operators = [node.op_type for node in onnx.load(tmp_path / "smooth.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == 1
    assert "Add" not in operators  # biases belong to the product
    assert "ReduceMax" not in operators  # behind a layer normalisation the scale is a constant
    other = rng.normal(size=(8, 16, 48)).astype(np.float32)
    exact = run(tmp_path / "m.onnx", x=other)
    plain, smooth = (np.abs(run(tmp_path / f"{n}.onnx", x=other) - exact).mean() for n in ("plain", "smooth"))
    assert smooth < plain < 1.0


def test_values_beyond_the_measured_range_saturate(tmp_path):
    rng = np.random.default_rng(6)
    make_layer(tmp_path / "m.onnx", rng)
    x = rng.normal(size=(8, 16, 48)).astype(np.float32)
    small = {
        name: replace(seen, low=seen.low * 0.5, high=seen.high * 0.5)
        for name, seen in measured(tmp_path / "m.onnx", x).items()
    }
    quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}, small)
    exact, found = run(tmp_path / "m.onnx", x=x), run(tmp_path / "q.onnx", x=x)
    assert np.isfinite(found).all()
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.9


def test_ranges_far_from_zero_cost_no_precision(tmp_path):
    errors = []
    for middle in (0.0, 200.0):
        rng = np.random.default_rng(7)
        make_layer(tmp_path / "m.onnx", rng, middle)
        x = rng.normal(size=(8, 16, 48)).astype(np.float32)
        activations = measured(tmp_path / "m.onnx", x)
        quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}, activations)
        errors.append(np.abs(run(tmp_path / "m.onnx", x=x) - run(tmp_path / "q.onnx", x=x)).mean())
    assert errors[1] < 1.2 * errors[0]


def test_what_rounding_costs_the_mean_goes_into_the_bias(tmp_path):
    """On texts like the measured ones the mean output is exact; the noise around it stays."""
    rng = np.random.default_rng(9)
    make_attention(tmp_path / "m.onnx", rng)
    x = (1.0 + 0.1 * rng.normal(size=(16, 16, 32))).astype(np.float32)
    activations = measured(tmp_path / "m.onnx", x)
    activations = {name: replace(seen, covariance=None) for name, seen in activations.items()}
    without = {name: replace(seen, mean=0 * seen.mean) for name, seen in activations.items()}
    errors = []
    for measures in (activations, without):
        quantize_int8(tmp_path / "m.onnx", {"avx2": tmp_path / "q.onnx"}, measures)
        error = run(tmp_path / "q.onnx", x=x) - run(tmp_path / "m.onnx", x=x)
        errors.append(np.abs(error.mean(axis=(0, 1))).mean())
    assert errors[0] < 0.5 * errors[1]


def make_attention(path, rng):
    """Values with outlier channels, mixed by attention, then projected."""
    names = ("wq", "wk", "wv", "wo")
    constants = {name: rng.normal(size=(32, 32)).astype(np.float32) for name in names}
    constants["wv"][:, [2, 9]] *= 50.0
    constants |= {f"b{name}": rng.normal(size=32).astype(np.float32) for name in names}
    constants["bwv"][2] = 100.0
    nodes = []
    for name in names[:3]:
        nodes.append(helper.make_node("MatMul", ["x", name], [f"m{name}"], name=f"m{name}"))
        nodes.append(helper.make_node("Add", [f"m{name}", f"b{name}"], [f"y{name}"], name=f"y{name}"))
    nodes += [
        helper.make_node(
            "MultiHeadAttention", ["ywq", "ywk", "ywv"], ["a"], name="a", domain="com.microsoft", num_heads=4
        ),
        helper.make_node("MatMul", ["a", "wo"], ["mwo"], name="mwo"),
        helper.make_node("Add", ["mwo", "bwo"], ["y"], name="y"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", 32])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "t", 32])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def test_scaling_behind_attention_costs_no_operator(tmp_path):
    rng = np.random.default_rng(8)
    make_attention(tmp_path / "m.onnx", rng)
    x = (0.1 * rng.normal(size=(4, 8, 32))).astype(np.float32)
    activations = measured(tmp_path / "m.onnx", x)
    quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "plain.onnx"})
    quantize_int8(tmp_path / "m.onnx", {"any": tmp_path / "q.onnx"}, activations)
    graph = onnx.load(tmp_path / "q.onnx").graph
    (behind,) = [node for node in graph.node if "a" in node.input]
    assert behind.op_type == "QuantizeLinear"
    # Behind no attention: scaled in the graph, row by row.
    assert "relsdk_int8_x_inverse" in {item.name for item in graph.initializer}
    exact = run(tmp_path / "m.onnx", x=x)
    plain, smooth = (np.abs(run(tmp_path / f"{n}.onnx", x=x) - exact).mean() for n in ("plain", "q"))
    assert smooth < plain
    assert smooth < 0.02 * np.abs(exact).mean()


def test_rounding_for_the_measured_activations_is_closer_than_to_the_nearest(tmp_path):
    rng = np.random.default_rng(10)
    make_layer(tmp_path / "m.onnx", rng)
    mixing = rng.normal(size=(48, 6)).astype(np.float32)  # six causes behind 48 channels
    seen, other = (rng.normal(size=(32, 16, 6)).astype(np.float32) @ mixing.T for _ in range(2))
    activations = measured(tmp_path / "m.onnx", seen)
    nearest = {name: replace(found, covariance=None) for name, found in activations.items()}
    exact = run(tmp_path / "m.onnx", x=other)
    errors = []
    for measures in (activations, nearest):
        quantize_int8(tmp_path / "m.onnx", {"avx2": tmp_path / "q.onnx"}, measures)
        errors.append(np.square(run(tmp_path / "q.onnx", x=other) - exact).mean())
    assert errors[0] < 0.8 * errors[1]
