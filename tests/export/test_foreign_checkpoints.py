"""Checkpoints with modules and settings of sentence-transformers that are out of the ordinary."""

import shutil

import numpy as np
import pytest

from relsdk import Embedder
from relsdk.bundle import read_dense, read_encoder_settings
from relsdk.errors import InputError
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_export.cuts.checkpoint import cut_checkpoint
from relsdk_export.encoder import EncoderCuts, export_encoder
from tests.bundle_changes import change_json
from tests.sdk.foreign_folder import write_dense, write_modules

PROMPTS = "config_sentence_transformers.json"


@pytest.fixture
def checkpoint(toy_checkpoint, tmp_path):
    """The toy with a Dense layer and without a Normalize module."""
    folder = shutil.copytree(toy_checkpoint, tmp_path / "checkpoint")
    rng = np.random.default_rng(0)
    write_dense(folder / "2_Dense", rng.normal(size=(12, 32)), rng.normal(size=12), "activation.Tanh")
    write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")])
    return folder


@pytest.fixture
def expected(toy_checkpoint, checkpoint, corpus, tmp_path):
    """The layer computed by hand behind the toy's own mean-pooled vectors, which the toy's export gives."""
    plain = shutil.copytree(toy_checkpoint, tmp_path / "plain")
    write_modules(plain, [("", "Transformer"), ("1_Pooling", "Pooling")])
    pooled = Embedder(export_encoder(plain, tmp_path / "pooled", variants=["fp32"]).path).encode(corpus)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(12, 32)), rng.normal(size=12)
    return np.tanh(pooled @ weight.T + bias)


def test_a_dense_layer_is_in_the_bundle(checkpoint, expected, corpus, tmp_path):
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32", "int8_any"])
    np.testing.assert_allclose(Embedder(bundle.path, variant="fp32").encode(corpus), expected, atol=1e-4)
    got = Embedder(bundle.path, variant="int8_any").encode(corpus)
    cosines = (got * expected).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99
    assert (bundle.path / "2_Dense/model.safetensors").is_file()  # for who pools the token vectors themselves


def test_a_cut_of_the_folder_is_in_the_bundle(checkpoint, expected, corpus, tmp_path):
    change_json(checkpoint / PROMPTS, truncate_dim=5)
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"])
    assert bundle.encoder_settings.dimension == 5
    np.testing.assert_allclose(Embedder(bundle.path).encode(corpus), expected[:, :5], atol=1e-4)
    wider = export_encoder(checkpoint, tmp_path / "wider", variants=["fp32"], cuts=EncoderCuts(dimension=7))
    np.testing.assert_allclose(Embedder(wider.path).encode(corpus), expected[:, :7], atol=1e-4)


def test_a_checkpoint_with_fewer_pieces_keeps_its_layer(checkpoint, corpus, tmp_path):
    cut_checkpoint(checkpoint, tmp_path / "cut", corpus)
    assert read_encoder_settings(tmp_path / "cut") == read_encoder_settings(checkpoint)
    bundle = export_encoder(tmp_path / "cut", tmp_path / "bundle", variants=["fp32"])
    whole = export_encoder(checkpoint, tmp_path / "whole", variants=["fp32"])
    np.testing.assert_allclose(
        Embedder(bundle.path).encode(corpus), Embedder(whole.path).encode(corpus), atol=1e-4
    )


def test_a_checkpoint_with_a_layer_is_read_and_written_for_training(checkpoint, expected, corpus, tmp_path):
    (tmp_path / "saved").mkdir()
    TextEncoder.load(checkpoint).save(tmp_path / "saved")
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    for folder in (checkpoint, tmp_path / "saved"):
        vectors = TextEmbedder(folder)._embed("", corpus)
        np.testing.assert_allclose(vectors, unit, atol=1e-5)
    read = [read_dense(folder, "2_Dense") for folder in (checkpoint, tmp_path / "saved")]
    assert read[0].activation == read[1].activation == "Tanh"
    np.testing.assert_array_equal(read[0].weight, read[1].weight)
    np.testing.assert_array_equal(read[0].bias, read[1].bias)


def test_other_weights_of_a_layer_are_another_model(checkpoint, tmp_path):
    first = export_encoder(checkpoint, tmp_path / "first", variants=["fp32"])
    shutil.rmtree(checkpoint / "2_Dense")
    write_dense(checkpoint / "2_Dense", np.eye(12, 32), np.zeros(12), "activation.Tanh")
    assert export_encoder(checkpoint, tmp_path / "b", variants=["fp32"]).fingerprint != first.fingerprint


def test_training_refuses_what_it_does_not_compute(checkpoint):
    write_modules(checkpoint, [("", "Transformer"), ("1_Pooling", "Pooling")])
    change_json(checkpoint / "1_Pooling/config.json", pooling_mode="max")
    with pytest.raises(InputError, match="has max pooling"):
        TextEncoder.load(checkpoint)
