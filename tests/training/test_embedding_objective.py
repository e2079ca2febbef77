"""The objective of embedding training: batches in chunks, negatives, widths."""

from pathlib import Path

import numpy as np
import pytest
import torch

from relsdk.formats import write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import DataConfig, EmbedConfig, LossConfig, RunConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.objectives.embedding import EmbeddingObjective


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs of the sample world, split by query."""
    world = generate(seed=11, n_documents=600, n_queries=150)
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "dev"):
        write_pairs(folder / f"{split}.jsonl", world.split({"train": "train", "dev": "test"}[split]))
    return folder


@pytest.fixture
def settings(files, toy_checkpoint):
    return [
        f"data.train={files / 'train.jsonl'}",
        f"data.dev={files / 'dev.jsonl'}",
        f"model.checkpoint={toy_checkpoint}",
        "run.batch_size=32",
    ]


def objective_of(overrides):
    """Return the objective that `train_embed` would train."""
    config = load_config(EmbedConfig, None, overrides)
    splits = load_splits(config.data, 0)
    encoder = TextEncoder.load(Path(config.model.checkpoint))
    return EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)


def test_chunks_give_the_same_gradient(settings):
    gradients = []
    for chunk in (0, 5):
        objective = objective_of([*settings, f"run.chunk={chunk}", "loss.cosent=1"])
        objective.module.eval()  # dropout draws differ between chunks and whole batches
        loss, _ = objective.loss(objective.batches(0)[0], torch.device("cpu"))
        loss.backward()
        gradients.append({name: p.grad for name, p in objective.module.named_parameters()})
    assert gradients[0]["encoder.transformer.embeddings.word_embeddings.weight"].abs().max() > 0.01
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_the_full_width_is_always_trained(settings):
    """A recipe's dimensions are those of narrower encoders."""
    for dims, expected in (("[]", (32,)), ("[8, 16]", (8, 16, 32)), ("[8, 32]", (8, 32))):
        assert objective_of([*settings, f"loss.matryoshka_dims={dims}"]).dims == expected


def test_documents_judged_relevant_elsewhere_are_no_negatives(settings, files, tmp_path):
    """(a, x) and (b, y) share a batch, and y was judged relevant to a, too: in another batch."""
    write_pairs(
        tmp_path / "train.jsonl",
        [
            LabelledPair(query, Document(title, title), level)
            for query, title, level in [("a", "x", 3), ("b", "y", 3), ("a", "y", 2), ("b", "x", 0)]
        ],
    )
    overrides = [*settings, f"data.train={tmp_path / 'train.jsonl'}", "run.group=false", "run.batch_size=2"]
    objective = objective_of(overrides)
    queries, documents = torch.tensor([0, 1]), torch.tensor([0, 1])  # a, b and x, y
    assert objective._positives(queries, documents).tolist() == [[True, True], [False, True]]


def test_a_text_that_occurs_twice_in_a_batch_is_encoded_once(files, toy_checkpoint):
    data = DataConfig(train=str(files / "train.jsonl"), dev=str(files / "dev.jsonl"))
    splits = load_splits(data, 0)
    encoder = TextEncoder.load(toy_checkpoint, dropout=0.0)
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, LossConfig(), RunConfig(batch_size=32))
    batch = objective.batches(0)[0]
    rows, tokens = splits.train.pairs.query_of[batch], objective.train.queries
    assert len(np.unique(rows)) < len(rows)
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    vectors = objective._encode(encoder, tokens, rows, torch.device("cpu"))
    assert sum(seen) == len(np.unique(rows))
    for row, vector in zip(rows, vectors, strict=True):
        (alone,) = objective._encode(encoder, tokens, np.array([row]), torch.device("cpu"))
        torch.testing.assert_close(vector, alone, atol=1e-5, rtol=1e-4)
