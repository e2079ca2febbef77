"""A static student: token vectors, their mean and a small head stand in for the encoder of queries."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from relsdk import Embedder
from relsdk.bundle import read_encoder_settings
from relsdk.cli import main
from relsdk.errors import InputError
from relsdk.formats import write_pairs
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_export.encoder import EncoderCuts, export_encoder
from relsdk_sample import generate
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig
from relsdk_training.engine._log import read_log
from relsdk_training.runs.average import average_checkpoints
from relsdk_training.runs.distill import train_distill


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    world = generate(seed=12, n_documents=300, n_queries=60)
    folder = tmp_path_factory.mktemp("texts")
    write_pairs(folder / "pairs.jsonl", world.split("train"))
    write_pairs(folder / "dev.jsonl", world.split("test"))
    (folder / "queries.txt").write_text("".join(f"{query.text} 问\n" for query in world.queries))
    return folder


def settings_for(files, teacher, output):
    return [
        f"model.checkpoint={teacher}",
        f"data.dev={files / 'dev.jsonl'}",
        f"distill.pairs=['{files / 'pairs.jsonl'}']",
        f"distill.queries=['{files / 'queries.txt'}']",
        f"run.output={output}",
        "run.batch_size=64",
        "run.max_steps=80",
        "run.precision=fp32",
        "optimiser.learning_rate=1e-2",
    ]


@pytest.fixture(scope="module")
def run(files, toy_checkpoint, tmp_path_factory):
    """A run of the recipe, and how it ended."""
    folder = tmp_path_factory.mktemp("static") / "run"
    config = load_config(DistillConfig, RECIPES / "static.toml", settings_for(files, toy_checkpoint, folder))
    return folder, train_distill(config)


@pytest.fixture(scope="module")
def bundle(run, toy_checkpoint, tmp_path_factory):
    folder, _ = run
    return export_encoder(
        toy_checkpoint, tmp_path_factory.mktemp("bundles") / "static", query_tower=folder / "best"
    )


def test_it_comes_closer_to_its_teacher(run):
    folder, result = run
    steps = [line for line in read_log(folder / "log.jsonl") if line["kind"] == "step"]
    before, after = (np.mean([s["cosine_distance"] for s in part]) for part in (steps[:3], steps[-3:]))
    assert after < 0.5 * before
    assert result.steps == 80


def test_a_checkpoint_has_no_layers_and_gives_the_mean_behind_a_head(run, corpus):
    """The oracle is numpy on the tensors in the files."""
    folder = run[0] / "best"
    table = {name: values.numpy() for name, values in load_file(folder / "model.safetensors").items()}
    assert not any(name.startswith("encoder.") for name in table)
    heads = [load_file(folder / name / "model.safetensors") for name in ("2_Dense", "3_Dense")]
    embedder = TextEmbedder(folder)
    tokens = embedder.tokenizer.tokenize(["query: " + text for text in corpus])
    for text, ids in zip(corpus, tokens.ids, strict=True):
        parts = (("word", ids), ("position", range(len(ids))), ("token_type", [0] * len(ids)))
        rows = sum(table[f"embeddings.{name}_embeddings.weight"][list(at)] for name, at in parts)  # (T, D)
        rows = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-12)
        rows = rows * table["embeddings.LayerNorm.weight"] + table["embeddings.LayerNorm.bias"]
        vector = rows.mean(axis=0)  # (D,)
        for head, low in zip(heads, (0.0, -np.inf), strict=True):
            weight, bias = head["linear.weight"].numpy(), head["linear.bias"].numpy()
            vector = np.maximum(weight @ vector + bias, low)
        np.testing.assert_allclose(embedder.queries([text])[0], vector / np.linalg.norm(vector), atol=1e-5)


def test_the_head_changes_nothing_at_first(toy_checkpoint, files, tmp_path, corpus):
    config = load_config(
        DistillConfig, RECIPES / "static.toml", settings_for(files, toy_checkpoint, tmp_path / "run")
    )
    still = replace(
        config,
        optimiser=replace(config.optimiser, learning_rate=0.0, head_learning_rate=0.0),
        run=replace(config.run, max_steps=1),
    )
    train_distill(still)
    bare = TextEncoder.load(toy_checkpoint, layers=())
    (tmp_path / "bare").mkdir()
    bare.save(tmp_path / "bare")
    expected = TextEmbedder(tmp_path / "bare").queries(corpus)
    np.testing.assert_allclose(TextEmbedder(tmp_path / "run" / "best").queries(corpus), expected, atol=1e-6)


def test_resume_is_exact(toy_checkpoint, files, tmp_path):
    common = [*settings_for(files, toy_checkpoint, tmp_path / "whole"), "run.max_steps=8"]
    whole = load_config(DistillConfig, RECIPES / "static.toml", [*common, "run.checkpoint_every=3"])
    train_distill(whole)

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 5:
            raise Stop

    halves = replace(whole, run=replace(whole.run, output=str(tmp_path / "halves")))
    with pytest.raises(Stop):
        train_distill(halves, on_step=stop)
    torch.manual_seed(5)
    train_distill(halves, resume=True)
    last = tmp_path / "whole" / "last"
    names = [path.relative_to(last.parent) for path in last.rglob("*.safetensors")]
    assert len(names) == 3
    for name in names:
        one, other = (load_file(tmp_path / run / name) for run in ("whole", "halves"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_bundle_answers_queries_with_it_and_documents_with_the_teacher(run, bundle, toy_checkpoint, corpus):
    student, teacher = TextEmbedder(run[0] / "best"), TextEmbedder(toy_checkpoint)
    exact = Embedder(bundle.path, variant="fp32")
    np.testing.assert_allclose(exact.encode_query(corpus), student.queries(corpus), atol=1e-5)
    np.testing.assert_allclose(exact.encode_document(corpus), teacher.documents(corpus), atol=1e-5)


@pytest.mark.parametrize("variant", ["fp32", "int8_avx2"])
def test_every_variant_verifies_and_a_query_is_the_same_in_any_batch(bundle, corpus, variant):
    embedder = Embedder(bundle.path, variant=variant)
    assert embedder.verify().passed
    alone = np.stack([embedder.encode_query(text) for text in corpus])
    np.testing.assert_allclose(embedder.encode_query(corpus, batch_size=7), alone, atol=1e-6)
    exact = Embedder(bundle.path, variant="fp32").encode_query(corpus)
    assert (alone * exact).sum(axis=1).min() > 0.999


def test_the_table_is_of_eight_bits_and_is_a_part_of_the_fingerprint(run, bundle, toy_checkpoint, tmp_path):
    variants = [bundle.variant(name) for name in ("fp32", "int8_avx2")]
    sizes = [(bundle.path / variant.query_file).stat().st_size for variant in variants]
    assert sizes[1] < 0.6 * sizes[0]
    other = shutil.copytree(run[0] / "best", tmp_path / "other")
    path = other / "2_Dense" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = export_encoder(toy_checkpoint, tmp_path / "again", query_tower=other, variants=["fp32"])
    assert again.fingerprint != bundle.fingerprint


def test_cuts_reach_it(run, toy_checkpoint, corpus, tmp_path):
    cuts = EncoderCuts(vocabulary_from=corpus, dimension=16)
    tower = run[0] / "best"
    made = export_encoder(toy_checkpoint, tmp_path / "cut", cuts=cuts, query_tower=tower, variants=["fp32"])
    expected = TextEmbedder(tower).queries(corpus)[:, :16]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Embedder(made.path).encode_query(corpus), expected, atol=1e-5)


def test_sentence_transformers_opens_both_the_checkpoint_and_the_bundle(run, bundle, corpus, tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    from relsdk_export.router import to_sentence_transformers

    written = to_sentence_transformers(bundle.path, tmp_path / "folder")
    assert written.has_query_tower
    assert written.min_cosine > 0.9999
    expected = Embedder(bundle.path, variant="fp32").encode_query(corpus)
    for folder in (run[0] / "best", tmp_path / "folder"):
        model = SentenceTransformer(str(folder), device="cpu")
        np.testing.assert_allclose(model.encode_query(corpus), expected, atol=1e-5)


def test_a_teacher_that_pools_otherwise_has_a_student_that_takes_the_mean(
    checkpoint_factory, files, tmp_path, corpus
):
    """The first token's vector alone would be the same for every text."""
    teacher = checkpoint_factory(tmp_path / "teacher", pooling="cls")
    settings = [*settings_for(files, teacher, tmp_path / "run"), "run.max_steps=2"]
    train_distill(load_config(DistillConfig, RECIPES / "static.toml", settings))
    tower = tmp_path / "run" / "best"
    assert read_encoder_settings(tower).pooling == "mean"
    made = export_encoder(teacher, tmp_path / "bundle", query_tower=tower, variants=["fp32"])
    embedder = Embedder(made.path)
    np.testing.assert_allclose(embedder.encode_query(corpus), TextEmbedder(tower).queries(corpus), atol=1e-5)
    expected = TextEmbedder(teacher).documents(corpus)
    np.testing.assert_allclose(embedder.encode_document(corpus), expected, atol=1e-5)


def test_the_command_names_what_follows(files, toy_checkpoint, tmp_path, capsys):
    options = [*settings_for(files, toy_checkpoint, tmp_path / "run"), "run.max_steps=2"]
    main(["train", "distill", "static.toml", *(part for item in options for part in ("--set", item))])
    out, err = capsys.readouterr()
    assert "--query-tower" in out + err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.layers=[0]", "a static student has no layers"),
        ("model.lora_rank=4", "a static student has no layers"),
        ("data.dev=''", "names no file"),
    ],
)
def test_mistakes(files, toy_checkpoint, tmp_path, change, message):
    settings = [*settings_for(files, toy_checkpoint, tmp_path / "run"), "distill.student=static", change]
    with pytest.raises(InputError, match=message):
        train_distill(load_config(DistillConfig, None, settings))


def test_heads_are_not_averaged(run, tmp_path):
    folder = run[0] / "best"
    assert read_encoder_settings(folder).dense == ("2_Dense", "3_Dense")
    with pytest.raises(InputError, match="Dense layers, which are not averaged"):
        average_checkpoints([folder, folder], tmp_path / "mean")
