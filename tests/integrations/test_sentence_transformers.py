"""`relsdk model to-sentence-transformers`: the folder gives the bundle's vectors, without relsdk."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoModel  # noqa: E402

from relsdk import Embedder  # noqa: E402
from relsdk.files.folders import file_sha256  # noqa: E402
from relsdk_export.encoder import EncoderCuts, export_encoder  # noqa: E402
from relsdk_export.router import to_sentence_transformers  # noqa: E402
from tests.bundle_changes import (  # noqa: E402
    change_json,
    make_foreign,
    read_description,
    write_description,
)
from tests.export.toy_architectures import CONFIGS, make_architecture  # noqa: E402
from tests.sdk.foreign_folder import write_dense, write_modules  # noqa: E402
from tests.toys import copy_bundle, make_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def texts(corpus):
    """Short, long beyond every limit, and empty ones."""
    return [*corpus, "".join(corpus) * 5, " 前后有空格 ", "Ça coûte ?", ""]


@pytest.fixture
def check(texts, tmp_path):
    """Write a bundle's folder, open it as anybody does, and compare all vectors; return the model."""

    def run(bundle):
        folder = tmp_path / "folder"
        written = to_sentence_transformers(bundle, folder)
        model = SentenceTransformer(str(folder), device="cpu")
        embedder = Embedder(bundle, variant="fp32")
        for ours, theirs in (
            (embedder.encode_query, model.encode_query),
            (embedder.encode_document, model.encode_document),
        ):
            expected, actual = ours(texts, truncation="silent", normalize_embeddings=True), theirs(texts)
            cosines = (expected * actual).sum(axis=1) / np.linalg.norm(actual, axis=1)
            assert cosines.min() > 0.9999, cosines
        assert 0.9999 < written.min_cosine < 1.00001
        return model

    return run


def first_layers(checkpoint, folder, count):
    """A query tower: the encoder's first layers, with other weights."""
    shutil.copytree(checkpoint, folder)
    model = AutoModel.from_pretrained(folder)
    del model.encoder.layer[count:]
    model.config.num_hidden_layers = count
    model.embeddings.word_embeddings.weight.data *= 1.5
    model.save_pretrained(folder)
    return folder


