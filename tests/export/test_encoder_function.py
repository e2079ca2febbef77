"""The encoder of an int8 file as one operator: the same numbers with the engine and without it."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from transformers import AutoModel

from relsdk import Embedder, RelevanceScorer
from relsdk.bundle import read_bundle
from relsdk.runtime import native_engine as native_module
from relsdk.runtime.native_engine import native_engine
from relsdk.runtime.variants import runs_exactly
from relsdk_export.encoder import export_encoder
from relsdk_export.gate.parity import ParityBudget
from relsdk_export.int8 import quantize
from relsdk_export.int8._encoder_function import wrap_encoder
from relsdk_export.int8.quantize import WEIGHT_RANGE, quantize_int8
from relsdk_export.scorer import export_scorer
from tests.bundle_changes import change_json
from tests.export.toy_architectures import make_architecture, make_cross_encoder
from tests.native_encoders import Oracle, differences, follows_onnxruntime, hidden, random_texts, session
from tests.sdk.native_fuzz import check_close
from tests.toys import make_checkpoint

EXACT = [name for name in ("any", "avx2", "avx512_vnni") if runs_exactly(SimpleNamespace(isa=name))]


@pytest.fixture(scope="module")
def library():
    """The engine's file."""
    path, reason = native_engine()
    if path is None:
        pytest.skip(f"the native engine {reason}")
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory, corpus):
    """By name: a bundle, and its int8 graphs as they were before their encoder became an operator."""

    def without_second_layer(folder, source):
        model = AutoModel.from_pretrained(source)
        del model.encoder.layer[1]
        model.config.num_hidden_layers = 1
        make_checkpoint(folder, heads=2)
        model.save_pretrained(folder)
        return folder

    @cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        before = []

        def remember(model):
            before.append(copy_of(model))
            return wrap_encoder(model)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantize, "wrap_encoder", remember)
            if name == "scorer":
                checkpoint = make_cross_encoder(
                    "bert", folder / "c", corpus, types=True, num_attention_heads=2, hidden_act="relu"
                )
                budget = ParityBudget(int8_probabilities=0.3)
                bundle = export_scorer(checkpoint, folder / "bundle", budget=budget).path
            elif name == "tower":
                checkpoint = make_checkpoint(folder / "c", heads=2)
                tower = without_second_layer(folder / "t", checkpoint)
                bundle = export_encoder(checkpoint, folder / "bundle", query_tower=tower).path
            else:
                checkpoint = make_architecture(name, folder / "c", corpus, num_attention_heads=2)
                bundle = export_encoder(checkpoint, folder / "bundle").path
        return SimpleNamespace(path=bundle, before=before)

    return make


def int8_files(bundle):
    """The int8 files that this CPU runs exactly."""
    read = read_bundle(bundle)
    variants = [v for v in read.variants if v.quantisation == "int8" and runs_exactly(v)]
    names = [name for v in variants for name in {v.file, v.query_file or v.file}]
    return [bundle / name for name in names]


def with_hidden(path):
    """A file's graph, its encoder's vectors an output."""
    model = onnx.load(path)
    (operator,) = (node for node in model.graph.node if node.domain == "relsdk")
    if operator.output[0] not in {item.name for item in model.graph.output}:
        model.graph.output.append(helper.make_tensor_value_info(operator.output[0], 1, ["B", "T", "D"]))
    return model, operator.output[0]


