"""Every listed architecture exports from random weights, quantises whole, and gives torch's vectors."""

import json
import shutil
from functools import cache
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from relsdk import Embedder
from relsdk.bundle import read_encoder_settings
from relsdk.errors import BundleError
from relsdk_export.encoder import export_encoder
from relsdk_export.gate.parity import torch_vectors
from relsdk_export.onnx.convert import TESTED_ARCHITECTURES, load_encoder
from relsdk_export.pipeline import DEFAULT_VARIANTS
from tests.bundle_changes import make_foreign
from tests.export.toy_architectures import CONFIGS, make_architecture
from tests.toys import exact_variants

# Torch's tracing takes seconds a layer, and these have layers that are all alike.
ONE_LAYER = {
    "distilbert": {"num_hidden_layers": 1},
    "qwen3": {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
}


@pytest.fixture(scope="module")
def architectures(tmp_path_factory, corpus):
    """By name: a checkpoint, its bundle with all variants, and its torch module; each made once."""

    @cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        checkpoint = make_architecture(name, folder / "checkpoint", corpus, **ONE_LAYER.get(name, {}))
        bundle = export_encoder(checkpoint, folder / "bundle")
        model = load_encoder(checkpoint, bundle.settings)
        return SimpleNamespace(name=name, checkpoint=checkpoint, bundle=bundle, model=model)

    return make


# XLM-R is RoBERTa with CLS pooling, as BERT has it; ModernBERT is traced as Qwen3 is, and not fused either.
@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in ("xlm-roberta", "modernbert") else ())
        for name in CONFIGS
    ]
)
def made(request, architectures):
    return architectures(request.param)


def layers_of(made):
    return made.model.transformer.config.num_hidden_layers


def test_the_list_is_what_is_tested():
    assert set(CONFIGS) == set(TESTED_ARCHITECTURES)


