"""Folders that others wrote: file names, inputs and outputs as their exporters choose them."""

import json
import shutil

import numpy as np
import pytest

from relsdk import Embedder
from relsdk.bundle import read_bundle, read_encoder_settings
from relsdk.errors import BundleError
from relsdk.runtime.variants import choose_variant

onnx = pytest.importorskip("onnx")
WIDTH, TABLES = 8, ("input_ids", "token_type_ids", "position_ids")


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(512, WIDTH)).astype(np.float32) for name in TABLES}


def write_graph(path, tables, inputs, outputs, *, kind=None):
    """A graph that adds embeddings of its inputs; the mask is asked for, too, and not used."""
    from onnx import TensorProto, helper, numpy_helper

    kind = kind or TensorProto.INT64
    nodes = [helper.make_node("Gather", [f"{name}_table", name], [f"{name}_row"]) for name in inputs]
    nodes.append(helper.make_node("Sum", [f"{name}_row" for name in inputs], [outputs[0]]))
    nodes += [helper.make_node("Neg", [outputs[0]], [name]) for name in outputs[1:]]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, kind, ["b", "t"]) for name in (*inputs, "attention_mask")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", WIDTH]) for name in outputs],
        [numpy_helper.from_array(tables[name], f"{name}_table") for name in inputs],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture
def folder(toy_bundle, tmp_path):
    """A model folder without any ONNX file and without `relsdk.json`."""
    made = tmp_path / "model"
    shutil.copytree(toy_bundle, made, ignore=shutil.ignore_patterns("onnx", "relsdk.json", "golden.json"))
    pooling = json.loads((made / "1_Pooling/config.json").read_text())
    (made / "1_Pooling/config.json").write_text(json.dumps({**pooling, "word_embedding_dimension": WIDTH}))
    return made


def pooled_by_hand(folder, tables, inputs, text):
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    rows = {"input_ids": ids, "token_type_ids": [0] * len(ids), "position_ids": range(len(ids))}
    vector = sum(tables[name][list(rows[name])] for name in inputs).mean(axis=0)
    return vector / np.linalg.norm(vector)


def change(path, **keys):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **keys}))


def test_the_pooling_is_where_the_modules_say(folder):
    change(folder / "1_Pooling/config.json", pooling_mode="cls")
    assert read_encoder_settings(folder).pooling == "cls"
    shutil.move(folder / "1_Pooling", folder / "1_MyPooling")
    with pytest.raises(BundleError, match=r"1_Pooling/config\.json is missing, and modules\.json names it"):
        read_encoder_settings(folder)
    modules = folder / "modules.json"
    modules.write_text(modules.read_text().replace("1_Pooling", "1_MyPooling"))
    assert read_encoder_settings(folder).pooling == "cls"


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["Pooling", "Transformer"], "the order is"),
        (["Transformer", "Pooling", "Pooling"], "each once"),
        (["Transformer", "Pooling", "Normalize", "Dense"], "the order is"),
        (["Transformer", "Pooling", "LayerNorm"], "the module 'LayerNorm'"),
        (["StaticEmbedding"], "the module 'StaticEmbedding'"),
        (["Router"], "the module 'Router'"),
    ],
)
def test_modules_that_would_compute_something_else_are_refused(folder, types, message):
    entries = [
        {"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling" if kind == "Pooling" else ""}
        for kind in types
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(BundleError, match=message):
        read_encoder_settings(folder)


def test_a_transformer_elsewhere_and_lower_case_are_refused(folder):
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(BundleError, match=r"do_lower_case.*Lowercase normalizer into tokenizer\.json"):
        read_encoder_settings(folder)
    change(folder / "sentence_bert_config.json", do_lower_case=False)
    (folder / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}])
    )
    with pytest.raises(BundleError, match="'0_Transformer'; it must be in the folder itself"):
        read_encoder_settings(folder)


def test_the_pad_token_is_named_by_whichever_file_does(folder):
    """Hub folders of RoBERTa's family name it in none of the usual places."""
    config = folder / "tokenizer_config.json"
    content = json.loads(config.read_text())
    del content["pad_token"]
    config.write_text(json.dumps(content))
    assert read_encoder_settings(folder).pad_token == "<pad>"  # by the id in config.json
    change(folder / "special_tokens_map.json", pad_token={"content": "</s>"})
    assert read_encoder_settings(folder).pad_token == "</s>"
    change(config, pad_token="<unk>")
    assert read_encoder_settings(folder).pad_token == "<unk>"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["onnx/model.onnx"], ["fp32"]),
        (["model.onnx"], ["fp32"]),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], ["fp32", "int8"]),
        (["onnx/model_qint8_avx512_vnni.onnx"], ["int8_avx512_vnni"]),
        (["onnx/model_quint8_avx2.onnx", "onnx/model_qint8_arm64.onnx"], ["int8_arm64", "int8_avx2"]),
        (
            ["onnx/model_int8.onnx", "onnx/model_quantized.onnx", "onnx/model_uint8.onnx"],
            ["int8", "quantized", "uint8"],
        ),
        (["model.onnx", "onnx/model_quantized.onnx"], ["int8", "fp32"]),
        (["model.onnx", "onnx/model.onnx"], ["fp32"]),
        (["model.onnx", "onnx/model_fp16.onnx", "onnx/model_O2.onnx", "model_optimized.onnx"], ["fp32"]),
    ],
)
def test_the_usual_file_names_open(folder, tables, corpus, files, names):
    for file in files:
        write_graph(folder / file, tables, ["input_ids"], ["last_hidden_state"])
    bundle = read_bundle(folder)
    assert [variant.name for variant in bundle.variants] == names
    for name in names:
        got = Embedder(folder, variant=name, threads=1).encode(corpus)
        assert got.shape == (len(corpus), WIDTH)
    if files[-1] == "onnx/model.onnx":
        assert bundle.variants[0].file == "onnx/model.onnx"