def run(opened, output, feed):
    names = {item.name for item in opened.get_inputs()}
    return opened.run([output], {name: values for name, values in feed.items() if name in names})[0]


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "scorer", "tower"])
@pytest.mark.parametrize("kind", ["right", "left", "holes"])
def test_engine_and_function_compute_the_graph(library, exports, name, kind):
    """Positions of BERT and of RoBERTa, types given and not, GELU and ReLU, one layer and two."""
    files = int8_files(exports(name).path)
    assert len(files) == (2 if name == "tower" else 1) * len(EXACT)
    for path in files:
        model, output = with_hidden(path)
        oracle = Oracle(model)
        feed = random_texts(np.random.default_rng(5), 8, 12, vocabulary=80, kind=kind)
        assert oracle.outside == (name == "scorer")
        assert oracle.padding == (1 if name == "xlm-roberta" else -1)
        assert oracle.relu == (name == "scorer")
        inputs = list(feed.values()) if oracle.outside else list(feed.values())[:2]
        mask = feed["attention_mask"]
        expected = oracle(*inputs)
        engine, function = (run(session(model, native), output, feed) for native in (library, None))
        for found in (engine, function):
            check_close(found, expected, mask, path.name, few_roundings=True)
        check_close(engine, function, mask, path.name, few_roundings=True)


@pytest.mark.parametrize("name", ["xlm-roberta", "scorer", "tower"])
def test_the_function_is_the_graph_that_was_there(exports, name):
    """To the last bit, by onnxruntime alone, and valid by the ONNX standard."""
    files = sorted((exports(name).path / "onnx").glob("*qint8*.onnx"))
    assert len(files) == len(exports(name).before)
    output = onnx.load(files[0]).graph.output[-1].name
    feed = random_texts(np.random.default_rng(6), 8, 30, vocabulary=80)
    outcomes = [run(session(before), output, feed) for before in exports(name).before]
    for path in files:
        onnx.checker.check_model(str(path), full_check=True)
        assert [node.op_type for node in onnx.load(path).graph.node].count("Encoder") == 1
        found = run(session(path), output, feed)
        assert any(np.array_equal(found, one) for one in outcomes), path.name


def test_long_texts_have_onnxruntimes_bits(library, corpus, tmp_path):
    """Heads as wide as most models' are, and texts longer than onnxruntime sums values of at once."""
    if not follows_onnxruntime():
        pytest.skip("another onnxruntime, or another instruction set")
    changes = {"hidden_size": 64, "num_attention_heads": 1, "max_position_embeddings": 520}
    checkpoint = make_architecture("bert", tmp_path / "c", corpus, **changes)
    change_json(checkpoint / "1_Pooling/config.json", word_embedding_dimension=64)
    path = (
        export_encoder(checkpoint, tmp_path / "bundle", variants=["int8_any"]).path
        / "onnx/model_qint8_any.onnx"
    )
    engine, function = session(path, library, threads=2), session(path)
    for length in (64, 256, 257, 511):
        feed = random_texts(np.random.default_rng(length), 2, length, vocabulary=80)
        real = feed["attention_mask"].astype(bool)
        np.testing.assert_array_equal(hidden(engine, feed)[real], hidden(function, feed)[real])


def test_scores_and_towers_with_the_engine_and_without(library, exports, corpus, monkeypatch, tmp_path):
    pairs = [(corpus[i], corpus[j]) for i in range(4) for j in range(4)]

    def answers():
        scorer = RelevanceScorer(exports("scorer").path, variant="int8_any", threads=1)
        embedder = Embedder(exports("tower").path, variant="int8_any", threads=1)
        assert embedder.verify().passed
        return [
            scorer.predict(pairs).probabilities,
            embedder.encode_query(corpus),
            embedder.encode_document(corpus),
        ]

    fast = answers()
    monkeypatch.setattr(native_module, "_LIBRARY", tmp_path / "none.so")
    native_engine.cache_clear()
    try:
        slow = answers()
    finally:
        monkeypatch.undo()
        native_engine.cache_clear()
    np.testing.assert_allclose(fast[0], slow[0], atol=0.01)
    for one, other in zip(fast[1:], slow[1:], strict=True):
        assert (one * other).sum(axis=-1).min() > 0.999


@pytest.fixture
def plain(exports):
    """The graph of an int8 file before its encoder becomes an operator; a test may change it."""
    return copy_of(exact_graph(exports("bert").before))


def exact_graph(before):
    """The graph of the first int8 file that onnxruntime computes without saturation on this CPU."""
    return next(graph for isa, graph in zip(WEIGHT_RANGE, before, strict=True) if isa in EXACT)