def test_limits_are_the_architectures(made):
    """RoBERTa's family leaves the first rows of its position table unused."""
    assert made.bundle.settings.max_tokens == CONFIGS[made.name][3]
    assert made.bundle.settings.pooling == CONFIGS[made.name][2]
    tokenizer = json.loads((made.bundle.path / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == CONFIGS[made.name][3]


def test_batch_and_length_are_dynamic(made):
    """The example that torch traced is 2 texts of 8 tokens; these are not."""
    limit = made.bundle.settings.max_tokens
    session = onnxruntime.InferenceSession(
        str(made.bundle.onnx_path(made.bundle.variant("fp32"))), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    for lengths in ([1], [5], [40], [limit - 1], [limit], [1, 5, limit], [40, 1, 1]):
        ids = np.full((len(lengths), max(lengths)), 1, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, :length] = rng.integers(5, 90, length)
            mask[row, :length] = 1
        got = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        for row, length in enumerate(lengths):
            with torch.inference_mode():
                _, alone = made.model(
                    torch.from_numpy(ids[row : row + 1, :length]), torch.ones((1, length), dtype=torch.int64)
                )
            np.testing.assert_allclose(got[row], alone[0].numpy(), atol=2e-5, err_msg=f"{lengths}, {row}")


def test_the_bundle_gives_torchs_vectors(made, corpus):
    """The export has compared the parity texts; these are others."""
    texts = [*corpus, "的", "，".join(corpus)]
    expected = torch_vectors(made.model, texts)
    for variant in exact_variants(made.bundle):
        got = Embedder(made.bundle.path, variant=variant, threads=1).encode(texts, truncation="silent")
        cosines = (got * expected).sum(axis=1)
        assert cosines.mean() >= (0.9999 if variant == "fp32" else 0.99), variant
        assert cosines.min() >= (0.9999 if variant == "fp32" else 0.98), variant


@pytest.mark.parametrize("variant", DEFAULT_VARIANTS)
def test_a_text_does_not_depend_on_its_batch(made, corpus, variant):
    embedder = Embedder(made.bundle.path, variant=variant, threads=1)
    texts = [*corpus, "", "的", "，".join(corpus * 3)]
    alone = np.stack([embedder.encode(text, truncation="silent") for text in texts])
    for size in (3, len(texts)):
        batched = embedder.encode(texts, batch_size=size, truncation="silent")
        assert np.abs(batched - alone).max() <= 1e-5


def test_attention_is_fused_where_it_is_recognised(made):
    """Rotary positions with sliding windows or grouped keys stay two products and a softmax a layer."""
    fused = made.name not in ("modernbert", "qwen3")
    for variant in made.bundle.variants:
        after = variant.quality["operators"]["after"]
        assert after.get("MultiHeadAttention", 0) == (layers_of(made) if fused else 0)
        assert after.get("Softmax", 0) == (0 if fused else layers_of(made))


def test_no_matrix_product_stays_in_fp32(made):
    """The products of activations with activations, two a layer or fused, are the only ones left.

    And the one that pools by the mean, where the graph is built from weights.
    """
    layers = layers_of(made)
    linear = layers * {"modernbert": 4, "qwen3": 7}.get(made.name, 6)
    between_activations = 2 * layers if made.name in ("modernbert", "qwen3") else 0
    between_activations += made.name == "roberta"
    for variant in made.bundle.variants[1:]:
        operators = variant.quality["operators"]
        assert operators["left"] == 0
        assert operators["quantised"] == linear
        assert operators["after"].get("MatMul", 0) == between_activations
        assert operators["before"]["MatMul"] == between_activations + linear
        assert "MatMulIntegerToFloat" not in operators["before"]
        assert 4 * layers <= operators["after"]["MatMulIntegerToFloat"] <= linear


def test_a_decoder_pools_the_last_real_token(architectures, corpus):
    """Its authors pad on the left; for a causal model, padding on the right of the last token is the same."""
    made = architectures("qwen3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.checkpoint, padding_side="left")
    model = transformers.AutoModel.from_pretrained(made.checkpoint, dtype=torch.float32).eval()
    texts = [*corpus, "", "，".join(corpus * 3)]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    assert tokens["attention_mask"][0, 0] == 0
    assert (tokens["input_ids"][:, -1] == 2).all()  # the end token, in truncated texts too
    with torch.inference_mode():
        hidden = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
    expected = torch.nn.functional.normalize(hidden[:, -1], dim=-1).numpy()
    got = Embedder(made.bundle.path, variant="fp32", threads=1).encode(texts, truncation="silent")
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_golden_vectors_hold(made):
    for variant in exact_variants(made.bundle):
        assert Embedder(made.bundle.path, variant=variant).verify().passed


def test_a_text_without_tokens_has_a_vector_of_its_own(architectures, tmp_path, corpus):
    """Some decoders' tokenizers add nothing, so the empty text has no token."""
    folder = shutil.copytree(architectures("qwen3").bundle.path, tmp_path / "bundle")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))
    make_foreign(folder)  # without hashes
    embedder = Embedder(folder, variant="fp32", threads=1)
    alone = embedder.encode("")
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(embedder.encode([*corpus, ""])[-1], alone, atol=1e-5)


def test_an_encoder_decoder_is_refused_in_one_line(tmp_path, corpus):
    checkpoint = make_architecture("bert", tmp_path / "t5", corpus)
    config = transformers.T5Config(vocab_size=90, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    transformers.T5Model(config).save_pretrained(checkpoint)
    with pytest.raises(BundleError, match=r"is an encoder-decoder \(t5\).*tested architectures") as error:
        export_encoder(checkpoint, tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_a_model_that_needs_more_than_text_is_refused_in_one_line(tmp_path, corpus):
    checkpoint = make_architecture("bert", tmp_path / "vit", corpus)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(checkpoint)
    with pytest.raises(BundleError, match=r"\(vit\) makes no token vectors") as error:
        export_encoder(checkpoint, tmp_path / "bundle")
    assert "\n" not in str(error.value)


def test_an_unknown_module_is_refused(tmp_path, corpus):
    checkpoint = make_architecture("bert", tmp_path / "dense", corpus)
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.LSTM"})
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BundleError, match="names the module 'LSTM'"):
        export_encoder(checkpoint, tmp_path / "bundle")


def test_a_vector_of_another_width_is_refused(tmp_path, corpus):
    checkpoint = make_architecture("bert", tmp_path / "wide", corpus)
    (checkpoint / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 64}')
    with pytest.raises(BundleError, match="vectors of width 32, its configuration says 64"):
        load_encoder(checkpoint, read_encoder_settings(checkpoint))
