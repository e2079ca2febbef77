"""Trainings on labels and opinions: what reaches the losses, which rows come last, and no dev."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_sample import generate
from relsdk_sample.annotator import annotate, write_queries
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import (
    DistillConfig,
    EmbedConfig,
    LossConfig,
    QueryConfig,
    QueryModelConfig,
    RunConfig,
    ScoreConfig,
    TeacherConfig,
)
from relsdk_training.data.lessons import Lesson, load_splits
from relsdk_training.objectives.embedding import EmbeddingObjective
from relsdk_training.objectives.query import QueryObjective
from relsdk_training.objectives.score import ScoreObjective
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.runs.distill import train_distill
from relsdk_training.runs.embed import train_embed
from relsdk_training.runs.query import train_query
from relsdk_training.runs.score import train_score
from relsdk_training.teachers.targets import soft_targets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels, opinions (those of dev correct them) and written queries of the sample world."""
    world, folder = generate(seed=11, n_documents=200, n_queries=60), tmp_path_factory.mktemp("pairs")
    train, dev = world.split("train"), world.split("test")[-150:]
    write_pairs(folder / "train.jsonl", train[:100])
    write_pairs(folder / "weak.jsonl", annotate(train[100:300] + dev))
    documents = [pair.document for pair in train[300:340]]
    write_pairs(folder / "written.jsonl", write_queries(documents, levels=(3, 1)))
    write_pairs(folder / "dev.jsonl", dev)
    return folder


def settings_of(folder, checkpoint, output, *more):
    return [
        f"data.train={folder / 'train.jsonl'}",
        f"data.dev={folder / 'dev.jsonl'}",
        f"data.weak=['{folder / 'weak.jsonl'}']",
        f"data.written=['{folder / 'written.jsonl'}']",
        f"model.checkpoint={checkpoint}",
        f"run.output={output}",
        "run.batch_size=32",
        "run.precision=fp32",
        "run.max_steps=8",
        "optimiser.learning_rate=1e-3",
        *more,
    ]


@pytest.fixture(scope="module")
def splits(folder, toy_checkpoint):
    config = load_config(
        EmbedConfig, None, settings_of(folder, toy_checkpoint, "none", "data.weak_weight=0.5")
    )
    return load_splits(config.data, 0)


def weighing(lesson, weight):
    return Lesson(lesson.pairs, lesson.targets, np.full(len(lesson), weight, dtype=np.float32), lesson.human)


def test_an_encoder_learns_distributions_with_their_weights(splits, toy_checkpoint):
    """InfoNCE of the whole objective, pulled by weight times expected level."""
    lesson, run = splits.train, RunConfig(batch_size=32)
    loss = LossConfig(self_contrast=False, mask_margin=-1.0)
    objective = EmbeddingObjective(
        TextEncoder.load(toy_checkpoint, dropout=0.0), lesson, splits.dev, loss, run
    )
    objective.module.eval()
    batch = next(b for b in objective.batches(0) if not lesson.human[b].all())
    with torch.no_grad():
        found, _ = objective.loss(batch, CPU)
    sides = ((objective.train.queries, "query_of"), (objective.train.documents, "document_of"))
    with torch.no_grad():
        queries, documents = (
            functional.normalize(
                objective._encode(objective.module.encoder, tokens, getattr(lesson.pairs, name)[batch], CPU)
            )
            for tokens, name in sides
        )
    query_keys, document_keys = (torch.from_numpy(getattr(lesson.pairs, name)[batch]) for _, name in sides)
    relevant = objective._positives(query_keys, document_keys)
    labels = torch.from_numpy(lesson.pairs.labels[batch])
    judged = ((query_keys[:, None] == query_keys) & (labels > 0)).float() @ (
        document_keys[:, None] == document_keys
    ).float() > 0
    closed = (relevant | judged).fill_diagonal_(False)
    cosines = (queries @ documents.T / 0.03).masked_fill(closed, -torch.inf)
    costs = cosines.logsumexp(dim=1) - cosines.diagonal()
    pulls = lesson.weights[batch] * (lesson.targets[batch] @ np.arange(4, dtype=np.float32))
    assert found.item() == pytest.approx(float((torch.from_numpy(pulls) * costs).mean()), rel=1e-4)
    assert 0.5 in lesson.weights[batch]


