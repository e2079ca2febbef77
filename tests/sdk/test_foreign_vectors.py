"""What folders of others compute behind the transformer, and what retrieval makes of it."""

import json

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.bundle import DenseLayer, read_bundle, read_dense
from relsdk.errors import BundleError, InputError
from relsdk.models.bi_encoder import BiEncoder
from relsdk.records import LabelledPair
from relsdk.tools.hard_negatives import Miner
from tests.bundle_changes import change_json
from tests.sdk.foreign_folder import (
    FIXTURE,
    TABLE,
    WIDTH,
    make_folder,
    rows,
    unit,
    write_dense,
    write_modules,
    write_table,
)

pytest.importorskip("onnx")

POOLED = {
    "mean": lambda x: x.mean(axis=0),
    "cls": lambda x: x[0],
    "lasttoken": lambda x: x[-1],
    "max": lambda x: x.max(axis=0),
    "mean_sqrt_len_tokens": lambda x: x.sum(axis=0) / np.sqrt(len(x)),
    "weightedmean": lambda x: np.arange(1, len(x) + 1) @ x / np.arange(1, len(x) + 1).sum(),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_every_pooling_is_what_its_name_says(tmp_path, corpus, pooling):
    """Alone and beside longer texts: padding counts for nothing."""
    embedder = Embedder(make_folder(tmp_path / "m", pooling=pooling))
    expected = np.stack([POOLED[pooling](rows(text)) for text in corpus])
    np.testing.assert_allclose(embedder.encode(corpus, batch_size=len(corpus)), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.encode(corpus[0]), expected[0], atol=1e-5)


ACTIVATIONS = {
    "linear.Identity": lambda x: x,
    "activation.Tanh": np.tanh,
    "activation.ReLU": lambda x: np.maximum(x, 0),
    "activation.Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_a_dense_layer_is_computed_behind_the_pooling(tmp_path, corpus, activation, biased):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(5, WIDTH)), rng.normal(size=5)
    layers = [(weight, bias if biased else None, activation)]
    embedder = Embedder(make_folder(tmp_path / "m", dense=layers, normalize=True))
    pooled = np.stack([rows(text).mean(axis=0) for text in corpus])
    expected = unit(ACTIVATIONS[activation](pooled @ weight.T + (bias if biased else 0)))
    assert embedder.dimension == 5
    np.testing.assert_allclose(embedder.encode(corpus), expected, atol=1e-5)


def test_dense_layers_follow_each_other_and_a_text_keeps_its_vector(tmp_path, corpus):
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(16, WIDTH)), rng.normal(size=(4, 16))
    layers = [(first, None, "activation.Tanh"), (second, None, "linear.Identity")]
    embedder = Embedder(make_folder(tmp_path / "m", dense=layers))
    together = embedder.encode(corpus, batch_size=len(corpus))
    pooled = np.stack([rows(text).mean(axis=0) for text in corpus])
    np.testing.assert_allclose(together, np.tanh(pooled @ first.T) @ second.T, atol=1e-5)
    np.testing.assert_allclose(np.stack([embedder.encode(text) for text in corpus]), together, atol=1e-6)


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "Sigmoid"])
def test_a_dense_layer_that_was_written_is_read_again(tmp_path, activation):
    rng = np.random.default_rng(5)
    layer = DenseLayer(
        rng.normal(size=(5, WIDTH)).astype(np.float32), rng.normal(size=5).astype(np.float32), activation
    )
    layer.write(tmp_path, "2_Dense")
    read = read_dense(tmp_path, "2_Dense")
    assert read.activation == activation
    np.testing.assert_array_equal(read.weight, layer.weight)
    np.testing.assert_array_equal(read.bias, layer.bias)
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(tmp_path / "2_Dense" / "model.safetensors")
    np.testing.assert_array_equal(tensors["linear.weight"], layer.weight)
    np.testing.assert_array_equal(tensors["linear.bias"], layer.bias)


def test_other_weights_of_a_dense_layer_are_another_model(tmp_path):
    weight = np.ones((4, WIDTH))
    folder = make_folder(tmp_path / "m", dense=[(weight, None, "linear.Identity")])
    before = read_bundle(folder).fingerprint
    write_dense_again(folder / "2_Dense", 2 * weight)
    assert read_bundle(folder).fingerprint != before


def write_dense_again(folder, weight):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    write_dense(folder, weight, None, "linear.Identity")