def copy_of(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def node_of(model, operator, number=0):
    return [node for node in model.graph.node if node.op_type == operator][number]


def _attribute(operator, name, value, number=0):
    def change(model):
        node = node_of(model, operator, number)
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _operator(old, new, number=0):
    def change(model):
        node_of(model, old, number).op_type = new

    return change


def _input(operator, place, name, number=0):
    def change(model):
        node_of(model, operator, number).input[place] = name

    return change


def _constant(ending, convert):
    def change(model):
        tensor = next(item for item in model.graph.initializer if item.name.endswith(ending))
        tensor.CopyFrom(numpy_helper.from_array(convert(numpy_helper.to_array(tensor)), tensor.name))

    return change


def _output(model):
    name = node_of(model, "Gelu").output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))


OTHER_FORMS = {
    "an approximate GELU": _attribute("Gelu", "approximate", "tanh"),
    "another activation function": _operator("Gelu", "Tanh"),
    "one layer with ReLU": _operator("Gelu", "Relu", 1),
    "scores of another scale": _attribute("MultiHeadAttention", "scale", 0.5),
    "attention to what was before": _attribute("MultiHeadAttention", "unidirectional", 1),
    "other heads in one layer": _attribute("MultiHeadAttention", "num_heads", 1),
    "attention without a mask": lambda model: node_of(model, "MultiHeadAttention").input.__delitem__(
        slice(3, None)
    ),
    "attention by tokens": _input("Cast", 0, "input_ids", 3),
    "another normalisation": _attribute("LayerNormalization", "epsilon", 1e-3, 2),
    "normalisation of other axes": _attribute("LayerNormalization", "axis", 1, 2),
    "a residue of another place": _input("Add", 1, "embeddings.norm", -1),
    "positions of another length": _input("Shape", 0, "embeddings.position.weight_scale"),
    "positions of the batch": _attribute("Shape", "start", 0),
    "positions from 1": _constant("whole_0", lambda x: x + 1),
    "steps of 1/127": _constant("per_255", lambda x: x * np.float32(255 / 127)),
    "another zero point": _constant("int8_zero_point", lambda x: x - 1),
    "a scale that is not 1": _constant("int8_one", lambda x: x * 2),
    "another least largest value": _constant("tiny", lambda x: x * 2),
    "a sum for a product": _operator("Mul", "Add", 4),
    "one scale for all columns": _constant("_columns", lambda x: x[:1]),
    "a gain that is a number": _constant("_gain", lambda x: x[0]),
    "a bias of another type": _constant("_bias", lambda x: x.astype(np.float64)),
    "an output from inside": _output,
    "a table that is read by its columns": _attribute("Gather", "axis", 1, 2),
    "a table that is read by others": _input("Gather", 1, "attention_mask", 1),
    "weights that are no constant": lambda model: model.graph.initializer.remove(
        next(item for item in model.graph.initializer if item.name.endswith("_weights"))
    ),
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_graphs_of_other_forms_stay_as_they_are(plain, name):
    whole = plain.SerializeToString(deterministic=True)
    OTHER_FORMS[name](plain)
    changed = plain.SerializeToString(deterministic=True)
    assert changed != whole
    assert wrap_encoder(plain) == []
    assert plain.SerializeToString(deterministic=True) == changed


def test_the_graph_that_is_changed_there_becomes_an_operator(plain):
    assert len(wrap_encoder(plain)) == 2 * 4 + 3  # products and tables


def test_without_measured_activations_there_is_no_operator(exports, tmp_path):
    source = exports("bert").path / "onnx/model.onnx"
    quantize_int8(source, {"any": tmp_path / "any.onnx"})
    assert not onnx.load(tmp_path / "any.onnx").functions
    assert not (tmp_path / "any.onnx_data").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distilbert", "modernbert"])
def test_other_architectures_have_no_operator(corpus, tmp_path, name):
    checkpoint = make_architecture(name, tmp_path / "c", corpus, num_attention_heads=2)
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["int8_any"]).path
    assert not onnx.load(bundle / "onnx/model_qint8_any.onnx").functions
    assert Embedder(bundle).verify().passed


