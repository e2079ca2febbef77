import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from relsdk.errors import RelsdkError
from relsdk_export.quantize import WEIGHT_RANGE, quantize_int8


def make_graph(path, weights, table=None):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    initializers = [numpy_helper.from_array(weights, "w")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", weights.shape[0]])]
    if table is not None:
        nodes.insert(0, helper.make_node("Gather", ["table", "ids"], ["x"], axis=0))
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
    row = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    quantised = np.floor(x / row + np.float32(128.5)) - 128
    column = np.abs(weights).max(axis=0) / largest
    return quantised @ np.rint(weights / column) * row * column


@pytest.mark.parametrize("isa", WEIGHT_RANGE)
def test_matmul_equals_the_scheme_by_hand(tmp_path, isa):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(48, 24)).astype(np.float32)
    make_graph(tmp_path / "m.onnx", weights)
    assert quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", isa=isa) == 1
    x = rng.normal(size=(3, 5, 48)).astype(np.float32)
    np.testing.assert_allclose(
        run(tmp_path / "q.onnx", x=x), by_hand(x, weights, WEIGHT_RANGE[isa]), atol=1e-4
    )
    error = np.abs(run(tmp_path / "q.onnx", x=x) - x @ weights).max()
    assert 0 < error < 0.5


def test_a_row_depends_on_nothing_but_itself(tmp_path):
    rng = np.random.default_rng(1)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", isa="avx2")
    x = rng.normal(size=(4, 6, 48)).astype(np.float32)
    loud = x.copy()
    loud[1:] *= 1000
    np.testing.assert_array_equal(run(tmp_path / "q.onnx", x=x)[0], run(tmp_path / "q.onnx", x=loud)[0])
    np.testing.assert_array_equal(run(tmp_path / "q.onnx", x=x)[:1], run(tmp_path / "q.onnx", x=x[:1]))


def test_avx2_weights_cannot_overflow_sixteen_bits(tmp_path):
    rng = np.random.default_rng(2)
    make_graph(tmp_path / "m.onnx", rng.normal(size=(48, 24)).astype(np.float32))
    quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", isa="avx2")
    stored = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    assert 2 * 255 * int(np.abs(stored["w_int8"]).max()) < 2**15
    assert stored["w_int8"].dtype == np.int8
    assert "w" not in stored


def test_a_row_of_zeros_stays_zero(tmp_path):
    make_graph(tmp_path / "m.onnx", np.ones((8, 4), dtype=np.float32))
    quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", isa="avx2")
    np.testing.assert_array_equal(
        run(tmp_path / "q.onnx", x=np.zeros((1, 2, 8), np.float32)), np.zeros((1, 2, 4))
    )


def test_the_embedding_table_is_quantised_by_row(tmp_path):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(10, 48)).astype(np.float32) * np.logspace(-3, 3, 10, dtype=np.float32)[:, None]
    weights = np.eye(48, dtype=np.float32)
    make_graph(tmp_path / "m.onnx", weights, table)
    assert quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", isa="avx512_vnni") == 2
    found = run(tmp_path / "q.onnx", ids=np.arange(10)[None])[0]
    relative = np.abs(found - table).max(axis=1) / np.abs(table).max(axis=1)
    assert relative.max() < 0.012
    assert (tmp_path / "q.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size / 2


def test_nothing_to_quantise_is_an_error(tmp_path):
    make_graph(tmp_path / "m.onnx", np.ones((8, 4), dtype=np.float32))
    model = onnx.load(tmp_path / "m.onnx")
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 4]))
    onnx.save(model, tmp_path / "n.onnx")
    with pytest.raises(RelsdkError, match="no matrix product"):
        quantize_int8(tmp_path / "n.onnx", tmp_path / "q.onnx", isa="avx2")
