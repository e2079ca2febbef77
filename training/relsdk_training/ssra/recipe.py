"""The stages of an SSRA run, from labelled pairs and unlabelled text to a better encoder, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from relsdk.shards.runner import LocalRunner, Runner
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.job import (
    DEV,
    DOCUMENTS,
    HELD_OUT,
    LABELLED,
    QUERIES,
    WEAK,
    WRITTEN,
    Job,
    OnNote,
    OnProgress,
)
from relsdk_training.ssra.preflight import check
from relsdk_training.ssra.stage_runner import FinishedStage, Stage, StageRunner
from relsdk_training.ssra.stages import (
    annotate,
    attempt,
    balance,
    candidates,
    compare,
    embed,
    filter,
    judge,
    query,
    score,
    unlabelled,
    write,
)

__all__ = ["TABLE", "PlannedStage", "Row", "SsraResult", "plan_stages", "train_ssra"]

Condition = Callable[[SsraConfig], bool]


def _always(config: SsraConfig) -> bool:
    return True


def _reannotates(config: SsraConfig) -> bool:
    return config.synthesis.reannotate


def _asks_endpoint(config: SsraConfig) -> bool:
    return config.synthesis.endpoint.is_named


def _has_weak(config: SsraConfig) -> bool:
    return bool(config.data.weak)


def _has_written(config: SsraConfig) -> bool:
    return bool(config.data.written)


def _has_either(config: SsraConfig) -> bool:
    return _has_weak(config) or _has_written(config)


Read = str | tuple[str, Condition]


@dataclass(frozen=True)
class Row:
    """What is known of a stage.

    Attributes:
        number: Of its folder: the same whatever stages and rounds are left out. Each round adds four.
        stage: Its name; {n} is the round.
        reads: Stages, or files of a stage as stage/files-*.jsonl, that its result depends on, some of them on
            a condition. {last} is the round before; a stage that a run leaves out is not read.
        depends_on: Returns what else its result depends on.
        does: Fills its folder and returns a report.
        when: Whether a run has it.
        refers_to: Read only to name where things come from: no reason to run the stage again.
    """

    number: int
    stage: str
    reads: tuple[Read, ...]
    depends_on: Callable[[SsraConfig], Any]
    does: Callable[[Job], Mapping[str, Any]]
    when: Condition = _always
    refers_to: tuple[str, ...] = ()


_TEXTS = ((QUERIES, query.reads_texts), (DOCUMENTS, query.reads_texts))
# What a language model said, where it was asked beforehand.
_OPINIONS, _ANSWERS = (WEAK, _has_weak), (WRITTEN, _has_written)
# fmt: off
TABLE = (
    #  stage             reads                                        depends on           does
    Row(1, "pool",       (),                                          unlabelled.identity, unlabelled.work),
    Row(2, "score",      (LABELLED, DEV, _OPINIONS),                  score.identity,      score.work),
    Row(3, "judge",      (LABELLED, DEV, _OPINIONS),                  judge.identity,      judge.work,
        when=judge.is_trained),
    # Stage 1 of the paper: existing queries get a level.
    Row(4, "candidates", (DOCUMENTS, QUERIES),                        candidates.identity, candidates.work,
        when=candidates.are_used),
    Row(5, "annotate",   ("candidates", "score", LABELLED),           annotate.identity,   annotate.work,
        when=candidates.are_used),
    # Stage 2: queries are written, in rounds. An endpoint is shown labelled pairs.
    Row(6, "query-{n}",  (LABELLED, DEV, _ANSWERS, ("annotate", _reannotates), "filter-{last}", *_TEXTS),
                                                                      query.identity,      query.work,
        when=query.is_trained),
    Row(7, "try-{n}",    ("query-{n}", "score", DEV),                 attempt.identity,    attempt.work,
        when=query.is_trained),
    Row(8, "write-{n}",  ("query-{n}", (LABELLED, _asks_endpoint), DOCUMENTS, _ANSWERS),
                                                                      write.identity,      write.work),
    Row(9, "filter-{n}", ("write-{n}", LABELLED, HELD_OUT, "score", "judge"),
                                                                      filter.identity,     filter.work,
        refers_to=("query-{n}",)),
    Row(89, "filter-written", (WRITTEN, LABELLED, HELD_OUT, "score", "judge"),
                                                                      filter.identity,     filter.work_given,
        when=_has_written),
    # Stage 3: the encoder learns from all of it.
    Row(90, "balance",   (LABELLED, "annotate", "filter-*", _OPINIONS), balance.identity,  balance.work),
    Row(91, "embed",     ("balance/pairs.jsonl", DEV, (LABELLED, _has_either), _OPINIONS),
                                                                      embed.identity,      embed.work),
    Row(92, "compare",   ("embed", DEV),                              compare.identity,    compare.work),
)
# fmt: on
_STAGES_A_ROUND = 4


@dataclass(frozen=True)
class PlannedStage:
    """A row of the table in one run.

    Attributes:
        row: Of the table.
        round_number: From 1; 0 outside the rounds.
        stage: What the runner is given.
    """

    row: Row
    round_number: int
    stage: Stage


@dataclass(frozen=True)
class SsraResult:
    """What a run made.

    Attributes:
        encoder: Folder of the trained encoder.
        pairs: File of the balanced pairs.
        dev: Measures of the encoder on dev.
        stages: Seconds of each stage.
    """

    encoder: str
    pairs: str
    dev: dict[str, float]
    stages: dict[str, float]


def train_ssra(
    config: SsraConfig,
    *,
    shard_runner: Runner | None = None,
    on_note: OnNote = lambda note: None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> SsraResult:
    """Run the whole method, or what is not done of it yet.

    Args:
        config: See `SsraConfig`.
        shard_runner: Where queries are written and graded; None does it in this process. Models are trained
            in this process, and endpoints asked from it, in any case.
        on_note: Called with lines for people.
        on_progress: Called with a stage's name, how much of it is done, and of how much.

    Raises:
        InputError: The configuration or the data is wrong.
        LockedError: Another process runs in the same folder.
        TrainingError: A training or an endpoint cannot go on; what is done is kept.
    """
    check(config)
    runner = StageRunner(Path(config.run.output), on_note)
    try:
        stages = _run(config, runner, shard_runner or LocalRunner(), on_note, on_progress)
    finally:
        runner.close()
    by_row = {stage.name.partition("-")[2]: stage for stage in stages}
    return SsraResult(
        str(by_row["embed"].folder / "best"),
        str(by_row["balance"].folder / "pairs.jsonl"),
        by_row["embed"].report["dev"],
        {stage.name: stage.seconds for stage in stages},
    )


def plan_stages(
    config: SsraConfig,
    rounds: int,
    on_note: OnNote = lambda note: None,
    on_progress: OnProgress = lambda stage, done, total: None,
    shard_runner: Runner | None = None,
) -> list[PlannedStage]:
    """Return the stages of a run, in order.

    Args:
        config: Of the run.
        rounds: How often queries are written.
        on_note: See `train_ssra`.
        on_progress: See `train_ssra`.
        shard_runner: See `train_ssra`.

    Raises:
        InputError: A setting is out of range, or a file of the data is missing.
    """
    in_rounds = [row for row in TABLE if "{n}" in row.stage]
    rows = [(row, 0) for row in TABLE if row.number < in_rounds[0].number]
    rows += [(row, number) for number in range(1, rounds + 1) for row in in_rounds]
    rows += [(row, 0) for row in TABLE if row.number > in_rounds[-1].number]
    folders: dict[str, str] = {}  # by name
    planned: list[PlannedStage] = []
    for row, number in rows:
        if not row.when(config):
            continue
        sources = _sources(row, number, config, folders)
        name = row.stage.format(n=number)
        folders[name] = f"{row.number + _STAGES_A_ROUND * max(0, number - 1):02d}-{name}"
        reads = [path for read, paths in sources.items() if read not in row.refers_to for path in paths]
        shards = shard_runner or LocalRunner()
        work = partial(_work, row, number, sources, config, on_note, on_progress, shards)
        stage = Stage(folders[name], row.depends_on(config), reads, work)
        planned.append(PlannedStage(row, number, stage))
    return planned


def _sources(row: Row, number: int, config: SsraConfig, folders: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what a stage reads in this run, as NN-stage or NN-stage/file, by what its row calls it."""
    sources: dict[str, list[str]] = {}
    for read in (*row.reads, *row.refers_to):
        pattern, condition = (read, _always) if isinstance(read, str) else read
        stage, slash, file = pattern.format(n=number, last=number - 1).partition("/")
        names = [name for name in folders if fnmatchcase(name, stage)] if condition(config) else []
        sources[pattern] = [f"{folders[name]}{slash}{file}" for name in names]
    return sources


