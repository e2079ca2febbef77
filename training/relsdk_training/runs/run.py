"""One training in its folder: lock, identity, resume, result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from relsdk.errors import InputError
from relsdk.files.folders import json_sha256, write_file_atomically
from relsdk.typed_json import convert_json
from relsdk_checkpoint.device import default_device
from relsdk_training.config.settings import DistillConfig, EmbedConfig, QueryConfig, RunConfig, ScoreConfig
from relsdk_training.engine.checkpoint import check_resume, clear_leftovers
from relsdk_training.engine.identity import training_identity
from relsdk_training.engine.lock import lock_run
from relsdk_training.engine.loop import TrainResult, train
from relsdk_training.engine.objective import Objective
from relsdk_training.engine.precision import resolve_precision
from relsdk_training.engine.processes import gather_values, is_first, join, together, value_of

__all__ = ["OnNote", "OnStep", "Run"]

OnStep = Callable[[int, int, dict[str, float]], None]
OnNote = Callable[[str], None]
AnyConfig = EmbedConfig | ScoreConfig | QueryConfig | DistillConfig
# A cross-encoder of 2,000 pairs has 0.4 and more; one that failed, 0.
_LEAST_QWK = 0.1
# Settings of a run that some trainings have no use for.
_ONLY_FOR: dict[str, tuple[type, ...]] = {
    "chunk": (EmbedConfig,),
    "group": (EmbedConfig,),
    "repeat": (EmbedConfig, ScoreConfig, QueryConfig),
}
# A folder that holds one of these and no log is a checkpoint, not a run.
_CHECKPOINT = ("best", "last", "model.safetensors", "modules.json")


class Run:
    """A training and its folder, `run.output`.

    Making one checks settings and folders before any data is read, joins the other processes of `torchrun`
    and sets torch's seed, which a head is drawn from.

    Args:
        config: Of the training.
        resume: Go on from the last checkpoint; without one, start.

    Raises:
        InputError: A setting would do nothing, or there is no checkpoint to start from or no folder to write
            to.
        TrainingError: Another process of `torchrun` cannot go on, or has ended.
    """

    def __init__(self, config: AnyConfig, *, resume: bool) -> None:
        _check_used(config)
        if not config.run.output:
            raise InputError(
                "run.output names no folder; set it in the configuration or with --set run.output=FOLDER"
            )
        self.config = config
        self.resume = resume
        self.folder = Path(config.run.output)
        join(config.run.timeout)
        start = config.model.checkpoint
        with together():
            if not start or not Path(start).is_dir():
                raise InputError(
                    f"model.checkpoint {start!r} is not a folder; get one with: relsdk model pull"
                )
            if is_first() and self.folder.exists():  # the folder of the others, if any, is not used
                _check_folder(self.folder, resume)
        self._settings, self._start = training_identity(config)
        torch.manual_seed(config.run.seed)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the folder; of several processes of one training, the first does.

        Raises:
            LockedError: Another process trains there.
            InputError: The folder cannot be made.
        """
        lock = None
        try:
            with together():
                if is_first():
                    lock = lock_run(self.folder)
                    clear_leftovers(self.folder)
            yield
        finally:
            if lock is not None:
                lock.release()

    def result(self, data: Any) -> TrainResult | None:
        """Return how this very training ended, if it resumes and has ended.

        It needs neither its states nor its teachers then.

        Args:
            data: See `train`.

        Raises:
            InputError: The processes do not train the same on the same.
        """
        about = self._about(data)
        _check_equal(gather_values({**about, "relsdk": version("relsdk")}))
        if not self.resume:
            return None
        return value_of(0, self._ended(json_sha256(about)) if is_first() else None)

    def _ended(self, identity: str) -> TrainResult | None:
        """Return what the folder says of a training that has ended."""
        path = self.folder / "result.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))  # a measure may be NaN
            ours = content.pop("identity") == identity
            result = convert_json(content, TrainResult, where=str(path), error=InputError, remedy="")
        except (OSError, AttributeError, LookupError, TypeError, ValueError):
            return None  # none, or damaged: the checkpoints say where the run is
        return result if ours and not result.goes_on and (self.folder / "best").is_dir() else None

    def train(
        self, objective: Objective, data: Any, *, metric: str = "mean_ap", on_step: OnStep
    ) -> TrainResult:
        """Train while the folder is locked; a training that has ended is not repeated.

        Args:
            objective: What is trained.
            data: What identifies the data, a JSON value.
            metric: Which dev measure decides; higher is better.
            on_step: Called after each step with its number, how many there are, and statistics.

        Raises:
            InputError: The checkpoint to resume from is of another training.
            TrainingError: Training cannot go on.
        """
        if (ended := self.result(data)) is not None:
            return ended
        about = self._about(data)
        identity = json_sha256(about)
        with together():
            if self.resume and is_first():
                check_resume(self.folder, identity, objective)
        self._write("config.json", json.dumps(asdict(self.config), ensure_ascii=False, indent=1))
        result = train(
            objective,
            self.config.optimiser,
            self.config.run,
            metric=metric,
            identity=identity,
            about={**about, "relsdk": version("relsdk")},  # another version may go on
            human_last=self.config.data.human_last,
            resume=self.resume,
            on_step=on_step,
        )
        if not result.goes_on:
            result = replace(result, warnings=tuple(_warnings(result, metric)))
        self._write("result.json", json.dumps({**asdict(result), "identity": identity}, indent=1))
        return result

    def _about(self, data: Any) -> dict[str, Any]:
        """Return what the training depends on, as its checkpoints and their bundles tell it.

        No place is named.
        """
        return {
            "task": type(self.config).__name__.removesuffix("Config").lower(),
            "settings": self._settings,
            "precision": resolve_precision(default_device(), self.config.run.precision),
            "started_from": self._start,
            "data": json_sha256(data),
        }

    def _write(self, name: str, text: str) -> None:
        if is_first():
            write_file_atomically(self.folder / name, f"{text}\n")