def test_files_that_cannot_be_used_are_named(folder, tables):
    with pytest.raises(BundleError, match=r"has no ONNX file; make a bundle"):
        read_bundle(folder)
    for file in ("onnx/model_fp16.onnx", "model_O2.onnx", "onnx/decoder.onnx"):
        write_graph(folder / file, tables, ["input_ids"], ["last_hidden_state"])
    with pytest.raises(BundleError, match=r"onnx/decoder\.onnx.*onnx/model_fp16\.onnx.*model_O2\.onnx"):
        Embedder(folder)


def test_a_file_for_another_cpu_is_not_chosen(folder, tables):
    for file in ("onnx/model.onnx", "onnx/model_qint8_arm64.onnx", "onnx/model_qint8_avx512.onnx"):
        write_graph(folder / file, tables, ["input_ids"], ["last_hidden_state"])
    bundle = read_bundle(folder)
    assert choose_variant(bundle, features=frozenset({"x86_64", "avx2", "avx512_vnni"})).name == "fp32"
    assert choose_variant(bundle, features=frozenset({"arm64"})).name == "int8_arm64"


@pytest.mark.parametrize(
    "inputs",
    [["input_ids"], ["input_ids", "token_type_ids"], ["input_ids", "token_type_ids", "position_ids"]],
)
@pytest.mark.parametrize("kind", ["INT64", "INT32"])
def test_inputs_are_given_as_the_graph_asks(folder, tables, corpus, inputs, kind):
    write_graph(
        folder / "model.onnx",
        tables,
        inputs,
        ["last_hidden_state"],
        kind=getattr(onnx.TensorProto, kind),
    )
    got = Embedder(folder, threads=1).encode(corpus)
    expected = [pooled_by_hand(folder, tables, inputs, text) for text in corpus]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_an_unknown_input_is_refused(folder, tables):
    tables["past_key_values"] = tables["input_ids"]
    write_graph(folder / "model.onnx", tables, ["input_ids", "past_key_values"], ["last_hidden_state"])
    with pytest.raises(BundleError, match=r"asks for the inputs \['past_key_values'\]"):
        Embedder(folder, threads=1).encode("a")


@pytest.mark.parametrize(
    ("outputs", "sign"),
    [
        (["last_hidden_state"], 1),
        (["token_embeddings"], 1),
        (["anything"], 1),
        (["first", "last_hidden_state"], -1),
        (["first", "token_embeddings"], -1),
        (["last_hidden_state", "token_embeddings"], 1),
    ],
)
def test_the_right_output_is_used(folder, tables, outputs, sign):
    """Every output after the first is its negative."""
    write_graph(folder / "model.onnx", tables, ["input_ids"], outputs)
    expected = sign * pooled_by_hand(folder, tables, ["input_ids"], "大宅门演员表")
    np.testing.assert_allclose(Embedder(folder, threads=1).encode("大宅门演员表"), expected, atol=1e-5)


def test_weights_beside_the_graph_are_part_of_the_model(folder, tables, corpus):
    write_graph(folder / "onnx/model.onnx", tables, ["input_ids"], ["last_hidden_state"])
    inside = Embedder(folder, threads=1)
    model = onnx.load(folder / "onnx/model.onnx")
    onnx.save(
        model,
        folder / "onnx/model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    beside = Embedder(folder, threads=1)
    assert beside.bundle.variant_files(beside.variant) == ("onnx/model.onnx", "onnx/model.onnx_data")
    assert beside.fingerprint != inside.fingerprint
    np.testing.assert_allclose(beside.encode(corpus), inside.encode(corpus), atol=1e-6)


@pytest.mark.parametrize("place", ["../../outside.bin", "absolute", "link.bin"])
def test_weights_outside_the_folder_are_refused(folder, tables, tmp_path, place):
    outside = tmp_path / "outside.bin"
    outside.write_bytes(tables["input_ids"].tobytes())
    if place == "link.bin":
        (folder / "onnx").mkdir()
        (folder / "onnx/link.bin").symlink_to(outside)
    write_graph(folder / "onnx/model.onnx", tables, ["input_ids"], ["last_hidden_state"])
    model = onnx.load(folder / "onnx/model.onnx")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, str(outside) if place == "absolute" else place)
    tensor.ClearField("raw_data")
    (folder / "onnx/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="outside the folder"):
        Embedder(folder, threads=1).encode("a")
