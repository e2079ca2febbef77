"""The same vectors and thresholds as the libraries that users come from."""

import shutil
import warnings

import numpy as np
import pytest

from relsdk import Embedder
from relsdk_export.encoder import export_encoder
from tests.bundle_changes import change_json, drop_output

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def sentence_transformers():
    return pytest.importorskip("sentence_transformers")


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the peer warns of is not ours
        yield


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_sentence_transformers_folder_encodes_alike(
    sentence_transformers, quiet, checkpoint_factory, tmp_path, corpus, pooling, normalize
):
    checkpoint = checkpoint_factory(tmp_path / "checkpoint", pooling=pooling, normalize=normalize)
    peer = sentence_transformers.SentenceTransformer(str(checkpoint), device="cpu")
    peer.save_pretrained(
        str(tmp_path / "saved")
    )  # the folder as the peer writes it, new pooling form included
    texts = [*corpus, "", "，".join(corpus * 3)]
    bundle = export_encoder(tmp_path / "saved", tmp_path / "bundle", variants=["fp32"])
    ours = Embedder(bundle.path, threads=1)
    expected = peer.encode(texts, batch_size=4)
    np.testing.assert_allclose(ours.encode(texts, truncation="silent"), expected, atol=1e-4)
    for name in ("query", "document"):
        expected = peer.encode(texts, prompt_name=name)
        np.testing.assert_allclose(
            ours.encode(texts, prompt_name=name, truncation="silent"), expected, atol=1e-4
        )


def test_a_pooling_folder_of_another_name_is_read(
    sentence_transformers, quiet, checkpoint_factory, tmp_path, corpus
):
    checkpoint = checkpoint_factory(tmp_path / "checkpoint", pooling="cls")
    (checkpoint / "1_Pooling").rename(checkpoint / "1_MyPooling")
    modules = checkpoint / "modules.json"
    modules.write_text(modules.read_text().replace("1_Pooling", "1_MyPooling"))
    peer = sentence_transformers.SentenceTransformer(str(checkpoint), device="cpu")
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"])
    ours = Embedder(bundle.path, threads=1)
    np.testing.assert_allclose(ours.encode(corpus), peer.encode(corpus), atol=1e-4)


def test_our_bundle_opens_in_sentence_transformers(
    sentence_transformers, quiet, toy_bundle, toy_checkpoint, tmp_path, corpus
):
    """With the checkpoint's weights beside our configuration files."""
    folder = shutil.copytree(toy_bundle, tmp_path / "bundle")
    shutil.copy(toy_checkpoint / "model.safetensors", folder)
    peer = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = Embedder(toy_bundle, variant="fp32", threads=1)
    np.testing.assert_allclose(ours.encode_query(corpus), peer.encode_query(corpus), atol=1e-4)
    np.testing.assert_allclose(ours.encode_document(corpus), peer.encode_document(corpus), atol=1e-4)


def test_ubinary_and_truncation_are_the_peers(sentence_transformers, quiet, toy_bundle, corpus):
    from sentence_transformers.quantization import quantize_embeddings

    vectors = Embedder(toy_bundle, threads=1).encode(corpus)
    expected = quantize_embeddings(vectors, "ubinary")
    np.testing.assert_array_equal(
        Embedder(toy_bundle, threads=1).encode(corpus, precision="ubinary"), expected
    )


