"""The table of stages: what stands in a run's folder is what it was, and what a change makes stale."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from relsdk.errors import InputError
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra import recipe
from relsdk_training.ssra.recipe import TABLE, plan_stages, train_ssra
from relsdk_training.ssra.stage_runner import FinishedStage, _stage_identity, _stale_stages

# Made by the code before there was a table: the settings and the stages' identities of older runs.
BEFORE = json.loads(Path(__file__).with_name("before_the_table.json").read_text(encoding="utf-8"))
FILES = {
    "pool": [
        *("labelled", "dev", "held_out", "queries", "documents-00000", "documents-00001"),
        *("weak", "written-00000"),
    ],
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


def finish(config, outputs=None):
    """The stages of a run as if all were done.

    Args:
        config: Of the run.
        outputs: Of a stage and its identity the hash of each file that it makes; by default all files of a
            stage change with its identity.
    """
    rounds = min(1, config.synthesis.rounds) if config.synthesis.endpoint.url else config.synthesis.rounds
    finished = {}
    for planned in plan_stages(config, rounds):
        stage = planned.stage
        name = stage.name.partition("-")[2]
        identity = _stage_identity(stage, finished)
        files = [f"{file}.jsonl" for file in FILES.get(name, [])] or ["output.txt"]
        hashes = dict.fromkeys(files, identity) if outputs is None else outputs(name, files)
        finished[stage.name] = FinishedStage(stage.name, Path(stage.name), identity, hashes, 0.0, {})
    return finished


@pytest.mark.parametrize("name", RUNS)
def test_stages_of_older_runs_are_found_again(folder, name):
    """Same folders, same identities: what was done before there was a table is not done again."""

    def outputs(stage, files):
        return {file: hashlib.sha256(f"{stage} {file}\n".encode()).hexdigest() for file in files}

    finished = finish(configure(*RUNS[name]), outputs)
    assert {stage.name: stage.identity for stage in finished.values()} == BEFORE["identities"][name]


def changed(before, after):
    """Which stages of the second run are not found in the first, by their names without numbers."""
    finished = finish(configure(*before))
    stages = [planned.stage for planned in plan_stages(configure(*after), 2)]
    return [name.partition("-")[2] for name in _stale_stages(stages, finished)]


ENCODER = ["balance", "embed", "compare"]
ROUND_1 = ["query-1", "try-1", "write-1", "filter-1"]
ROUNDS = [*ROUND_1, "query-2", "try-2", "write-2", "filter-2"]
EVERYTHING = ["pool", "score", "judge", "candidates", "annotate", *ROUNDS, *ENCODER]


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("run.output=elsewhere", []),
        ("run.threads=2", []),
        ("filter.endpoint.url=http://localhost", []),  # where a judge is that is not asked
        ("synthesis.min_gain=1", []),
        ("balance.size=200", ENCODER),
        ("embed.max_steps=7", ["embed", "compare"]),
        ("training.max_steps=7", ["score", "judge", "annotate", *ROUNDS, *ENCODER]),
        ("embed.max_tokens=7", ["candidates", "annotate", *ROUNDS, *ENCODER]),
        ("score.learning_rate=1e-3", ["score", "judge", "annotate", *ROUNDS, *ENCODER]),
        ("candidates.most=3", ["candidates", "annotate", *ROUNDS, *ENCODER]),
        ("filter.thresholds=[0, 0, 0, 0]", ["annotate", *ROUNDS, *ENCODER]),
        ("filter.by_score=false", ["filter-1", *ROUNDS[4:], *ENCODER]),
        ("filter.judge=none", ["filter-1", *ROUNDS[4:], *ENCODER]),
        ("synthesis.most_pairs=7", [*ROUNDS, *ENCODER]),
        ("synthesis.samples=7", ["write-1", "filter-1", *ROUNDS[4:], *ENCODER]),
        # What is tried is what will be written; sampling trains nothing.
        ("query.temperature=0.5", [*ROUND_1[1:], *ROUNDS[4:], *ENCODER]),
        ("query.guidance=3", [*ROUND_1[1:], *ROUNDS[4:], *ENCODER]),
        ("query.contrast=0.5", [*ROUNDS, *ENCODER]),
        ("run.shard=7", EVERYTHING),
        ("run.seed=1", EVERYTHING),
        ("data.limit=5", EVERYTHING),
    ],
)
def test_a_change_makes_its_stage_stale_and_what_reads_it(folder, setting, stale):
    assert changed([], [setting]) == stale


def test_a_run_that_is_new_has_everything_to_do(folder):
    stages = [planned.stage for planned in plan_stages(configure(), 2)]
    assert [name.partition("-")[2] for name in _stale_stages(stages, {})] == EVERYTHING


def test_fewer_stages_leave_the_others_as_they_are(folder):
    assert changed([], ["synthesis.reannotate=false"]) == [*ROUNDS, *ENCODER]
    assert changed(["synthesis.reannotate=false"], ["synthesis.reannotate=false"]) == []
    # Annotated pairs train nothing any more, so they are no stage, and the encoder reads other pairs.
    nothing = ["synthesis.reannotate=false", "balance.annotated=false"]
    assert changed(["synthesis.reannotate=false"], nothing) == ENCODER


def test_a_moved_checkpoint_is_the_same_and_one_of_another_tokenizer_is_not(folder):
    shutil.copytree("checkpoint", "moved")
    assert changed([], ["training.checkpoint=moved"]) == []
    assert changed([], ["query.checkpoint=moved"]) == []
    Path("moved/tokenizer.json").write_text("{}\n")
    trained = ["score", "judge", "candidates", "annotate", *ROUNDS, *ENCODER]
    assert changed([], ["training.checkpoint=moved"]) == trained
    assert changed([], ["query.checkpoint=moved"]) == [*ROUNDS, *ENCODER]


SAID = ["data.weak=['weak.jsonl']", "data.written=['written.jsonl']"]


@pytest.fixture
def said(folder):
    """The folder with what a language model said of its text."""
    for name in ("weak.jsonl", "written.jsonl", "more.jsonl"):
        (folder / name).write_text(f"{name}\n")
    return folder


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("run.threads=2", []),
        ("data.weak_weight=0.5", ["score", "judge", "annotate", *ROUNDS, "filter-written", *ENCODER]),
        ("data.human_last=0.5", ["score", "judge", "annotate", *ROUNDS, "filter-written", *ENCODER]),
        ("data.written_weight=0.5", ["embed", "compare"]),
        ("filter.by_score=false", ["filter-1", *ROUNDS[4:], "filter-written", *ENCODER]),
        ("data.weak=['more.jsonl']", [*EVERYTHING[:-3], "filter-written", *ENCODER]),
    ],
)
def test_a_change_of_what_is_learned_of_opinions(said, setting, stale):
    assert changed(SAID, [*SAID, setting]) == stale


def test_a_file_of_opinions_may_move(said):
    for name in ("weak", "written"):
        shutil.move(f"{name}.jsonl", f"{name}-elsewhere.jsonl")
        Path(f"{name}.jsonl").write_text(f"{name}.jsonl\n")
    moved = ["data.weak=['weak-elsewhere.jsonl']", "data.written=['written-elsewhere.jsonl']"]
    assert changed(SAID, moved) == []


@pytest.mark.parametrize(
    ("said_now", "stale"),
    [
        # The judge reads other opinions, but its levels may be the same; so may what stands on them.
        (SAID[:1], ["pool", "score", "judge", "balance", "embed"]),
        (
            SAID[1:],
            ["pool", "query-1", "write-1", "query-2", "write-2", "filter-written", "balance", "embed"],
        ),
    ],
)
def test_an_older_run_learns_what_was_said_and_keeps_the_rest(said, said_now, stale):
    """Stage 1 is as it was: it finds candidates for the same documents."""
    assert again([], said_now, []) == stale


def test_written_queries_need_a_judge_even_if_nothing_else_is_written(said):
    planned = plan_stages(configure("synthesis.rounds=0", *SAID), 0)
    names = [one.stage.name for one in planned]
    assert names[:3] == ["01-pool", "02-score", "03-judge"]
    assert names[-4:] == ["89-filter-written", "90-balance", "91-embed", "92-compare"]


def test_how_a_given_model_reads_counts(folder):
    """The model is the same whatever it reads of a pair; its levels are not."""
    given = ["filter.checkpoint=checkpoint", "filter.judge=none"]
    stale = changed(given, [*given, "score.max_tokens=6"])
    assert stale == ["score", "annotate", *ROUNDS, *ENCODER]
    assert changed(given, [*given, "score.learning_rate=1e-3"]) == []  # nothing of it is trained


def again(before, after, files):
    """Which stages are run again when the first stage makes some of its files anew, and nothing else does."""

    def outputs(stage, names, new=()):
        return {name: f"{stage} {name} {name in new and stage == 'pool'}" for name in names}

    old = finish(configure(*before), outputs)
    new = finish(configure(*after), lambda stage, names: outputs(stage, names, files))
    return [name.partition("-")[2] for name in new if name not in old or new[name] != old[name]]


ONE_ROUND = ["synthesis.rounds=1", "synthesis.reannotate=false", "balance.annotated=false"]
ENDPOINT = ["synthesis.endpoint.url=http://localhost", "synthesis.endpoint.name=toy"]


def test_a_warm_start_reads_unlabelled_queries_and_an_endpoint_does_not(folder):
    Path("more.txt").write_text("全新的搜索词\n", encoding="utf-8")
    more = "unlabelled.queries=['more.txt']"
    files = ["queries.jsonl"]
    assert again(ONE_ROUND, [*ONE_ROUND, more], files) == ["pool", "query-1"]
    causal = [*ONE_ROUND, "query.kind=causal"]
    assert again(causal, [*causal, more], files) == ["pool"]
    # Its answers cost money: it is asked nothing twice.
    asked = [*ENDPOINT, "filter.judge=none"]
    assert again(asked, [*asked, more], files) == ["pool", "candidates"]


def test_every_row_reads_stages_before_it():
    names = [row.stage for row in TABLE]
    assert [row.number for row in TABLE] == sorted({row.number for row in TABLE})
    for at, row in enumerate(TABLE):
        for read in [*(read if isinstance(read, str) else read[0] for read in row.reads), *row.refers_to]:
            stage = read.partition("/")[0].replace("{last}", "{n}").replace("*", "{n}")
            assert stage in (names if "{last}" in read else names[:at]), (row.stage, read)


@pytest.fixture
def pretend(folder, monkeypatch):
    """Stages that do nothing but make their files; the agreement of each round is `pretend(...)`'s."""

    def use(*agreements):
        monkeypatch.setattr(recipe, "check", lambda config: None)

        def does(job):
            name = job.folder.name.partition("-")[2]
            for read in job.sources:
                assert all(path.exists() for path in job.paths(read)), read
            for file in [f"{file}.jsonl" for file in FILES.get(name, [])] or ["output.txt"]:
                (job.folder / file).write_text(f"{name} {file}\n")
            report = {"dev": {"mean_ap": 0.5}}
            return report | ({"mean": agreements[job.round_number - 1]} if name.startswith("try-") else {})

        monkeypatch.setattr(recipe, "TABLE", [replace(row, does=does) for row in TABLE])

    return use