def test_a_graph_that_holds_all_modules_needs_no_weights_beside_it(tmp_path, corpus):
    """As Optimum exports sentence-transformers: `sentence_embedding` is what the last module gives."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = make_folder(tmp_path / "m", dense=[(np.ones((3, WIDTH)), None, "linear.Identity")], graph=False)
    (folder / "2_Dense/model.safetensors").unlink()
    weight = np.random.default_rng(3).normal(size=(WIDTH, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
            helper.make_node("ReduceMax", ["tokens"], ["pooled"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["pooled", "weight"], ["sentence_embedding"]),
        ],
        "toy",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])],
        [
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["b", "t", WIDTH]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", 3]),
        ],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    got = np.stack([Embedder(folder).encode(text) for text in corpus[:3]])
    expected = np.stack([rows(text).max(axis=0) for text in corpus[:3]]) @ weight
    np.testing.assert_allclose(got, expected, atol=1e-5)
    model.graph.output[1].name = model.graph.node[2].output[0] = "pooler_output"
    del model.graph.output[0]
    onnx.save(model, folder / "model.onnx")
    write_dense(folder / "x", np.ones((3, WIDTH)), None, "linear.Identity")
    (folder / "x/model.safetensors").rename(folder / "2_Dense/model.safetensors")
    with pytest.raises(BundleError, match="one vector a text as 'pooler_output', and the folder has Dense"):
        Embedder(folder).encode("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activation_function": "torch.nn.modules.activation.GELU"},
            "activation_function 'torch.*GELU'; known",
        ),
        ({"activation_function": "theirs.Tanh"}, "activation_function 'theirs.Tanh'; known"),
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
        ({"use_residual": True}, "use_residual"),
        ({"in_features": WIDTH + 1}, f"takes vectors of width {WIDTH + 1}; it gets {WIDTH}"),
        ({"in_features": "8"}, "in_features"),
        ({"out_features": 0}, "out_features"),
        ({"bias": True}, r"model\.safetensors holds .*linear\.bias"),
        ({"out_features": 5}, r"model\.safetensors holds"),
    ],
)
def test_a_dense_layer_that_is_not_understood_is_refused(tmp_path, change, message):
    folder = make_folder(tmp_path / "m", dense=[(np.ones((4, WIDTH)), None, "linear.Identity")])
    change_json(folder / "2_Dense/config.json", **change)
    with pytest.raises(BundleError, match=message):
        Embedder(folder)


def test_pickled_weights_are_never_opened(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    folder = make_folder(tmp_path / "m", dense=[(np.ones((4, WIDTH)), None, "linear.Identity")])
    (folder / "2_Dense/model.safetensors").unlink()
    (folder / "2_Dense/pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BundleError, match=r"pytorch_model\.bin is not opened\); save the model again"):
        Embedder(folder)
    assert not (tmp_path / "exploded").exists()


def test_damaged_safetensors_are_refused(tmp_path):
    """Cut, or with a byte changed: an error, or weights of the right shape, never a traceback."""
    folder = make_folder(tmp_path / "m", dense=[(np.ones((4, WIDTH)), None, "linear.Identity")])
    path = folder / "2_Dense/model.safetensors"
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    header = int.from_bytes(whole[:8], "little") + 8
    refused = 0
    for trial in range(200):
        damaged = bytearray(whole)
        if trial % 2:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            damaged[rng.integers(header)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert read_dense(folder, "2_Dense").weight.shape == (4, WIDTH)
        except BundleError:
            refused += 1
    assert refused > 150


@pytest.fixture
def unnormalised(tmp_path):
    return make_folder(tmp_path / "unnormalised")


def documents(corpus):
    return [Document(id=str(row), title=text) for row, text in enumerate(corpus)]


def test_an_encoder_without_normalize_is_indexed_and_searched(unnormalised, corpus, tmp_path):
    embedder = Embedder(unnormalised)
    raw = np.stack([rows(text).mean(axis=0) for text in corpus])
    with pytest.warns(UserWarning, match="unnormalised does not normalise its vectors; encode_query"):
        index = Index.build(tmp_path / "idx", documents(corpus), embedder)
    hits = Searcher(embedder, index).search(corpus[3], k=len(corpus))  # said once: warnings are errors here
    np.testing.assert_allclose(embedder.encode(corpus), raw, atol=1e-5)  # as the model gives them
    expected = unit(raw) @ unit(raw)[3]
    assert [hit.document.id for hit in hits] == [str(row) for row in np.argsort(-expected)]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-5)


def test_every_use_of_such_an_encoder_takes_cosines(unnormalised, corpus, tmp_path):
    raw = np.stack([rows(text).mean(axis=0) for text in corpus])
    cosines = unit(raw) @ unit(raw).T
    embedder = Embedder(unnormalised, query_cache=4)
    with pytest.warns(UserWarning, match="does not normalise"):
        once = embedder.encode_query(corpus[0])
    cached = embedder.encode_query(corpus[0])
    np.testing.assert_allclose(once, unit(raw[0]), atol=1e-6)
    np.testing.assert_array_equal(once, cached)
    np.testing.assert_allclose(embedder.encode_query(corpus, normalize_embeddings=False), raw, atol=1e-5)
    scores = BiEncoder(embedder).outputs([(corpus[0], text) for text in corpus]).scores
    np.testing.assert_allclose(scores, cosines[0], atol=1e-5)
    index = Index.build(tmp_path / "idx", documents(corpus), embedder)
    pair = LabelledPair(corpus[0], Document(id="0", title=corpus[0]), 3)
    mined = list(Miner(embedder, index).mine([pair], negatives=3, candidates=5, max_ratio=1.0))
    nearest = [corpus[row] for row in np.argsort(-cosines[0])[1:4]]
    assert [item.document.title for item in mined] == nearest


def test_a_model_trained_for_another_product_is_told(unnormalised):
    change_json(unnormalised / "config_sentence_transformers.json", similarity_fn_name="dot")
    with pytest.warns(UserWarning, match=r"\(it was trained for 'dot'\)"):
        Embedder(unnormalised).encode_query("a")


def test_a_normalising_model_says_nothing(tmp_path, corpus):
    embedder = Embedder(make_folder(tmp_path / "m", normalize=True))
    np.testing.assert_allclose(np.linalg.norm(embedder.encode_document(corpus), axis=1), 1, atol=1e-6)
    assert Embedder(FIXTURE).encode_query(corpus).shape[0] == len(corpus)


@pytest.mark.parametrize("wanted", ["onnx/model_O4.onnx", "model_O4.onnx"])
def test_a_file_is_served_by_its_name(tmp_path, corpus, wanted):
    folder = make_folder(tmp_path / "m")
    write_table(folder / "onnx/model_O4.onnx", dtype=np.float16, table=-TABLE)
    embedder = Embedder(folder, variant=wanted)
    got = embedder.encode(corpus)
    assert got.dtype == np.float32
    expected = -np.stack([rows(text).mean(axis=0) for text in corpus])
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert embedder.variant.name == "onnx/model_O4.onnx"
    assert Embedder(folder).variant.name == "fp32"  # "auto" takes what is understood
    assert Embedder(folder, variant="model.onnx").variant.name == "fp32"
    assert embedder.fingerprint == Embedder(folder).fingerprint
    with pytest.raises(
        InputError, match=r"no variant 'O4'; it has \['fp32'\].*files \['onnx/model_O4\.onnx'\]"
    ):
        Embedder(folder, variant="O4")
    with pytest.raises(InputError, match="no variant"):
        Embedder(folder, variant="../m/onnx/model_O4.onnx")


def test_a_folder_of_such_files_alone_opens_when_one_is_named(tmp_path):
    folder = make_folder(tmp_path / "m", graph=False)
    write_table(folder / "onnx/model_fp16.onnx", dtype=np.float16)
    with pytest.raises(
        BundleError, match=r"name the one to load: variant='onnx/model_fp16\.onnx' \(--variant\)"
    ):
        Embedder(folder)
    expected = rows("红烧肉").mean(axis=0)
    np.testing.assert_allclose(
        Embedder(folder, variant="model_fp16.onnx").encode("红烧肉"), expected, atol=2e-3
    )


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"shape": (1, 5)}, r"does not run inputs of shape \{'input_ids': \[1, \d+\]"),
        ({"dtype": np.int64}, "as int64; floating-point numbers are needed"),
        ({"table": np.ones((251, 5))}, "gives last_hidden_state of width 5; 8 is stated"),
        ({"table": np.ones((251, 2, 8))}, r"of shape \[1, \d+, 2, 8\] for 1 texts of \d+ tokens"),
    ],
)
def test_graphs_of_another_shape_are_told(tmp_path, graph, message):
    folder = make_folder(tmp_path / "m")
    write_table(folder / "onnx/model.onnx", **graph)
    with pytest.raises(BundleError, match=message):
        Embedder(folder).encode("红烧肉怎么做才不腻")


def test_modules_that_lead_out_of_the_folder_are_refused(tmp_path):
    folder = make_folder(tmp_path / "m")
    for path in ("../../etc", "/etc", "1_Pooling/../../m", "a\\b"):
        write_modules(folder, [("", "Transformer"), (path, "Pooling")])
        with pytest.raises(BundleError, match=r"modules\.json names .*, outside the folder; do not use it"):
            Embedder(folder)


@pytest.mark.filterwarnings("default:unnormalised does not normalise:UserWarning")
def test_the_commands_index_and_answer_with_such_a_model(relsdk, unnormalised, corpus, tmp_path):
    write_table(unnormalised / "onnx/model_O4.onnx", dtype=np.float16)
    source = tmp_path / "docs.jsonl"
    lines = [json.dumps({"_id": str(row), "title": text}) for row, text in enumerate(corpus)]
    source.write_text("\n".join(lines))
    index = str(tmp_path / "idx")
    file = ("--variant", "onnx/model_O4.onnx")
    code, _, err = relsdk("index", "build", index, "-m", str(unnormalised), "-i", str(source), *file)
    assert code == 0, err
    assert err.count("does not normalise its vectors") == 1
    code, out, err = relsdk("query", index, corpus[3], "-k", "1", "--json", *file)
    assert code == 0, err
    assert '"3"' in out
    code, _, err = relsdk(
        "encode", str(unnormalised), str(source), str(tmp_path / "v.npy"), "--as", "document", *file
    )
    assert code == 0, err
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "v.npy"), axis=1), 1, atol=1e-5)
