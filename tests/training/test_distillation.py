"""A one-layer student comes closer to its two-layer teacher, alone and as a query tower."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from relsdk.errors import InputError
from relsdk.formats import write_pairs
from relsdk.sample_world import generate
from relsdk_training.config import DistillConfig, DistillLossConfig, RunConfig, load_config
from relsdk_training.data import pair_arrays
from relsdk_training.distillation import DistillationObjective, distillation_texts
from relsdk_training.encoder import TextEncoder
from relsdk_training.losses.cosent import cosent
from relsdk_training.measures import embed_tokens, tokenised_pairs
from relsdk_training.run_log import read_log
from relsdk_training.tasks import train_distill


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    world = generate(seed=12, n_documents=300, n_queries=60)
    folder = tmp_path_factory.mktemp("texts")
    write_pairs(folder / "pairs.jsonl", world.split("train"))
    write_pairs(folder / "dev.jsonl", world.split("test"))
    (folder / "queries.txt").write_text("".join(f"{query.text} 问\n" for query in world.queries))
    return folder


@pytest.fixture
def settings(files, toy_checkpoint, tmp_path):
    return [
        f"model.checkpoint={toy_checkpoint}",
        "model.layers=[1]",
        f"data.dev={files / 'dev.jsonl'}",
        f"distill.pairs=['{files / 'pairs.jsonl'}']",
        f"run.output={tmp_path / 'run'}",
        "run.batch_size=64",
        "run.max_steps=60",
        "run.precision=fp32",
        "optimiser.learning_rate=3e-3",
    ]


@pytest.mark.parametrize("student", ["encoder", "query"])
def test_a_student_comes_closer_to_its_teacher(settings, tmp_path, student):
    result = train_distill(load_config(DistillConfig, None, [*settings, f"distill.student={student}"]))
    log = list(read_log(tmp_path / "run" / "log.jsonl"))
    steps = [line for line in log if line["kind"] == "step"]
    before, after = (np.mean([s["cosine_distance"] for s in part]) for part in (steps[:3], steps[-3:]))
    assert after < 0.6 * before
    assert result.steps == 60
    kept = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert not any("layer.1." in name for name in kept)


def test_a_tower_learns_from_labels_beside_its_teachers_documents(files, settings, tmp_path):
    labelled = [
        "distill.student=query",
        "distill.labels=1.0",
        "distill.cosine=0",
        "distill.similarity=0",
        f"data.train={files / 'pairs.jsonl'}",
    ]
    train_distill(load_config(DistillConfig, None, [*settings, *labelled]))
    log = list(read_log(tmp_path / "run" / "log.jsonl"))
    terms = [line["cosent"] for line in log if line["kind"] == "step"]
    assert np.mean(terms[-6:]) < np.mean(terms[:3]) - 1  # a logarithm of how much contradicts the labels


def test_the_term_on_labels_is_cosent_of_the_pairs_of_the_batch(toy_checkpoint):
    world = generate(seed=12, n_documents=100, n_queries=12)
    train = pair_arrays(world.split("train"))
    teacher, student = TextEncoder.load(toy_checkpoint), TextEncoder.load(toy_checkpoint, layers=[1])
    prompt = teacher.settings.prompts.get("query", "")
    texts = [prompt + train.queries[1], "nobody asked this", prompt + train.queries[0]]
    config = DistillLossConfig(student="query", cosine=0.0, similarity=0.0, labels=2.0)
    made = DistillationObjective(student, teacher, texts, train, train, config, RunConfig(precision="fp32"))
    cpu = torch.device("cpu")
    with torch.no_grad():
        student.eval()
        total, parts = made.loss(np.array([0, 1, 2]), cpu)
        rows = np.flatnonzero(np.isin(train.query_of, [0, 1]))
        embed = partial(embed_tokens, tokenizer=made.tokenizer, device=cpu)
        tokens = tokenised_pairs(made.tokenizer, train, teacher.settings.prompts)
        queries = torch.from_numpy(embed(student, tokens=tokens.queries)[train.query_of[rows]])
        documents = torch.from_numpy(embed(teacher.eval(), tokens=tokens.documents)[train.document_of[rows]])
        wanted = cosent(
            cosine_similarity(queries, documents), torch.from_numpy(train.labels[rows]), temperature=0.05
        )
        assert total.item() == pytest.approx(2.0 * wanted.item(), rel=1e-5)
        assert parts["cosent"] == pytest.approx(wanted.item(), rel=1e-5)
        # A batch without a judged query adds nothing.
        other = DistillationObjective(
            student, teacher, [*texts, "nor this"], train, train, config, RunConfig(precision="fp32")
        )
        assert other.loss(np.array([1, 3]), cpu)[0].item() == 0.0


def test_labels_need_a_query_among_the_texts(files, settings):
    change = ["distill.student=query", "distill.labels=1.0", f"data.train={files / 'pairs.jsonl'}"]
    change += ["distill.pairs=[]", f"distill.queries=['{files / 'queries.txt'}']"]
    with pytest.raises(InputError, match=r"no query of data\.train is among the texts"):
        train_distill(load_config(DistillConfig, None, [*settings, *change]))
    with pytest.raises(InputError, match=r"data\.train names"):
        train_distill(
            load_config(DistillConfig, None, [*settings, "distill.student=query", "distill.labels=1.0"])
        )


def test_texts_carry_the_prompt_they_are_served_with(files):
    prompts = {"query": "q: ", "document": "d: "}
    pairs, queries = (str(files / "pairs.jsonl"),), (str(files / "queries.txt"),)
    both = distillation_texts(DistillLossConfig(pairs=pairs, queries=queries), prompts)
    assert len(both) == len(set(both))
    assert {text[:3] for text in both} == {"q: ", "d: "}
    tower = distillation_texts(DistillLossConfig(student="query", pairs=pairs, queries=queries), prompts)
    assert {text[:3] for text in tower} == {"q: "}
    assert len(distillation_texts(DistillLossConfig(pairs=pairs, limit=5), prompts)) == 5
    with pytest.raises(InputError, match="at least one is needed"):
        distillation_texts(DistillLossConfig(), prompts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.layers=[]", "names no layers"),
        ("data.dev=''", "names no file"),
        ("model.layers=[7]", "out of 0 to 1"),
        ("distill.labels=1.0", "is for a query tower"),
    ],
)
def test_mistakes(settings, change, message):
    with pytest.raises(InputError, match=message):
        train_distill(load_config(DistillConfig, None, [*settings, change]))
