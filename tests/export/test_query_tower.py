"""A bundle with two encoders: documents keep the large one's vectors, queries have a small one."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModel

from relsdk import Embedder, Index, Searcher
from relsdk.bundle import read_bundle, read_encoder_settings
from relsdk.cli import main
from relsdk.errors import BundleError, InputError, QualityError
from relsdk_export.encoder import EncoderCuts, export_encoder
from relsdk_export.gate.parity import torch_vectors
from relsdk_export.onnx.convert import load_encoder
from relsdk_export.onnx.write import write_onnx


@pytest.fixture(scope="module")
def tower(toy_checkpoint, tmp_path_factory):
    """The toy encoder without its second layer."""
    folder = tmp_path_factory.mktemp("tower") / "tower"
    shutil.copytree(toy_checkpoint, folder)
    model = AutoModel.from_pretrained(folder)
    del model.encoder.layer[1]
    model.config.num_hidden_layers = 1
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(toy_checkpoint, tower, tmp_path_factory):
    return export_encoder(toy_checkpoint, tmp_path_factory.mktemp("b") / "bundle", query_tower=tower).path


def test_queries_are_the_towers_and_documents_the_encoders(toy_checkpoint, toy_bundle, tower, bundle, corpus):
    both, alone = (Embedder(path, variant="fp32") for path in (bundle, toy_bundle))
    np.testing.assert_array_equal(both.encode_document(corpus), alone.encode_document(corpus))
    model = load_encoder(tower, read_encoder_settings(tower))
    expected = torch_vectors(model, ["query: " + text for text in corpus])
    np.testing.assert_allclose(both.encode_query(corpus), expected, atol=1e-5)
    np.testing.assert_allclose(both.encode(corpus, prompt_name="query"), expected, atol=1e-5)
    assert np.abs(both.encode_query(corpus) - alone.encode_query(corpus)).max() > 1e-2
    # A prompt of one's own says nothing about queries.
    own = both.encode(corpus, prompt="query: ")
    np.testing.assert_allclose(own, alone.encode(corpus, prompt="query: "), atol=1e-6)


def test_every_variant_has_both_graphs_under_one_fingerprint(bundle, toy_bundle):
    read = read_bundle(bundle)
    assert read.fingerprint != read_bundle(toy_bundle).fingerprint
    files = {path.name for path in (bundle / "onnx").iterdir()}
    assert files == {name for v in read.variants for name in (v.file[5:], v.query_file[5:])}
    for variant in read.variants:
        size = sum((bundle / name).stat().st_size for name in read.variant_files(variant))
        assert variant.quality["bytes"] == size
    assert (bundle / "onnx/query_model.onnx").stat().st_size < (bundle / "onnx/model.onnx").stat().st_size
    assert read.provenance["query_tower"] == "tower"
    assert "encoder of their own" in (bundle / "README.md").read_text()


@pytest.mark.parametrize("variant", ["fp32", "int8_avx2"])
def test_it_verifies_and_a_query_is_the_same_in_any_batch(bundle, corpus, variant):
    embedder = Embedder(bundle, variant=variant)
    assert embedder.verify().passed
    alone = np.stack([embedder.encode_query(text) for text in corpus])
    np.testing.assert_allclose(embedder.encode_query(corpus, batch_size=7), alone, atol=1e-6)


def test_it_searches(bundle, tmp_path):
    embedder = Embedder(bundle)
    documents = [{"id": str(n), "title": title} for n, title in enumerate(["红烧肉的做法", "大理旅游攻略"])]
    searcher = Searcher(embedder, Index.build(tmp_path / "index", documents, embedder))
    assert len(searcher.search("红烧肉怎么做", k=2)) == 2


def test_cuts_reach_both(toy_checkpoint, tower, corpus, tmp_path):
    cuts = EncoderCuts(vocabulary_from=corpus, dimension=16)
    made = export_encoder(toy_checkpoint, tmp_path / "cut", cuts=cuts, query_tower=tower, variants=["fp32"])
    embedder = Embedder(made.path)
    assert embedder.encode_query(corpus).shape == (len(corpus), 16)
    whole = Embedder(
        export_encoder(toy_checkpoint, tmp_path / "w", query_tower=tower, variants=["fp32"]).path
    )
    expected = whole.encode_query(corpus)[:, :16]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.encode_query(corpus), expected, atol=1e-5)


def test_the_command(toy_checkpoint, tower, tmp_path, capsys):
    target = str(tmp_path / "b")
    options = ["--variant", "fp32", "--query-tower", str(tower)]
    main(["export", "encoder", str(toy_checkpoint), target, *options])
    assert (tmp_path / "b" / "onnx" / "query_model.onnx").is_file()


def test_a_tower_exported_wrongly_does_not_pass(toy_checkpoint, tower, tmp_path, monkeypatch):
    def write(model, path):
        if path.name.startswith("query"):
            model.pooling = "cls"
        write_onnx(model, path)

    monkeypatch.setattr("relsdk_export.encoder.write_onnx", write)
    with pytest.raises(QualityError, match="with the query prompt"):
        export_encoder(toy_checkpoint, tmp_path / "out", query_tower=tower, variants=["fp32"])
    assert not (tmp_path / "out").exists()


def test_a_tower_of_another_encoder_is_refused(toy_checkpoint, checkpoint_factory, tower, tmp_path):
    wide = checkpoint_factory(tmp_path / "wide", hidden=64)
    with pytest.raises(InputError, match="dimensions"):
        export_encoder(toy_checkpoint, tmp_path / "out", query_tower=wide)
    prompted = shutil.copytree(tower, tmp_path / "prompted")
    path = prompted / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"query": "q: "}}))
    with pytest.raises(InputError, match="query prompt"):
        export_encoder(toy_checkpoint, tmp_path / "out", query_tower=prompted)
    other = shutil.copytree(tower, tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match="differs"):
        export_encoder(toy_checkpoint, tmp_path / "out", query_tower=other)


def test_a_missing_tower_file_is_said(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "onnx" / "query_model.onnx").unlink()
    with pytest.raises(BundleError, match=r"query_model\.onnx is missing"):
        read_bundle(copy)
