"""A run of the whole method at toy size, and single stages of it."""

import pytest

from relsdk.formats import write_pairs
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.recipe import plan_stages, train_ssra
from tests.made_once import made_once


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    world = generate(seed=11, n_documents=200, n_queries=70)
    folder = tmp_path_factory.mktemp("ssra")
    write_pairs(folder / "train.jsonl", world.split("train"))
    write_pairs(folder / "dev.jsonl", world.split("test")[-120:])  # each model is measured on them
    return folder


@pytest.fixture(scope="session")
def settings(files, toy_checkpoint):
    """Of a run of seconds: three shards, three steps a model, a checkpoint after each, two rounds."""
    return [
        f"training.checkpoint={toy_checkpoint}",
        "training.max_tokens=24",
        "training.max_steps=3",
        "training.batch_size=16",
        "training.checkpoint_every=1",
        "query.decoder_layers=[0, 1]",
        "query.max_query_tokens=4",
        "query.guidance=1.5",
        "embed.evaluate_every=3",
        "embed.learning_rate=0.003",
        "embed.batch_size=128",
        "embed.dropout=0.0",
        f"data.train={files / 'train.jsonl'}",
        f"data.dev={files / 'dev.jsonl'}",
        f"unlabelled.pairs=['{files / 'train.jsonl'}']",
        "unlabelled.limit=15",
        "data.limit=120",
        "filter.thresholds=[0, 0, 0, 0]",
        "synthesis.min_gain=-1",
        "balance.size=300",
        "run.shard=5",
    ]


@pytest.fixture(scope="session")
def whole(settings, tmp_path_factory):
    """An uninterrupted run, shared by tests, so nobody may change it: its settings, result and folder."""

    def result_in(folder):
        return train_ssra(load_config(SsraConfig, None, [*settings, f"run.output={folder}"]))

    run = made_once("whole", result_in, tmp_path_factory)
    return [*settings, f"run.output={run}"], result_in(run), run


@pytest.fixture
def make_stage(whole, tmp_path):
    """Do what one stage does, with the stages of the whole run before it: its folder, report and notes."""

    def make(name, *changes, on_progress=lambda stage, done, total: None, runner=None):
        config, notes = load_config(SsraConfig, None, [*whole[0], *changes]), []
        planned = plan_stages(config, 1, notes.append, on_progress, runner)
        (stage,) = (one.stage for one in planned if one.stage.name.partition("-")[2] == name)
        folder = tmp_path / stage.name
        folder.mkdir(exist_ok=True)
        return folder, stage.make(folder), notes

    return make