def _check_used(config: AnyConfig) -> None:
    """Check that a training has a use for what its `run` settings say.

    Raises:
        InputError: One of them would do nothing.
    """
    for name, kinds in _ONLY_FOR.items():
        value = getattr(config.run, name)
        if not isinstance(config, kinds) and value != getattr(RunConfig(), name):
            raise InputError(f"run.{name}={value} would do nothing in this training; leave it out")


def _check_equal(abouts: Sequence[Mapping[str, Any]]) -> None:
    """Check that all processes train the same: each would go on with gradients that are not of its model.

    Args:
        abouts: What the training of each process depends on.

    Raises:
        InputError: One differs from the first.
    """
    remedies = {
        "data": "give all nodes the same files, or write {node} for the node's number into a file's name",
        "precision": "set run.precision to what all of them can, such as fp32",
        "relsdk": "install one version on all nodes",
    }
    for number, about in enumerate(abouts):
        parts = [name for name, value in about.items() if value != abouts[0][name]]
        if parts:
            remedy = remedies.get(parts[0], "give all nodes the same checkpoint and settings")
            settings = _differing_settings(about["settings"], abouts[0]["settings"])
            where = ", ".join(settings if parts[0] == "settings" and settings else parts)
            raise InputError(f"process {number} of {len(abouts)} differs from process 0 in {where}; {remedy}")


def _differing_settings(ours: Any, theirs: Any, name: str = "settings") -> list[str]:
    """Name the settings that differ, with both values."""
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return [] if ours == theirs else [f"{name} ({ours!r:.80}, there {theirs!r:.80})"]
    differing = []
    for key in dict.fromkeys([*ours, *theirs]):
        inner = key if name == "settings" else f"{name}.{key}"
        differing += _differing_settings(ours.get(key), theirs.get(key), inner)
    return differing


def _check_folder(folder: Path, resume: bool) -> None:
    """Raise `InputError` unless a run may write into a folder that is there."""
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another run.output")
    if not resume and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; go on with --resume, or choose another run.output")
    is_run = (folder / "log.jsonl").is_file()
    if not is_run and any((folder / name).exists() for name in _CHECKPOINT):
        raise InputError(f"{folder} is no folder of a run (no log.jsonl); choose another run.output")


def _warnings(result: TrainResult, metric: str) -> Iterator[str]:
    """Yield the signs of a training that failed.

    Fine-tuning may end in a model that gives all pairs the same (Mosbach et al. 2021, "On the Stability of
    Fine-tuning BERT").
    """
    advice = "try another run.seed, a smaller optimiser.learning_rate or a longer optimiser.warmup"
    if result.best and result.best_step == 0:
        yield (
            f"no step had a better {metric} on dev than the start ({result.best[metric]:.4f}), so best/ is "
            f"the model as it started; {advice}"
        )
    if result.best.get("qwk", 1.0) < _LEAST_QWK:
        yield (
            f"the score model hardly tells levels apart: QWK {result.best['qwk']:.2f} on dev, where 0 is "
            f"chance; {advice}"
        )