def _work(
    row: Row,
    number: int,
    sources: Mapping[str, list[str]],
    config: SsraConfig,
    on_note: OnNote,
    on_progress: OnProgress,
    shard_runner: Runner,
    folder: Path,
) -> Mapping[str, Any]:
    """Do what a row says, in a folder."""
    stages = Path(config.run.output) / "stages"
    paths = {
        read: [path for source in of_read for path in sorted(stages.glob(source))]
        for read, of_read in sources.items()
    }
    return row.does(Job(config, folder, number, paths, on_note, on_progress, shard_runner))


def _run(
    config: SsraConfig,
    runner: StageRunner,
    shard_runner: Runner,
    on_note: OnNote,
    on_progress: OnProgress,
) -> list[FinishedStage]:
    """Run stage after stage; no more rounds where the last brought too little."""
    rounds = config.synthesis.rounds
    if _asks_endpoint(config) and rounds > 1:
        on_note("one round: a model behind an endpoint does not learn, it would write the same again")
        rounds = 1
    plan = partial(plan_stages, on_note=on_note, on_progress=on_progress, shard_runner=shard_runner)
    waiting = plan(config, rounds)
    runner.tell_stale([planned.stage for planned in waiting])
    finished: dict[str, FinishedStage] = {}
    last_agreement = -1.0
    while waiting:
        planned, *waiting = waiting
        stage = runner.run(planned.stage)
        finished[stage.name] = stage
        if planned.row.stage != "try-{n}":
            continue
        number, agreement = planned.round_number, stage.report["mean"]
        if number > 1 and agreement - last_agreement < config.synthesis.min_gain:
            on_note(f"round {number}: agreement {agreement:.3f} after {last_agreement:.3f}; no more rounds")
            shorter = plan(config, number - 1)
            waiting = [other for other in shorter if other.stage.name not in finished]
        last_agreement = agreement
    return list(finished.values())
