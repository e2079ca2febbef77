"""Which files hold an ONNX graph's weights, found without the onnx package; the package is the oracle."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from relsdk import Embedder
from relsdk.bundle import read_bundle
from relsdk.bundle._external_data import external_names
from relsdk.errors import BundleError
from relsdk.files.folders import file_sha256
from tests.bundle_changes import read_description, write_description

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def tensor(name, location=None, **more):
    made = numpy_helper.from_array(np.ones((2, 3), np.float32), name)
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in {**more, "location": location}.items():
            entry = made.external_data.add()
            entry.key, entry.value = key, value
    return made


def graph(tensors, nodes=()):
    return helper.make_graph(list(nodes), "g", [], [], initializer=list(tensors))


def branch(tensors, nodes=()):
    """A node with a graph in it."""
    return helper.make_node("If", ["c"], ["y"], then_branch=graph(tensors, nodes), else_branch=graph([]))


def write(path, made, **fields):
    model = helper.make_model(made, **fields)
    path.write_bytes(model.SerializeToString())
    return path


def test_every_place_of_a_tensor_is_looked_at(tmp_path):
    inner = branch([tensor("w", "inner.bin")], [branch([tensor("w", "innermost.bin")])])
    constant = helper.make_node("Constant", [], ["x"], value=tensor("c", "constant.bin", offset="0"))
    several = helper.make_node("Custom", [], ["x"])
    several.attribute.append(helper.make_attribute("many", [tensor("a"), tensor("b", "many.bin")]))
    several.attribute.append(helper.make_attribute("graphs", [graph([tensor("a", "graphs.bin")])]))
    sparse = onnx.SparseTensorProto(values=tensor("v", "values.bin"), indices=tensor("i", "indices.bin"))
    made = graph([tensor("a", "first.bin"), tensor("b", "first.bin"), tensor("location")], [inner, constant])
    made.node.append(several)
    made.sparse_initializer.append(sparse)
    function = helper.make_function(
        "d", "F", [], ["y"], [helper.make_node("Constant", [], ["y"], value=tensor("f", "function.bin"))], []
    )
    path = write(tmp_path / "m.onnx", made, functions=[function])
    names = "first inner innermost constant many graphs values indices function".split()
    assert sorted(external_names(path)) == sorted(f"{name}.bin" for name in names)


def test_a_word_in_a_name_is_no_file(tmp_path):
    node = helper.make_node("Identity", ["location"], ["y"], doc_string="location")
    assert external_names(write(tmp_path / "m.onnx", graph([tensor("location")], [node]))) == ()


def test_only_files_for_the_native_engine_have_one():
    for path in FIXTURES.rglob("*.onnx"):
        native = "native" in path.parts[-3] and "int8" in path.name
        assert external_names(path) == ((f"{path.name}_data",) if native else ())


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_end_in_names_or_in_our_error(tmp_path, seed):
    rng = random.Random(seed)
    tensors = [tensor(f"t{i}", f"f{i}.bin", offset="1", length="2") for i in range(5)]
    path = write(tmp_path / "m.onnx", graph(tensors, [branch([tensor("w", "inner.bin")])]))
    whole = path.read_bytes()
    for _ in range(30):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            names = external_names(path)
        except BundleError:
            continue
        try:
            model = onnx.load_model_from_string(path.read_bytes())
        except Exception:
            continue
        found = {
            entry.value
            for one in [*model.graph.initializer, *_inner(model.graph)]
            for entry in one.external_data
            if entry.key == "location"
        }
        assert found <= set(names)


def _inner(made):
    for node in made.node:
        for attribute in node.attribute:
            yield from attribute.g.initializer
            yield from _inner(attribute.g)


def test_what_is_no_file(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert external_names(tmp_path / "empty.onnx") == ()
    with pytest.raises(BundleError, match="cannot read"):
        external_names(tmp_path / "none.onnx")


@pytest.fixture
def beside(tmp_path):
    """A bundle whose fp32 weights are in a file with a name of its own."""
    folder = Path(shutil.copytree(FIXTURES / "encoder-bundle-v1", tmp_path / "bundle"))
    path = folder / "onnx/model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=500)
    content = read_description(folder)
    for name in ("onnx/model.onnx", "onnx/weights.bin"):
        content["files"][name] = file_sha256(folder / name)
    write_description(folder, content)
    return folder


def test_weights_under_any_name_are_checked(beside):
    expected = json.loads((FIXTURES / "expected-v1.json").read_text(encoding="utf-8"))
    embedder = Embedder(beside, variant="fp32")
    assert embedder.bundle.variant_files(embedder.variant) == ("onnx/model.onnx", "onnx/weights.bin")
    found = embedder.encode_query(expected["texts"])
    np.testing.assert_allclose(found, expected["query_vectors"], atol=1e-5)
    path = beside / "onnx/weights.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin is not the file that was exported"):
        Embedder(beside, variant="fp32")
    Embedder(beside, variant="int8_avx2")  # has its weights inside
    path.unlink()
    with pytest.raises(BundleError, match=r"weights\.bin is missing, and onnx/model\.onnx has weights in it"):
        Embedder(beside, variant="fp32")


def test_weights_that_are_not_listed_are_refused(beside):
    content = read_description(beside)
    del content["files"]["onnx/weights.bin"]
    write_description(beside, content)
    with pytest.raises(BundleError, match=r"weights\.bin does not belong to the bundle"):
        Embedder(beside, variant="fp32")


@pytest.mark.parametrize("location", ["../../outside.bin", "/etc/passwd", "a\\b", "", "link.bin"])
def test_weights_outside_the_folder_are_refused(beside, tmp_path, location):
    (tmp_path / "outside.bin").write_bytes(b"x" * 1000)
    (beside / "onnx/link.bin").symlink_to(tmp_path / "outside.bin")
    model = onnx.load(beside / "onnx/model.onnx", load_external_data=False)
    for one in model.graph.initializer:
        for entry in one.external_data:
            if entry.key == "location":
                entry.value = location
    (beside / "onnx/model.onnx").write_bytes(model.SerializeToString())
    bundle = read_bundle(beside)
    with pytest.raises(BundleError, match=r"outside the folder|is missing"):
        bundle.variant_files(bundle.variant("fp32"))
