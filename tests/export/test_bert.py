"""Graphs built from weights: transformers' own forward, and torch's traced graph, are the oracles."""

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from relsdk.bundle import DenseLayer, EncoderSettings, ScorerSettings
from relsdk_checkpoint.loading import keep_layers
from relsdk_export.int8.activations import measure_activations
from relsdk_export.int8.quantize import quantize_int8
from relsdk_export.onnx.bert import encoder_graph, scorer_graph
from relsdk_export.onnx.convert import PairClassifier, SentenceEncoder
from relsdk_export.onnx.fusion import fuse_attention
from relsdk_export.onnx.graphs import check_graph, save_program
from relsdk_export.onnx.write import trace

KINDS = ("Bert", "Roberta", "XLMRoberta")
POOLINGS = ("cls", "lasttoken", "mean", "max", "weightedmean", "mean_sqrt_len_tokens")
VOCABULARY, LIMIT, PAD = 60, 40, 1


def make_transformer(kind="Bert", part="Model", **changes):
    """Return a model of random weights, with biases and gains that are random, too."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    arguments = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LIMIT + 2,
        "pad_token_id": PAD,
        "initializer_range": 0.3,
        "attn_implementation": "eager",
        **sizes,
        **changes,
    }
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}{'' if part == 'Model' else 'For'}{part}")(
        getattr(transformers, f"{kind}Config")(**arguments)
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.3)
    return model.eval()


def make_encoder(transformer, *, pooling="mean", normalize=True, dense=()):
    width = len(dense[-1].bias) if dense else transformer.config.hidden_size
    settings = EncoderSettings(dimension=width, max_tokens=LIMIT, pooling=pooling, normalize=normalize)
    return SentenceEncoder(transformer, settings, dense).eval()


def inputs(types=False):
    """Texts of several lengths, one of them a single token, with padding behind them."""
    rng = np.random.default_rng(0)
    lengths = (LIMIT, 17, 1, 5)
    ids = np.full((len(lengths), LIMIT), PAD, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(2, VOCABULARY, length)
        mask[row, :length] = 1
    feed = {"input_ids": ids, "attention_mask": mask}
    if types:
        feed["token_type_ids"] = (np.cumsum(ids == 7, axis=1) > 0) * mask
    return feed


def run(path, feed):
    """Run a graph as `ModelSession` does; outputs by name."""
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
    return dict(zip((item.name for item in session.get_outputs()), session.run(None, feed), strict=True))


def save(graph, path):
    save_program(graph, path)
    check_graph(path)
    return path


def assert_gives_what_torch_gives(encoder, folder):
    feed = inputs()
    for tokens in (LIMIT, 6, 1):  # lengths are dynamic
        part = {name: values[:, :tokens] for name, values in feed.items()}
        got = run(save(encoder_graph(encoder), folder / "model.onnx"), part)
        with torch.inference_mode():
            hidden, vectors = encoder(*map(torch.from_numpy, part.values()))
        np.testing.assert_allclose(got["sentence_embedding"], vectors.numpy(), rtol=1e-5, atol=2e-6)
        if encoder.cut is None:
            real = part["attention_mask"].astype(bool)
            np.testing.assert_allclose(
                got["last_hidden_state"][real], hidden.numpy()[real], rtol=1e-5, atol=2e-5
            )
        else:
            assert list(got) == ["sentence_embedding"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 3, "intermediate_size": 40},
        {"hidden_act": "relu", "type_vocab_size": 1, "num_hidden_layers": 1},
        {"layer_norm_eps": 0.05, "pad_token_id": 0, "max_position_embeddings": 64},
    ],
    ids=["plain", "wide", "relu", "eps"],
)
def test_configurations_give_transformers_vectors(kind, changes, tmp_path):
    assert_gives_what_torch_gives(make_encoder(make_transformer(kind, **changes)), tmp_path)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling(pooling, normalize, tmp_path):
    encoder = make_encoder(make_transformer(num_hidden_layers=1), pooling=pooling, normalize=normalize)
    assert_gives_what_torch_gives(encoder, tmp_path)


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "Sigmoid"])
def test_dense_layers_and_a_cut_dimension(activation, tmp_path):
    rng = np.random.default_rng(0)
    dense = [
        DenseLayer(
            rng.normal(size=(behind, before)).astype(np.float32),
            rng.normal(size=behind).astype(np.float32),
            name,
        )
        for behind, before, name in ((24, 32, activation), (16, 24, "Identity"))
    ]
    encoder = make_encoder(make_transformer(num_hidden_layers=1), dense=dense)
    assert_gives_what_torch_gives(encoder, tmp_path)
    encoder.cut = 8
    assert_gives_what_torch_gives(encoder, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_layers_and_a_cut_vocabulary(kind, tmp_path):
    """What cuts leave in the module counts, not what its configuration once said."""
    transformer = make_transformer(kind, num_hidden_layers=4)
    keep_layers(transformer, [0, 3])
    kept = torch.tensor([0, 1, *range(10, VOCABULARY)])
    smaller = torch.nn.Embedding.from_pretrained(transformer.get_input_embeddings().weight[kept])
    transformer.set_input_embeddings(smaller)
    encoder = make_encoder(transformer)
    graph = encoder_graph(encoder)
    assert sum(node.op_type == "MultiHeadAttention" for node in graph.graph) == 2
    assert graph.graph.initializers["embeddings.word.weight"].shape[0] == len(kept)
    feed = {**inputs(), "input_ids": np.minimum(inputs()["input_ids"], len(kept) - 1)}
    got = run(save(graph, tmp_path / "model.onnx"), feed)["sentence_embedding"]
    with torch.inference_mode():
        _, expected = encoder(*map(torch.from_numpy, feed.values()))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("labels", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_scorers_give_transformers_logits(kind, labels, types, tmp_path):
    transformer = make_transformer(kind, "SequenceClassification", num_labels=labels)
    model = PairClassifier(transformer, ScorerSettings("regression", LIMIT), uses_types=types).eval()
    feed = inputs(types)
    got = run(save(scorer_graph(model), tmp_path / "model.onnx"), feed)
    with torch.inference_mode():
        expected = transformer(**{name: torch.from_numpy(values) for name, values in feed.items()}).logits
    assert list(got) == ["logits"]
    np.testing.assert_allclose(got["logits"], expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Bert", {"hidden_act": "gelu_new"}),
        ("Bert", {"is_decoder": True}),
        ("Roberta", {"is_decoder": True, "add_cross_attention": True}),
        ("Electra", {}),
    ],
)
def test_what_is_not_known_is_left_to_torch(kind, changes):
    assert encoder_graph(make_encoder(make_transformer(kind, **changes))) is None


def test_a_scorer_of_another_kind_is_left_to_torch():
    transformer = make_transformer("Electra", "SequenceClassification")
    model = PairClassifier(transformer, ScorerSettings("regression", LIMIT), uses_types=False)
    assert scorer_graph(model) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_traced_graph_has_the_same_bits(kind, tmp_path):
    """In fp32 and in int8, whose scales are measured on each graph."""
    encoder = make_encoder(make_transformer(kind))
    graphs = {"built": encoder_graph(encoder), "traced": fuse_attention(trace(encoder))}
    feed, got = inputs(), {}
    for name, graph in graphs.items():
        exact, small = save(graph, tmp_path / f"{name}.onnx"), tmp_path / f"{name}_int8.onnx"
        quantize_int8(exact, {"avx2": small}, measure_activations(exact, [feed]))
        got[name] = [run(path, feed) for path in (exact, small)]
    for built, traced in zip(got["built"], got["traced"], strict=True):
        assert list(built) == list(traced) == ["last_hidden_state", "sentence_embedding"]
        for name in built:
            np.testing.assert_array_equal(built[name], traced[name])
