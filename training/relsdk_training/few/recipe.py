"""The stages of `relsdk train few`; `relsdk_training.ssra.stage_runner` runs them, and does none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.files.folders import file_sha256
from relsdk_training.config.few import FewConfig
from relsdk_training.config.settings import DataConfig, EmbedConfig
from relsdk_training.data.lessons import read_opinions
from relsdk_training.data.opinions import compare_opinions
from relsdk_training.data.pairs import load_pairs, read_splits
from relsdk_training.engine.identity import training_identity
from relsdk_training.few._ask import Asking, OnQuestions, check_endpoint
from relsdk_training.few._bundle import check_export, make_bundle, measure_bundle
from relsdk_training.few._data import SPLITS, data_identity, level_counts, make_data
from relsdk_training.few._report import describe_run, write_report
from relsdk_training.runs.embed import train_embed
from relsdk_training.ssra.job import OnNote, OnProgress
from relsdk_training.ssra.model_training import train_to_end
from relsdk_training.ssra.stage_runner import FinishedStage, Stage, StageRunner

__all__ = ["FewResult", "train_few"]

# Folders of the stages: the same whatever stages are left out.
DATA, JUDGE, WRITE = "01-data", "02-judge", "03-write"
TRAIN, BUNDLE, EVAL = "04-train", "05-bundle", "06-eval"
Do = Callable[[str, Any, Sequence[str], Callable[[Path], Mapping[str, Any]]], FinishedStage]


@dataclass(frozen=True)
class FewResult:
    """What a run made.

    Attributes:
        bundle: Folder of the bundle.
        report: Markdown file for people; report.json beside it is `content`.
        content: What the report says; see `describe_run`.
    """

    bundle: str
    report: str
    content: dict[str, Any]


def train_few(
    config: FewConfig,
    *,
    on_note: OnNote = lambda note: None,
    on_progress: OnProgress = lambda stage, done, total: None,
    on_questions: OnQuestions = lambda cost: None,
) -> FewResult:
    """Go from few labels or none to a calibrated bundle, or do what is not done of it yet.

    Args:
        config: See `FewConfig`.
        on_note: Called with lines for people.
        on_progress: Called with a stage's name, how much of it is done, and of how much.
        on_questions: Called before a language model is asked anything, with what asking will cost. What it
            raises ends the run.

    Raises:
        InputError: The configuration or the data is wrong.
        LockedError: Another process runs in the same folder.
        MissingExtraError: What exports or asks is not installed.
        TrainingError: A training, an endpoint or a command cannot go on; what is done is kept.
    """
    _check(config)
    runner = StageRunner(Path(config.run.output), on_note)
    stages: dict[str, FinishedStage] = {}

    def do(name: str, settings: Any, reads: Sequence[str], make: Callable[[Path], Any]) -> FinishedStage:
        stages[name] = runner.run(Stage(name, settings, reads, make))
        return stages[name]

    try:
        _run(config, do, on_note, on_progress, on_questions)
        content = describe_run({name: stage.report for name, stage in stages.items()})
        seconds = {name: stage.seconds for name, stage in stages.items()}
        bundle = stages[BUNDLE].folder / "bundle"
        content |= {"bundle": str(bundle), "seconds": seconds}
        return FewResult(str(bundle), str(write_report(runner.folder, content)), content)
    finally:
        runner.close()


def _check(config: FewConfig) -> None:
    """Check what needs no data, before anything is asked or trained."""
    if not config.run.output:
        raise InputError("no folder for the run; name one with --output FOLDER")
    if not Path(config.model.checkpoint or " ").is_dir():
        raise InputError(
            f"the checkpoint {config.model.checkpoint!r} is not a folder; get one with relsdk model pull, "
            "and name it with --checkpoint FOLDER"
        )
    check_export()
    if config.endpoint.is_named:
        if not config.ask.unlabelled:
            raise InputError("a language model needs texts; name pairs or documents with --unlabelled FILE")
        check_endpoint(config)
    elif config.ask.unlabelled:
        raise InputError(
            "--unlabelled is for a language model; name one with --endpoint URL --model NAME, or take its "
            "answers that are there with --weak FILE and --written FILE"
        )
    elif not (config.data.train or config.data.weak or config.data.written):
        raise InputError(
            "there is nothing to learn from; name labels (--labels FILE), a language model to ask "
            "(--endpoint URL --model NAME --unlabelled FILE), or answers of one (--weak FILE, --written FILE)"
        )


def _run(
    config: FewConfig,
    do: Do,
    on_note: OnNote,
    on_progress: OnProgress,
    on_questions: OnQuestions,
) -> None:
    """Do stage after stage."""
    data = do(DATA, data_identity(config), (), partial(make_data, config))
    weak, written = config.data.weak, config.data.written
    reads = [DATA]
    given = _embed_settings(config, data.folder, weak, written).data
    read_opinions(given, read_splits(given, 0, optional=SPLITS))  # a leak is told before anything is asked
    asking = Asking(config, data.folder, data.report, on_progress, on_questions)
    if asking.grades:
        do(JUDGE, asking.identity("grade"), (DATA,), asking.grade)
        weak = (str(data.folder.parent / JUDGE / "grades.jsonl"),)
        reads.append(JUDGE)
    if asking.writes:
        do(WRITE, asking.identity("write"), (DATA,), asking.write)
        written = (str(data.folder.parent / WRITE / "written.jsonl"),)
        reads.append(WRITE)
    settings = _embed_settings(config, data.folder, weak, written)
    files = [file_sha256(Path(path)) for path in (*config.data.weak, *config.data.written)]
    train = partial(_train, settings, on_note, on_progress)
    trained = do(TRAIN, [training_identity(settings), files], reads, train)
    dev = data.folder / "dev.jsonl" if data.report["calibrates"] else None
    bundle = do(
        BUNDLE,
        [config.bundle.variants, dev is not None],
        (TRAIN, f"{DATA}/dev.jsonl") if dev else (TRAIN,),
        lambda folder: make_bundle(trained.folder / "best", folder, config.bundle.variants, dev, on_note),
    )
    measured = {name: path for name in ("dev", "test") if (path := data.folder / f"{name}.jsonl").is_file()}
    do(
        EVAL,
        list(measured),
        (BUNDLE, *(f"{DATA}/{path.name}" for path in measured.values())),
        lambda folder: measure_bundle(bundle.folder / "bundle", measured, on_note),
    )


def _embed_settings(
    config: FewConfig, data: Path, weak: tuple[str, ...], written: tuple[str, ...]
) -> EmbedConfig:
    """Return the settings of the training: what has nothing to work on is left out."""
    splits = {name: str(path) for name in SPLITS if (path := data / f"{name}.jsonl").is_file()}
    given = DataConfig()
    usual = {
        "weak_weight": bool(weak),
        "written_weight": bool(written),
        "human_last": bool("train" in splits and (weak or written)),
    }
    unused = {name: getattr(given, name) for name, is_used in usual.items() if not is_used}
    files = {name: splits.get(name, "") for name in SPLITS}
    changes = {**files, "weak": weak, "written": written, "label_map": (), **unused}
    settings = EmbedConfig(**{field.name: getattr(config, field.name) for field in fields(EmbedConfig)})
    return replace(settings, data=replace(config.data, **changes))


def _train(
    settings: EmbedConfig, on_note: OnNote, on_progress: OnProgress, folder: Path
) -> Mapping[str, Any]:
    """Train the encoder; report how that went, and what the opinions are worth."""
    in_folder = replace(settings, run=replace(settings.run, output=str(folder)))
    report = train_to_end(train_embed, in_folder, on_note, on_progress)
    data = settings.data
    labelled = [pair for path in (data.train, data.dev) if path for pair in load_pairs(path)]
    opinions = compare_opinions((pair for path in data.weak for pair in load_pairs(path)), labelled)
    return {
        **report,
        "opinions": opinions.to_dict() if data.weak else None,
        "written": level_counts(pair for path in data.written for pair in load_pairs(path)),
    }
