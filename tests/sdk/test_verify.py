"""A bundle that no longer gives its vectors is found out, whatever its hashes say."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from relsdk import Embedder
from relsdk.bundle import GOLDEN_TEXTS, read_golden
from relsdk.cli import main
from relsdk.errors import BundleError, TruncationWarning
from relsdk.files.folders import file_sha256
from relsdk.models.open import open_pair_model
from relsdk.runtime.session import ModelSession
from tests.bundle_changes import read_description, write_description

VECTORS = "sentence_embedding"
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def verify(capsys):
    """Run `relsdk model verify --json`; return (exit code, the JSON, stderr)."""

    def run(folder):
        code = 0
        try:
            main(["model", "verify", str(folder), "--json"])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, json.loads(captured.out or "null"), captured.err

    return run


def edit(folder, change):
    """Change relsdk.json in place and make every hash right again."""
    content = read_description(folder)
    change(content)
    content["files"] = {name: file_sha256(folder / name) for name in content["files"]}
    write_description(folder, content)


def test_a_whole_bundle_passes(toy_bundle, verify):
    code, content, _ = verify(toy_bundle)
    assert (code, content["passed"], content["checksum"]) == (0, True, True)
    assert {"fp32", "int8_avx2"} <= {record["variant"] for record in content["variants"]}
    for record in content["variants"]:
        assert record["texts"] == len(GOLDEN_TEXTS)
        assert record["min_cosine"] > 0.99999
        assert record["max_difference"] < 1e-4
        assert not record["problems"]


def test_the_table(toy_bundle, capsys):
    main(["model", "verify", str(toy_bundle)])
    out = capsys.readouterr().out
    assert "ok" in out
    assert "relsdk.json: its checksum is right" in out


def test_the_golden_vectors_are_the_embedders(toy_bundle):
    golden = read_golden(toy_bundle)
    embedder = Embedder(toy_bundle, variant="fp32", threads=1)
    encode = {"query": embedder.encode_query, "document": embedder.encode_document, "": embedder.encode}
    for (prompt, text), expected in zip(golden.texts, golden.vectors["fp32"], strict=True):
        np.testing.assert_allclose(encode[prompt](text, truncation="silent"), expected, atol=1e-5)
    assert json.loads((toy_bundle / "relsdk.json").read_text())["files"]["golden.json"]


def test_fewer_dimensions_are_compared_with_cut_vectors(toy_bundle):
    record = Embedder(toy_bundle, variant="fp32", truncate_dim=8).verify()
    assert record.passed
    assert record.max_difference < 1e-4
    with pytest.raises(AttributeError):
        record.texts = 1


@pytest.fixture
def as_made(monkeypatch):
    """The bundle counts as made with this onnxruntime: else opening it, which compares, finds the fault."""
    monkeypatch.setattr(
        "relsdk.runtime.verification.verified_version", lambda bundle: onnxruntime.__version__
    )


def test_a_swapped_file_with_a_new_hash_is_found(toy_bundle_copy, verify, as_made):
    """It is an encoder of the same inputs, outputs and width, which has one layer less."""
    other = FIXTURES / "tower-bundle-v1/onnx/query_model.onnx"
    shutil.copy(other, toy_bundle_copy / "onnx/model.onnx")
    edit(toy_bundle_copy, lambda content: None)
    code, content, error = verify(toy_bundle_copy)
    assert (code, content["passed"]) == (2, False)
    failed = {record["variant"] for record in content["variants"] if record["problems"]}
    assert failed == {"fp32"}
    assert "fp32: vectors differ from the golden ones" in error


def test_a_dropped_prompt_is_found(toy_bundle_copy, verify):
    edit(toy_bundle_copy, lambda content: content["settings"]["prompts"].pop("query"))
    code, _, error = verify(toy_bundle_copy)
    assert code == 2
    assert "with the query prompt" in error
    assert "the setting 'prompts'" in error


def test_a_wrong_pooling_flag_is_found(toy_bundle_copy, verify):
    """The vectors pooled inside the graph stay right; those of a runtime that pools itself would not."""
    edit(toy_bundle_copy, lambda content: content["settings"].update(pooling="cls"))
    code, _, error = verify(toy_bundle_copy)
    assert code == 2
    assert "the setting 'pooling' is 'cls'; the vectors were made with 'mean'" in error


def test_a_changed_byte_is_found(toy_bundle_copy, verify):
    with (toy_bundle_copy / "config.json").open("a") as stream:
        stream.write(" ")
    code, _, error = verify(toy_bundle_copy)
    assert code == 2
    assert "config.json is not the file" in error


def test_a_graph_of_another_width_is_found(toy_bundle_copy, as_made):
    path = toy_bundle_copy / "onnx/model.onnx"
    model = onnx.load(path)
    (last,) = (node for node in model.graph.node if VECTORS in node.output)
    last.output[list(last.output).index(VECTORS)] = "wide"
    bounds = {"from": 0, "to": 16, "axis": 1}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([n]), name) for name, n in bounds.items())
    model.graph.node.append(helper.make_node("Slice", ["wide", *bounds], [VECTORS]))
    (output,) = (output for output in model.graph.output if output.name == VECTORS)
    output.type.tensor_type.shape.dim[1].dim_value = 16
    onnx.save(model, path)
    edit(toy_bundle_copy, lambda content: None)
    record = Embedder(toy_bundle_copy, variant="fp32").verify()
    assert not record.passed
    assert math.isnan(record.min_cosine)
    assert "of width 16; 32 is stated" in record.problems[0]


def test_damaged_or_missing_golden_vectors(toy_bundle_copy, verify):
    path = toy_bundle_copy / "golden.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "vectors": {"fp32": [[1.0]]}}))
    with pytest.raises(BundleError, match=r"golden\.json is damaged"):
        Embedder(toy_bundle_copy).verify()
    path.write_text(json.dumps({**content, "vectors": {"int8_avx2": content["vectors"]["int8_avx2"]}}))
    with pytest.raises(BundleError, match="not of fp32"):
        Embedder(toy_bundle_copy, variant="fp32").verify()
    path.unlink()
    code, _, error = verify(toy_bundle_copy)
    assert code == 2
    assert "has no golden vectors" in error


def test_a_bundle_of_the_first_version_passes_and_says_that_it_has_no_checksum(verify, capsys):
    folder = Path(__file__).resolve().parents[1] / "fixtures/scorer-bundle-v1"
    code, content, _ = verify(folder)
    assert (code, content["passed"], content["checksum"]) == (0, True, False)
    main(["model", "verify", str(folder)])
    assert "relsdk.json: it has no checksum" in capsys.readouterr().out


def test_a_changed_description_does_not_pass(toy_bundle_copy, verify):
    content = read_description(toy_bundle_copy)
    content["provenance"]["checkpoint"] = "another"
    (toy_bundle_copy / "relsdk.json").write_text(json.dumps(content))
    code, _, error = verify(toy_bundle_copy)
    assert code == 2
    assert "relsdk.json was changed after it was written" in error


@pytest.mark.parametrize("kind", ["encoder", "scorer"])
def test_golden_inputs_leave_the_callers_count_alone(kind, tmp_path, monkeypatch):
    """Another thread's texts may be cut while golden inputs run; they were forgotten afterwards."""
    folder = shutil.copytree(FIXTURES / f"{kind}-bundle-v1", tmp_path / kind)
    with pytest.warns(UserWarning, match="no checksum"):
        model = open_pair_model(folder, variant="fp32")
    counted = model.embedder if kind == "encoder" else model
    run = ModelSession.run

    def meanwhile(session, output, inputs):
        monkeypatch.setattr(ModelSession, "run", run)
        with pytest.warns(TruncationWarning):
            model.outputs([("演", "员 " * 2000)])
        return run(session, output, inputs)

    monkeypatch.setattr(ModelSession, "run", meanwhile)
    assert model.verify().passed
    assert counted.truncated_count == 1
