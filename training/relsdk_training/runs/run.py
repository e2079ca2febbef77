"""What the command line starts: configuration in, trained checkpoint out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from relsdk.errors import InputError
from relsdk.files.folders import json_sha256, write_file_atomically
from relsdk.formats import read_queries
from relsdk.levels import RelevanceLevel
from relsdk_training.engine.checkpoint import check_resume, clear_leftovers
from relsdk_training.config.settings import (
    DataConfig,
    DistillConfig,
    EmbedConfig,
    QueryConfig,
    RunConfig,
    ScoreConfig,
)
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays, read_splits
from relsdk_checkpoint.device import default_device
from relsdk_training.objectives.distillation import DistillationObjective, distillation_texts
from relsdk_training.objectives.embedding import EmbeddingObjective
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_training.engine.identity import checkpoint_hash, training_identity
from relsdk_training.engine.interrupt import STOPPED_FROM_OUTSIDE
from relsdk_training.engine.loop import TrainResult, train
from relsdk_training.engine.precision import resolved
from relsdk_training.engine.processes import is_first, join, wait
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.objectives.query import QueryObjective
from relsdk_training.engine.lock import lock_run
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_training.objectives.score import ScoreObjective
from relsdk_training.teachers.cache import TEACHER_FOLDER
from relsdk_training.teachers.targets import check_teachers, label_targets, soft_targets, unlabelled_pairs
from relsdk_training.data.text import normal_form

__all__ = [
    "Splits",
    "check_used",
    "load_splits",
    "train_distill",
    "train_embed",
    "train_query",
    "train_score",
]

OnStep = Callable[[int, int, dict[str, float]], None]
OnNote = Callable[[str], None]
# A cross-encoder of 2,000 pairs has 0.4 and more; one that failed, 0.
_LEAST_QWK = 0.1
AnyConfig = EmbedConfig | ScoreConfig | QueryConfig | DistillConfig
# Settings of a run that some trainings have no use for.
_ONLY_FOR: dict[str, tuple[type, ...]] = {
    "chunk": (EmbedConfig,),
    "group": (EmbedConfig,),
    "repeat": (EmbedConfig, ScoreConfig, QueryConfig),
}


@dataclass(frozen=True, eq=False)
class Splits:
    """Pairs to train and to decide on."""

    train: PairArrays
    dev: PairArrays


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Read the pairs to train and to decide on; see `read_splits`."""
    splits = read_splits(config, seed)
    return Splits(pair_arrays(splits["train"]), pair_arrays(splits["dev"]))