@pytest.mark.parametrize("head", ["categorical", "ordinal"])
def test_a_score_model_learns_distributions_with_their_weights(splits, toy_checkpoint, head):
    lesson, run = splits.train, RunConfig(batch_size=32)
    model = ScoreModel.load(toy_checkpoint, head, dropout=0.0).eval()
    objective = ScoreObjective(model, lesson, splits.dev, run)
    batch = next(b for b in objective.batches(0) if len(set(lesson.weights[b])) > 1)
    with torch.no_grad():
        found, _ = objective.loss(batch, CPU)
    with torch.no_grad():
        logits = torch.from_numpy(objective.logits(objective.train_tokens, CPU)[batch]).double()
    targets = torch.from_numpy(lesson.targets[batch]).double()
    if head == "ordinal":
        at_least = targets.flip(1).cumsum(dim=1).flip(1)[:, 1:]
        costs = -(at_least * functional.logsigmoid(logits) + (1 - at_least) * functional.logsigmoid(-logits))
    else:
        costs = -targets * logits.log_softmax(dim=1)
    weights = torch.from_numpy(lesson.weights[batch]).double()
    assert found.item() == pytest.approx(float((weights * costs.sum(dim=1)).mean()), rel=1e-5)


def test_a_query_model_learns_with_weights_and_no_text_comes_last(splits, toy_checkpoint):
    lesson, run = splits.train, RunConfig(batch_size=16)
    settings = QueryModelConfig(
        checkpoint=str(toy_checkpoint), decoder_layers=(0, 1), contrast=0.5, dropout=0.0
    )
    torch.manual_seed(0)
    writer = QueryWriter.load(settings).eval()
    rows, losses = np.arange(16), []
    for weight in (1.0, 3.0):
        objective = QueryObjective(writer, weighing(lesson, weight), splits.dev, run, ["红烧肉", "攻略"])
        torch.manual_seed(1)
        losses.append(objective.loss(rows, CPU)[0].item())
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
    rows = np.concatenate(objective.batches(0, human=True))
    assert sorted(rows.tolist()) == np.flatnonzero(lesson.human).tolist()
    assert len(np.concatenate(objective.batches(0))) == len(lesson) + 2


def test_batches_of_people_have_their_rows_alone_and_others_have_all(splits, toy_checkpoint):
    lesson = splits.train
    encoder, model = TextEncoder.load(toy_checkpoint), ScoreModel.load(toy_checkpoint, "categorical")
    for group in (True, False):
        run = RunConfig(batch_size=32, group=group)
        embed = EmbeddingObjective(encoder, lesson, splits.dev, LossConfig(), run)
        for objective in (embed, ScoreObjective(model, lesson, splits.dev, run)):
            assert sorted(np.concatenate(objective.batches(1)).tolist()) == list(range(len(lesson)))
            rows = np.concatenate(objective.batches(1, human=True))
            assert sorted(rows.tolist()) == np.flatnonzero(lesson.human).tolist()