@pytest.mark.parametrize(
    ("variant", "output"), [("fp32", None), ("fp32", "sentence_embedding"), ("int8_avx2", None)]
)
def test_our_bundle_opens_in_fastembed(quiet, toy_bundle, corpus, variant, output):
    """As a custom model from a local folder: pooled by fastembed, or inside the graph."""
    fastembed = pytest.importorskip("fastembed")
    from fastembed.common.model_description import ModelSource, PoolingType

    ours = Embedder(toy_bundle, variant=variant, threads=1)
    name = f"toy/{variant}-{output}"
    fastembed.TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN if output is None else PoolingType.DISABLED,
        normalization=output is None,
        sources=ModelSource(hf=name),
        dim=ours.dimension,
        model_file=ours.variant.file,
        output_name=output,
    )
    peer = fastembed.TextEmbedding(name, specific_model_path=str(toy_bundle), threads=1)
    texts = [*corpus, "", "，".join(corpus * 3)]
    expected = np.stack(list(peer.embed(texts, batch_size=4)))
    np.testing.assert_allclose(ours.encode(texts, truncation="silent"), expected, atol=1e-4)


def test_our_bundle_opens_in_sentence_transformers_onnx_backend(
    sentence_transformers, quiet, toy_bundle, corpus
):
    """Its ONNX backend needs optimum-onnx, which pins a transformers of its own."""
    pytest.importorskip("optimum.onnxruntime", reason="the ONNX backend needs optimum-onnx")
    peer = sentence_transformers.SentenceTransformer(
        str(toy_bundle), device="cpu", backend="onnx", model_kwargs={"file_name": "onnx/model.onnx"}
    )
    ours = Embedder(toy_bundle, variant="fp32", threads=1)
    np.testing.assert_allclose(ours.encode_query(corpus), peer.encode_query(corpus), atol=1e-4)


@pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers:DeprecationWarning")
def test_settings_mean_what_they_mean_to_sentence_transformers(tmp_path, toy_checkpoint, corpus):
    """Exported, they survive in the bundle, and so they do in the folder that it is without `relsdk.json`."""
    peer = pytest.importorskip("sentence_transformers")
    from relsdk_export.encoder import export_encoder

    checkpoint = shutil.copytree(toy_checkpoint, tmp_path / "checkpoint")
    change_json(checkpoint / "tokenizer_config.json", truncation_side="left")
    change_json(checkpoint / "sentence_bert_config.json", max_seq_length=7)
    prompts = {"query": "问：", "document": "答：", "x": "又："}
    change_json(checkpoint / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="x")
    bundle = export_encoder(checkpoint, tmp_path / "bundle", variants=["fp32"])
    expected = peer.SentenceTransformer(str(checkpoint), device="cpu")
    foreign = shutil.copytree(
        bundle.path, tmp_path / "foreign", ignore=shutil.ignore_patterns("relsdk.json", "golden.json")
    )
    for folder in (bundle.path, foreign):
        ours = Embedder(folder)
        for name in ("encode", "encode_query", "encode_document"):
            got = getattr(ours, name)(corpus, truncation="silent")
            np.testing.assert_allclose(got, getattr(expected, name)(corpus), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers:DeprecationWarning")
@pytest.mark.parametrize(
    "pooling", ["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"]
)
def test_modules_give_what_sentence_transformers_gives(tmp_path, toy_checkpoint, corpus, pooling):
    """Exported with all in the graph, and as others export it, with the modules behind its token vectors."""
    peer = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    from relsdk_export.encoder import export_encoder

    torch.manual_seed(0)
    modules = [Transformer(str(toy_checkpoint)), Pooling(32, pooling_mode=pooling), Dense(32, 12)]
    model = peer.SentenceTransformer(
        modules=[*modules, *([Normalize()] if pooling == "max" else [])], device="cpu"
    )
    model.save_pretrained(str(tmp_path / "saved"))
    expected = model.encode(corpus)
    exported = export_encoder(tmp_path / "saved", tmp_path / "bundle", variants=["fp32"])
    np.testing.assert_allclose(Embedder(exported.path).encode(corpus), expected, atol=1e-5)
    for name in ("relsdk.json", "golden.json"):
        (exported.path / name).unlink()
    drop_output(exported.path / "onnx/model.onnx", "sentence_embedding")
    np.testing.assert_allclose(Embedder(exported.path).encode(corpus), expected, atol=1e-5)
