"""The table of stages: what stands in a run's folder is what it was, and what a change makes stale."""

import json
from pathlib import Path

import pytest

from relsdk.files.folders import json_sha256
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.recipe import TABLE, plan_stages
from relsdk_training.ssra.stage_runner import FinishedStage, Stage, StageRunner, stale_stages

# Made by the code before there was a table: the settings and the stages' identities of older runs.
BEFORE = json.loads(Path(__file__).with_name("before_the_table.json").read_text(encoding="utf-8"))
FILES = {
    "pool": ["labelled", "dev", "held_out", "queries", "documents-00000", "documents-00001"],
    "balance": ["pairs", "records-00000"],
}
# The settings of each run of `BEFORE`, by their names of today.
RUNS = {
    "recipe": ["ssra.toml"],
    "recipe, two rounds": ["ssra.toml", "synthesis.rounds=2"],
    "defaults": [],
    "a judge that is given": ["ssra.toml", "filter.checkpoint=checkpoint", "filter.judge=none"],
    "endpoints": [
        "synthesis.endpoint.url=http://localhost:1",
        "synthesis.endpoint.name=writer",
        "filter.judge=endpoint",
        "filter.endpoint.url=http://localhost:2",
        "filter.endpoint.name=judge",
        "synthesis.levels=[1, 2]",
    ],
    "no stage 1": ["ssra.toml", "synthesis.reannotate=false", "balance.annotated=false"],
    "stage 1 for the query model alone": ["balance.annotated=false", "synthesis.rounds=1"],
    "stage 1 for the encoder alone": ["synthesis.reannotate=false", "synthesis.rounds=1"],
    "no rounds": ["ssra.toml", "synthesis.rounds=0"],
    "other numbers": [
        "ssra.toml",
        "run.seed=3",
        "data.rare_share=0.045",
        "data.limit=2000",
        "unlabelled.limit=1000",
        "run.shard=7",
        "filter.thresholds=[0, 0.1, 0.2, 0.3]",
        "filter.adjust=0.5",
        "filter.by_score=false",
        "synthesis.samples=5",
        "synthesis.most_pairs=70",
        "balance.size=300",
        "balance.shares=[1, 1, 1, 1]",
        "candidates.lexical=2",
        "candidates.semantic=3",
        "candidates.most=5",
        "embed.max_steps=300",
        "embed.evaluate_every=50",
        "embed.learning_rate=3e-5",
        "score.max_tokens=64",
        "score.head=ordinal",
        "query.max_query_tokens=9",
        "query.decoder_layers=[5, 11]",
        "query.epochs=4",
        "query.temperature=0.5",
        "embed.hard_negatives=3",
        "embed.chunk=8",
    ],
    "a language model": ["query.kind=causal", "query.lora_rank=8", "synthesis.rounds=1"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data files and a checkpoint, as the runs of `BEFORE` had them."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").write_text('{"model_type": "bert"}\n')
    for name in ("train.jsonl", "dev.jsonl", "docs.jsonl", "pairs.jsonl", "queries.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(*settings):
    common = [
        "data.train=train.jsonl",
        "data.dev=dev.jsonl",
        "unlabelled.documents=['docs.jsonl']",
        "unlabelled.pairs=['pairs.jsonl']",
        "unlabelled.queries=['queries.txt']",
        "training.checkpoint=checkpoint",
        "run.output=run",
    ]
    recipe = Path("ssra.toml") if "ssra.toml" in settings else None
    return load_config(SsraConfig, recipe, [*common, *(one for one in settings if one != "ssra.toml")])


def stages_of(config):
    rounds = min(1, config.synthesis.rounds) if config.synthesis.endpoint.url else config.synthesis.rounds
    return [planned.stage for planned in plan_stages(config, rounds)]


def pretend(stage):
    """The stage, with work that takes no time."""
    name = stage.name.partition("-")[2]

    def make(work):
        for file in [f"{file}.jsonl" for file in FILES.get(name, [])] or ["output.txt"]:
            (work / file).write_text(f"{name} {file}\n")
        return {}

    return Stage(stage.name, stage.settings, stage.reads, make)


@pytest.mark.parametrize("name", RUNS)
def test_stages_of_older_runs_are_found_again(folder, name):
    """Same folders, same identities: what was done before the table is not done again."""
    runner = StageRunner(folder / "run")
    finished = [runner.run(pretend(stage)) for stage in stages_of(configure(*RUNS[name]))]
    runner.close()
    assert {stage.name: stage.identity for stage in finished} == BEFORE["identities"][name]