def test_teachers_move_opinions_as_they_move_labels(splits, toy_checkpoint, tmp_path):
    run = RunConfig(output=str(tmp_path), precision="fp32")

    def taught(weight):
        config = TeacherConfig((str(toy_checkpoint),), weight=weight)
        return soft_targets(config, splits.train, [("红烧肉", "红烧肉的做法")], splits.dev, run)

    lesson, half, whole = splits.train, taught(0.5), taught(1.0)
    count = len(lesson)
    np.testing.assert_allclose(
        half.targets[:count], 0.5 * lesson.targets + 0.5 * whole.targets[:count], atol=1e-6
    )
    assert half.weights.tolist() == [*lesson.weights.tolist(), 1.0]
    assert half.human.tolist() == [*lesson.human.tolist(), False]


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_resume_among_peoples_labels_is_exact(folder, toy_checkpoint, tmp_path):
    def config(output, human_last=0.5):
        return load_config(
            EmbedConfig,
            None,
            settings_of(
                folder,
                toy_checkpoint,
                tmp_path / output,
                f"data.human_last={human_last}",
                "run.checkpoint_every=2",
                "loss.hard_negatives=2",
                "loss.wasserstein=1",
                "model.max_tokens=24",
                "run.batch_size=8",
            ),
        )

    train_embed(config("whole"))

    class Stopped(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 7:
            raise Stopped

    with pytest.raises(Stopped):
        train_embed(config("halves"), on_step=stop)
    torch.manual_seed(9)
    assert train_embed(config("halves"), resume=True).steps == 8
    assert same(weights(tmp_path / "whole/last"), weights(tmp_path / "halves/last"))
    # Another schedule is another run.
    shutil.rmtree(tmp_path / "halves")
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    with pytest.raises(InputError, match="of another configuration or other data"):
        train_embed(config("halves", human_last=0.25), resume=True)


def test_an_encoder_without_labels_or_dev_on_the_command_line(folder, toy_checkpoint, tmp_path, relsdk):
    left_out = ("data.train", "data.dev")
    options = [s for s in settings_of(folder, toy_checkpoint, tmp_path / "run") if not s.startswith(left_out)]
    arguments = [part for setting in options for part in ("--set", setting)]
    code, out, err = relsdk("train", "embed", *arguments)
    assert code == 0, err
    assert "finished after 8 steps" in out
    assert "nothing is measured without data.dev, and the last step is the best" in out
    assert "relsdk export encoder" in out
    assert "dev:   none; nothing is measured, and the last step is best/" in err
    assert "350 opinions, taken as they are: 0 pairs were graded by both the model and people" in err
    assert "warning" not in err
    assert same(weights(tmp_path / "run/best"), weights(tmp_path / "run/last"))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["best"], result["best_step"]) == ({}, 8)
    code, out, err = relsdk("train", "embed", *arguments, "--resume", "--json")
    assert (code, json.loads(out)["best_step"]) == (0, 8)
    code, _, err = relsdk("train", "plot", tmp_path / "run")
    assert code == 0, err


@pytest.mark.parametrize(
    ("kind", "task", "changes", "message"),
    [
        (EmbedConfig, train_embed, ["data.dev=", "run.patience=2"], r"run\.patience=2 needs data\.dev"),
        (ScoreConfig, train_score, ["data.dev="], r"data\.dev names no file"),
        (QueryConfig, train_query, ["data.dev="], r"data\.dev names no file"),
        (DistillConfig, train_distill, ["model.layers=[0]"], r"data\.weak, data\.written .*do nothing"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    folder, toy_checkpoint, tmp_path, kind, task, changes, message
):
    config = load_config(kind, None, settings_of(folder, toy_checkpoint, tmp_path / "run", *changes))
    with pytest.raises(InputError, match=message):
        task(config)
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_not_trained_on_level_0_alone(folder, toy_checkpoint, tmp_path):
    """There would be no gradient, and without dev nobody would know."""
    pairs = [replace(pair, level=0) for pair in read_pairs(folder / "weak.jsonl")]
    write_pairs(tmp_path / "zero.jsonl", pairs)
    more = ["data.train=", "data.dev=", "data.written=[]", f"data.weak=['{tmp_path / 'zero.jsonl'}']"]
    config = load_config(EmbedConfig, None, settings_of(folder, toy_checkpoint, tmp_path / "run", *more))
    with pytest.raises(InputError, match="every pair to learn from has level 0"):
        train_embed(config)