def run(*settings):
    """The notes of a run and its result."""
    notes = []
    result = train_ssra(configure(*settings), on_note=notes.append)
    return [note for note in notes if not re.search("begins$|done in", note)], result


def test_rounds_go_on_while_agreement_rises(pretend):
    pretend(0.3, 0.4, 0.35)
    notes, result = run("synthesis.rounds=4")
    assert notes == ["round 3: agreement 0.350 after 0.400; no more rounds"]
    assert list(result.stages) == [
        *("01-pool", "02-score", "03-judge", "04-candidates", "05-annotate"),
        *("06-query-1", "07-try-1", "08-write-1", "09-filter-1"),
        *("10-query-2", "11-try-2", "12-write-2", "13-filter-2", "14-query-3", "15-try-3"),
        *("90-balance", "91-embed", "92-compare"),
    ]
    assert result.dev == {"mean_ap": 0.5}
    assert (result.encoder, result.pairs) == (
        "run/stages/91-embed/best",
        "run/stages/90-balance/pairs.jsonl",
    )


def test_a_round_that_is_not_followed_runs_nothing_twice(pretend):
    """The second round's query model agrees no better, so it writes nothing: all is as with one round."""
    pretend(0.3, 0.2)
    run("synthesis.rounds=2", "synthesis.min_gain=-1")
    run("synthesis.rounds=1")
    notes, result = run("synthesis.rounds=2")
    assert "round 2: agreement 0.200 after 0.300; no more rounds" in notes
    assert notes[-3:] == [f"{name}: done before" for name in list(result.stages)[-3:]]
    assert "13-filter-2" not in result.stages


def test_an_endpoint_writes_once(pretend):
    pretend()
    notes, result = run(*ENDPOINT, "synthesis.rounds=3")
    assert notes == ["one round: a model behind an endpoint does not learn, it would write the same again"]
    assert [name for name in result.stages if "-write-" in name] == ["08-write-1"]
    assert "06-query-1" not in result.stages


def test_what_is_to_do_is_told_before_it_is_done(pretend):
    pretend(0.3, 0.4)
    assert run()[0] == []
    notes, result = run()
    assert notes == [f"{name}: done before" for name in result.stages]
    notes, _ = run("balance.size=200")
    assert notes[0] == "to do, unless what they read comes out the same: 90-balance, 91-embed, 92-compare"
    # Balance came out the same, so what reads it was not run.
    assert notes[-2:] == ["91-embed: done before", "92-compare: done before"]


def test_a_file_of_the_data_that_is_missing_is_told_before_anything_is_done(pretend):
    pretend()
    with pytest.raises(InputError, match=r"nowhere\.jsonl is not a file"):
        run("unlabelled.pairs=['nowhere.jsonl']")
    assert not Path("run/stages").exists()