def train_embed(
    config: EmbedConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train an encoder on graded pairs; `OUTPUT/best` is what `relsdk export encoder` takes.

    Args:
        config: See `EmbedConfig`.
        resume: Go on from the last checkpoint.
        on_step: Called after each step.
        on_note: Called with lines for people.

    Raises:
        InputError: The configuration, the data or the checkpoint is wrong.
        LockedError: Another process trains in the same folder.
        TrainingError: Training cannot go on.
    """
    splits = _prepared(config, resume, on_note)
    _check_dev(splits.dev)
    prompts = _prompts(config)
    encoder = TextEncoder.load(
        Path(config.model.checkpoint),
        layers=config.model.layers or None,
        prompts=prompts,
        max_tokens=config.model.max_tokens,
        lora_rank=config.model.lora_rank,
        dropout=config.model.dropout,
    )
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
    if wider := [dim for dim in config.loss.matryoshka_dims if dim not in objective.cuts]:
        on_note(
            f"loss.matryoshka_dims: {wider} left out; the encoder's vectors have "
            f"{encoder.settings.dimension} dimensions"
        )
    return _trained(objective, config, _content(splits), resume, on_step)


def train_score(
    config: ScoreConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a score model on graded pairs, as `train_embed` an encoder; for `relsdk export scorer`.

    With `config.teacher`, it also learns what other models say of these pairs and of such without labels; see
    `relsdk_training.teachers.targets`, also for what it raises beyond `train_embed`.
    """
    check_teachers(config.teacher)
    splits = _prepared(config, resume, on_note)
    _check_dev(splits.dev)
    model = ScoreModel.load(
        Path(config.model.checkpoint),
        config.model.head,
        layers=config.model.layers or None,
        max_tokens=config.model.max_tokens,
        lora_rank=config.model.lora_rank,
        dropout=config.model.dropout,
    )
    more: list[tuple[str, str]] = []
    if config.teacher.pairs:
        held_out = _held_out_queries(config.data, splits.dev)
        more, dropped = unlabelled_pairs(config.teacher.pairs, splits.train, held_out)
        on_note(f"{len(more):,} pairs to grade, without {dropped:,} of queries of dev or test")
    data = [_content(splits), more, *map(checkpoint_hash, config.teacher.checkpoints)]
    if resume and (ended := _ended(config, _about(config, data))):
        return ended
    with _alone(config):  # from the teachers' first pair on: it writes into the run's folder
        lesson = (
            soft_targets(config.teacher, splits.train, more, splits.dev, config.run, on_note)
            if config.teacher.checkpoints
            else label_targets(splits.train)
        )
        objective = ScoreObjective(model, lesson, splits.dev, config.run)
        result = _trained_alone(objective, config, data, resume, on_step)
        _forget_teachers(config, result)
    return result


def train_query(
    config: QueryConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a model that writes a query for a document and a wanted level; see `train_embed`."""
    splits = _prepared(config, resume, on_note)
    texts = _texts(config, _held_out_queries(config.data, splits.dev), on_note)
    writer = QueryWriter.load(config.model)
    objective = QueryObjective(writer, splits.train, splits.dev, config.run, texts)
    return _trained(objective, config, [_content(splits), texts], resume, on_step, metric="log_likelihood")


def train_distill(
    config: DistillConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a student of fewer layers on the teacher's vectors of unlabelled texts; see `train_embed`."""
    _check_run(config, resume)
    if not config.model.layers:
        raise InputError("model.layers names no layers; say what the student keeps, such as [0, 6]")
    if not config.data.dev:
        raise InputError("data.dev names no file; labelled pairs decide which checkpoint is best")
    load = partial(
        TextEncoder.load,
        Path(config.model.checkpoint),
        max_tokens=config.model.max_tokens,
        prompts=_prompts(config),
    )
    teacher, student = (
        load(),
        load(layers=config.model.layers, lora_rank=config.model.lora_rank, dropout=config.model.dropout),
    )
    dev = pair_arrays(load_pairs(config.data.dev, config.data.label_map))
    _check_dev(dev)
    texts = distillation_texts(config.distill, teacher.settings.prompts, config.run.seed)
    on_note(f"{len(texts):,} texts; dev: {dev.describe()}")
    data = [texts, _pairs_content(dev)]
    if resume and (ended := _ended(config, _about(config, data))):
        return ended
    with _alone(config):  # from the teacher's first text on: it writes into the run's folder
        objective = DistillationObjective(student, teacher, texts, dev, config.distill, config.run, on_note)
        result = _trained_alone(objective, config, data, resume, on_step)
        _forget_teachers(config, result)
    return result


def _ended(config: AnyConfig, about: Mapping[str, Any]) -> TrainResult | None:
    """Return how this very training ended, once it has: it needs neither its states nor its teachers then."""
    try:
        content = dict(json.loads((Path(config.run.output) / "result.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):  # none, or damaged: the run's checkpoints say where it is
        return None
    if content.pop("identity", None) != json_sha256(about) or content["stopped"] in STOPPED_FROM_OUTSIDE:
        return None
    if not (Path(config.run.output) / "best").is_dir():
        return None
    return TrainResult(**{**content, "warnings": tuple(content["warnings"])})


def _forget_teachers(config: AnyConfig, result: TrainResult) -> None:
    """Remove what was kept of teachers for a resume."""
    if result.stopped not in STOPPED_FROM_OUTSIDE and is_first():
        shutil.rmtree(Path(config.run.output) / TEACHER_FOLDER, ignore_errors=True)


def _texts(config: QueryConfig, held_out: Sequence[str], on_note: OnNote) -> list[str]:
    """Return the distinct texts that a warm start repeats, without those in `held_out`."""
    if config.data.texts and config.model.kind != "warm_start":
        raise InputError(f"data.texts is for warm starts; model.kind is {config.model.kind!r}")
    texts = dict.fromkeys(query.text for path in config.data.texts for query in read_queries(path))
    unseen = {normal_form(query) for query in held_out}
    found = [text for text in texts if normal_form(text) not in unseen]
    if texts:
        on_note(f"texts: {len(found):,} to repeat, without {len(texts) - len(found):,} that dev or test asks")
    return found


def _held_out_queries(config: DataConfig, dev: PairArrays) -> list[str]:
    """Return the queries of dev and of test, which nothing may be learned of."""
    test = load_pairs(config.test, config.label_map) if config.test else []
    return [*dev.queries, *(pair.query for pair in test)]


def _check_run(config: AnyConfig, resume: bool) -> None:
    """Raise `InputError` unless there is a checkpoint to start from and a folder to write to."""
    check_used(config)
    if not config.run.output:
        raise InputError(
            "run.output names no folder; set it in the configuration or with --set run.output=FOLDER"
        )
    join()
    output, checkpoint = Path(config.run.output), Path(config.model.checkpoint)
    if not config.model.checkpoint or not checkpoint.is_dir():
        raise InputError(
            f"model.checkpoint {config.model.checkpoint!r} is not a folder; get one with: relsdk model pull"
        )
    if output.exists():
        _check_output(output, resume)
    wait()  # nobody writes before all have looked
    torch.manual_seed(config.run.seed)  # before a head is drawn


def check_used(config: AnyConfig) -> None:
    """Check that a training has a use for what its `run` settings say.

    Raises:
        InputError: One of them would do nothing.
    """
    for name, kinds in _ONLY_FOR.items():
        value = getattr(config.run, name)
        if not isinstance(config, kinds) and value != getattr(RunConfig(), name):
            raise InputError(f"run.{name}={value} would do nothing in this training; leave it out")


def _check_output(output: Path, resume: bool) -> None:
    """Raise `InputError` unless a run may write into a folder that is there."""
    if not output.is_dir():
        raise InputError(f"{output} is a file; choose another run.output")
    if not resume and any(output.iterdir()):
        raise InputError(f"{output} is not empty; go on with --resume, or choose another run.output")
    made = (output / "log.jsonl").is_file()
    if not made and any(
        (output / name).exists() for name in ("best", "last", "model.safetensors", "modules.json")
    ):
        raise InputError(f"{output} is no folder of a run (no log.jsonl); choose another run.output")


def _prepared(config: EmbedConfig | ScoreConfig | QueryConfig, resume: bool, on_note: OnNote) -> Splits:
    _check_run(config, resume)
    splits = load_splits(config.data, config.run.seed)
    on_note(f"train: {splits.train.describe()}")
    on_note(f"dev:   {splits.dev.describe()}")
    return splits


def _check_dev(dev: PairArrays) -> None:
    """Raise `InputError` unless mean AP is defined: no checkpoint would ever be the best."""
    if not (dev.labels == RelevanceLevel.FULL).any():
        raise InputError(
            f"dev has no pair of level {RelevanceLevel.FULL:d}, so mean AP, which decides what checkpoint is "
            f"best, is not defined: {dev.describe()}; labels of fewer levels become levels with "
            "data.label_map, such as [0, 1, 3] for labels 0, 1, 2"
        )


def _prompts(config: EmbedConfig | DistillConfig) -> dict[str, str] | None:
    asked = {"query": config.model.query_prompt, "document": config.model.document_prompt}
    given = {name: text for name, text in asked.items() if text is not None}
    if given and len(given) != len(asked):
        raise InputError("model.query_prompt and model.document_prompt go together; set both or none")
    return given or None


@contextmanager
def _alone(config: AnyConfig) -> Iterator[None]:
    """Hold the lock of the run's folder; of several processes of one training, the first does."""
    lock = lock_run(Path(config.run.output)) if is_first() else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _trained(
    objective: Any,
    config: AnyConfig,
    data: Any,
    resume: bool,
    on_step: OnStep,
    *,
    metric: str = "mean_ap",
) -> TrainResult:
    with _alone(config):
        return _trained_alone(objective, config, data, resume, on_step, metric=metric)


def _trained_alone(
    objective: Any,
    config: AnyConfig,
    data: Any,
    resume: bool,
    on_step: OnStep,
    *,
    metric: str = "mean_ap",
) -> TrainResult:
    """Train in a folder whose lock is held; a training that has ended is not repeated."""
    output = Path(config.run.output)
    about = _about(config, data)
    identity = json_sha256(about)
    if is_first():
        clear_leftovers(output)
    if resume and (ended := _ended(config, about)):
        return ended
    if resume:
        check_resume(output, identity, objective)
    if is_first():
        content = json.dumps(asdict(config), ensure_ascii=False, indent=1)
        write_file_atomically(output / "config.json", content + "\n")
    result = train(
        objective,
        config.optimiser,
        config.run,
        metric=metric,
        identity=identity,
        about={**about, "relsdk": version("relsdk")},  # another version may go on
        resume=resume,
        on_step=on_step,
    )
    if result.stopped not in STOPPED_FROM_OUTSIDE:
        result = replace(result, warnings=tuple(_warnings(result, metric)))
    if is_first():
        said = {**asdict(result), "identity": identity}
        write_file_atomically(output / "result.json", json.dumps(said, indent=1) + "\n")
    return result


def _about(config: AnyConfig, data: Any) -> dict[str, Any]:
    """Return what a training depends on, as its checkpoints and their bundles tell it; no place is named."""
    settings, started_from = training_identity(config)
    return {
        "task": type(config).__name__.removesuffix("Config").lower(),
        "settings": settings,
        "precision": resolved(default_device(), config.run.precision),
        "started_from": started_from,
        "data": json_sha256(data),
    }


def _warnings(result: TrainResult, metric: str) -> Iterator[str]:
    """Yield what tells a training that failed.

    Fine-tuning may end in a model that gives all pairs the same (Mosbach et al. 2021, "On the Stability of
    Fine-tuning BERT").
    """
    advice = "try another run.seed, a smaller optimiser.learning_rate or a longer optimiser.warmup"
    if result.best_step == 0:
        yield (
            f"no step had a better {metric} on dev than the start ({result.best[metric]:.4f}), so best/ is "
            f"the model as it started; {advice}"
        )
    if result.best.get("qwk", 1.0) < _LEAST_QWK:
        yield (
            f"the score model hardly tells levels apart: QWK {result.best['qwk']:.2f} on dev, where 0 is "
            f"chance; {advice}"
        )


def _content(splits: Splits) -> Any:
    """Return what identifies the data of a run."""
    return [_pairs_content(pairs) for pairs in (splits.train, splits.dev)]


def _pairs_content(pairs: PairArrays) -> Any:
    return [
        pairs.queries,
        pairs.documents,
        pairs.query_of.tolist(),
        pairs.document_of.tolist(),
        pairs.labels.tolist(),
    ]