def test_heads_of_other_widths_have_no_operator(toy_bundle):
    """The toy's are 8 wide."""
    assert not onnx.load(toy_bundle / "onnx/model_qint8_any.onnx").functions


ACTIVATIONS = ["Relu", "Gelu", "Tanh", "Sigmoid", "Identity"]
ARITHMETIC = ["Add", "Mul", "Sub", "Div", "Max", "Min"]


def change_somewhere(model, rng):
    """Change one thing of a graph by chance; return what, or an empty text."""
    nodes = model.graph.node
    node = nodes[rng.integers(len(nodes))]
    told = f"{node.op_type} {node.output[0]}"
    kind = rng.integers(5)
    if kind == 0:
        names = [name for other in nodes for name in other.output] + list(node.input) + ["attention_mask"]
        names += [item.name for item in model.graph.initializer]
        place = rng.integers(len(node.input))
        node.input[place] = names[rng.integers(len(names))]
        return f"{told}: input {place} is {node.input[place]}"
    # Scales and biases of a product stay: scores of thousands would not be hidden by onnxruntime's mask.
    if kind == 1 and len(node.input) > 1 and node.op_type != "MatMulIntegerToFloat":
        one, other = rng.choice(len(node.input), 2, replace=False)
        node.input[one], node.input[other] = node.input[other], node.input[one]
        return f"{told}: inputs {one} and {other} change places"
    if kind == 2 and len(node.attribute):
        attribute = node.attribute[rng.integers(len(node.attribute))]
        value = helper.get_attribute_value(attribute)
        new = 2 * value + 1e-3 if isinstance(value, float) else value + int(rng.choice([-1, 1]))
        attribute.CopyFrom(helper.make_attribute(attribute.name, new))
        return f"{told}: {attribute.name} is {new}"
    if kind == 3 and (
        same := next((kinds for kinds in (ACTIVATIONS, ARITHMETIC) if node.op_type in kinds), None)
    ):
        node.op_type = str(rng.choice([name for name in same if name != node.op_type]))
        return f"{told} is {node.op_type}"
    if kind == 4:
        small = [
            item for item in model.graph.initializer if np.prod(item.dims) <= 32 and item.name != "first_type"
        ]
        tensor = small[rng.integers(len(small))]
        value = numpy_helper.to_array(tensor)
        new = value + value.dtype.type(1) if value.dtype.kind in "iu" else value * value.dtype.type(1.5)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(new, dtype=value.dtype), tensor.name))
        return f"{tensor.name} is {new.ravel()[:3]}"
    return ""


def check_changes(library, original, seeds):
    """Change a graph in ways that nobody thought of: what becomes an operator, the engine computes."""
    feed = random_texts(np.random.default_rng(0), 6, 10, vocabulary=80, kind="holes")
    real = feed["attention_mask"].astype(bool)
    wrapped = 0
    for seed in seeds:
        model = copy_of(original)
        told = change_somewhere(model, np.random.default_rng(seed))
        if not told:
            continue
        try:
            expected = hidden(session(model), feed)
        except Exception:  # the changed graph is none
            wrap_encoder(model)
            continue
        if not wrap_encoder(model):
            continue
        wrapped += 1
        np.testing.assert_array_equal(hidden(session(model), feed), expected, err_msg=told)
        found = hidden(session(model, library), feed)
        largest, cosine = differences(found, expected, real)
        assert cosine.min() > 0.9999, told
        assert np.median(largest) < 1e-5, told
    return wrapped


def test_what_becomes_an_operator_is_computed_as_it_was(library, plain):
    assert check_changes(library, plain, range(200)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_what_becomes_an_operator_is_computed_as_it_was_after_many_changes(library, exports, name):
    assert check_changes(library, exact_graph(exports(name).before), range(1000, 7000)) > 600