def test_a_tower_and_its_encoder_are_a_router(check, tmp_path):
    bundle = copy_bundle("tower-bundle-v1", tmp_path / "bundle")
    model = check(bundle)
    assert type(model[0]).__name__ == "Router"
    types = json.loads((tmp_path / "folder/router_config.json").read_text())["types"].values()
    assert all(name.startswith("sentence_transformers.") for name in types)
    modes = {path.stat().st_mode for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert len(modes) == 1  # whoever reads one file reads all
    assert model.similarity_fn_name == "cosine"
    assert model.max_seq_length == 256
    assert model.get_embedding_dimension() == 32
    queries, documents = (encode(["大宅门演员表"]) for encode in (model.encode_query, model.encode_document))
    assert abs(float(queries[0] @ documents[0])) < 0.9999  # two encoders


@pytest.mark.parametrize("name", ["encoder-bundle-v1", "native-bundle-v1"])
def test_an_encoder_alone_is_a_plain_folder_that_relsdk_exports_again(check, tmp_path, corpus, name):
    bundle = copy_bundle(name, tmp_path / "bundle")
    model = check(bundle)
    assert [type(part).__name__ for part in model] == ["Transformer", "Pooling", "Normalize"]
    again = export_encoder(tmp_path / "folder", tmp_path / "again", variants=["fp32"])
    first = Embedder(bundle, variant="fp32")
    np.testing.assert_allclose(
        Embedder(again.path).encode_query(corpus), first.encode_query(corpus), atol=1e-6
    )


def test_the_page_runs(relsdk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy_bundle("tower-bundle-v1", tmp_path / "bundle")
    page = Path(__file__).resolve().parents[2] / "docs/integrations/sentence-transformers.md"
    command, code = re.findall(r"(?ms)^```(?:python)?\n(.*?)^```", page.read_text(encoding="utf-8"))
    assert relsdk(*command.split()[1:])[0] == 0
    exec(compile(code, str(page), "exec"), {})
    embedder = Embedder(tmp_path / "bundle", variant="fp32")
    expected = embedder.encode_query("大宅门演员表") @ embedder.encode_document(
        "大宅门演员表 陈宝国、斯琴高娃"
    )
    assert f"[[{expected:.4f}" in capsys.readouterr().out.replace("tensor(", "")


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_every_architecture_come_back(name, check, corpus, tmp_path):
    checkpoint = make_architecture(name, tmp_path / "checkpoint", corpus)
    check(export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"]).path)


def test_a_cut_bundle_with_a_tower(check, corpus, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", pooling="cls", normalize=False)
    tower = first_layers(checkpoint, tmp_path / "tower", 1)
    cuts = EncoderCuts(vocabulary_from=corpus, dimension=16, layers=[1])
    bundle = export_encoder(checkpoint, tmp_path / "bundle", cuts=cuts, query_tower=tower, variants=["fp32"])
    model = check(bundle.path)
    assert model.get_embedding_dimension() == 16


def test_a_dense_layer_comes_along(check, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    draw = np.random.default_rng(0)
    write_dense(checkpoint / "2_Dense", draw.normal(size=(12, 32)), draw.normal(size=12), "activation.Tanh")
    write_modules(checkpoint, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")])
    change_json(checkpoint / "1_Pooling/config.json", word_embedding_dimension=32)
    model = check(export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"]).path)
    assert [type(part).__name__ for part in model] == ["Transformer", "Pooling", "Dense"]


def test_the_command_says_what_it_wrote(relsdk, fails, tmp_path):
    bundle = copy_bundle("tower-bundle-v1", tmp_path / "bundle")
    command = ("model", "to-sentence-transformers", bundle, tmp_path / "folder")
    code, out, err = relsdk(*command, "--json")
    assert code == 0, err
    assert json.loads(out)["kind"] == "Router"
    assert "exists and is not empty; pass --overwrite" in fails(*command)
    assert relsdk(*command, "--overwrite")[0] == 0
    # Whoever's folder: also with --overwrite.
    assert "nothing was touched" in fails(*command[:3], bundle, "--overwrite")


def test_what_has_no_torch_weights_to_give_is_refused(fails, tmp_path):
    def refused(bundle):
        line = fails("model", "to-sentence-transformers", bundle, tmp_path / "folder")
        assert not (tmp_path / "folder").exists()
        return line

    assert "is a scorer bundle" in refused(copy_bundle("scorer-bundle-v1", tmp_path / "scorer"))
    int8 = copy_bundle("encoder-bundle-v1", tmp_path / "int8", variants=["int8_any"])
    assert "no fp32 file" in refused(int8)
    assert "was not made by relsdk" in refused(
        make_foreign(copy_bundle("encoder-bundle-v1", tmp_path / "theirs"))
    )
    damaged = copy_bundle("encoder-bundle-v1", tmp_path / "damaged")
    with (damaged / "onnx/model.onnx").open("r+b") as stream:
        stream.seek(-100, 2)
        stream.write(b"damage")
    assert "is not the file that was exported" in refused(damaged)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_attention_heads": 2}, "give other vectors than its fp32 file"),
        ({"intermediate_size": 48}, "of an encoder of another size"),
        ({"num_hidden_layers": 1}, "config.json says 1"),
        ({"model_type": "distilbert"}, "is not a graph that this version writes for a distilbert"),
        ({"model_type": "nonsense"}, "of no architecture that transformers has"),
    ],
)
def test_a_configuration_of_another_model_writes_nothing(change, reason, fails, tmp_path):
    bundle = copy_bundle("encoder-bundle-v1", tmp_path / "bundle")
    change_json(bundle / "config.json", **change)
    content = read_description(bundle)
    content["files"]["config.json"] = file_sha256(bundle / "config.json")
    write_description(bundle, content)
    assert reason in fails("model", "to-sentence-transformers", bundle, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
