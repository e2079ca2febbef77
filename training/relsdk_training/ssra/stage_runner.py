"""Run a row of stages: each writes a folder aside, and one rename makes it done.

`RUN/stages/NN-name/` holds what a finished stage made, and `stage.json`: what it was made from (settings,
hashes of the inputs, relsdk's version), how long it took, a report. `RUN/work/NN-name/` is a stage under way;
it goes on where it stood. A stage whose settings, inputs and files are what they were is not run again; one
whose are not is, and so is what reads it. `RUN/row.json` names the stages of the latest configuration: others
may lie about, and are found again when it returns.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from relsdk.errors import InputError
from relsdk.files.atomic import sync, sync_tree
from relsdk.files.folders import file_sha256, json_sha256, write_file_atomically
from relsdk_training.engine.lock import LOCK_FILE, lock_run
from relsdk_training.ssra._shards import SUMS, json_object

__all__ = ["FinishedStage", "Stage", "StageRunner", "read_stages"]

_DESCRIPTION = "stage.json"
_IDENTITY = "identity"
_ROW = "row.json"
_REPLACED = "replaced"
# Part of every identity: raised when a stage comes to mean something else, so that older ones are run again.
_FORMAT = 2
# What differs between two equal runs: times and places. At the top of a stage; below it they are content.
_PASSING = ("log.jsonl", "result.json", "config.json", LOCK_FILE, _IDENTITY, _DESCRIPTION)
# What a training or a row of shards goes on from: of no use once its stage is done.
_UNDER_WAY = ("last", "state-*", SUMS)


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: NN-name, its folder.
        settings: What it depends on besides what it reads, in a JSON form.
        reads: Stages that it reads, as NN-name, or files of them, as NN-name/records-*.jsonl.
        make: Fills the folder it is given, which may hold what an interrupted try left; returns a report.
    """

    name: str
    settings: Any
    reads: Sequence[str]
    make: Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class FinishedStage:
    """A stage that is done.

    Attributes:
        name: NN-name.
        folder: Where it is.
        identity: Hash of its name, settings and inputs.
        outputs: Hash of each file that it made.
        seconds: How long it took.
        report: What it said about itself.
    """

    name: str
    folder: Path
    identity: str
    outputs: dict[str, str]
    seconds: float
    report: dict[str, Any]


Finished = Mapping[str, FinishedStage]


def _stage_identity(stage: Stage, finished: Finished) -> str:
    """Return a hash of all that a stage's result depends on: its settings and what it reads.

    Args:
        stage: The stage.
        finished: By name, at least the stages that it reads.

    Raises:
        InputError: A file that it reads was not made.
    """
    inputs = _inputs(stage.reads, finished)
    return json_sha256([_FORMAT, stage.name, stage.settings, list(inputs.values())])


def _stale_stages(stages: Iterable[Stage], finished: Finished) -> list[str]:
    """Return which stages have to be run: those of other settings or inputs, and what reads them.

    Fewer are, where a stage that is run again makes the same files as before.

    Args:
        stages: In their order.
        finished: By name, those that are done.
    """
    stale: list[str] = []
    for stage in stages:
        current = finished.get(stage.name)
        sources = {read.partition("/")[0] for read in stage.reads}
        if current is None or sources & {*stale} or current.identity != _stage_identity(stage, finished):
            stale.append(stage.name)
    return stale


class StageRunner:
    """Runs the stages of one run folder, which no other process may do at the same time.

    Args:
        folder: Of the run; made when it is not there.
        on_note: Called with a line for people when a stage begins, ends or is skipped.

    Raises:
        LockedError: Another process runs there.
        InputError: The folder cannot be made.
    """

    def __init__(self, folder: Path, on_note: Callable[[str], None] = lambda note: None) -> None:
        self.folder = folder
        self.on_note = on_note
        self._finished: dict[str, FinishedStage] = {}
        self._lock = lock_run(folder)

    def close(self) -> None:
        """Let other processes run here."""
        self._lock.release()

    def tell_stale(self, stages: Sequence[Stage]) -> None:
        """Say which stages of a run that was begun are still to be run, or again.

        Raises:
            InputError: The description of a stage is damaged.
        """
        folders = [self.folder / "stages" / stage.name for stage in stages]
        finished = {folder.name: _read_finished(folder) for folder in folders if folder.is_dir()}
        stale = _stale_stages(stages, finished)
        if finished and stale:
            self.on_note(f"to do, unless what they read comes out the same: {', '.join(stale)}")

    def run(self, stage: Stage) -> FinishedStage:
        """Return a stage that is done; it is run first unless it was.

        Raises:
            InputError: What it reads is damaged.
            RelsdkError: What the stage raises; what it has finished so far is kept in the work folder.
        """
        target = self.folder / "stages" / stage.name
        identity = _stage_identity(stage, self._finished)
        state = _state(target, identity)
        if state == "whole":
            self.on_note(f"{stage.name}: done before")
        else:
            if state == "damaged":
                self.on_note(f"{stage.name}: what it made is lost or changed, it is made again")
            self._make(stage, identity, target)
        _remove_what_was_under_way(target)
        self._finished[stage.name] = _read_finished(target)
        row = {"stages": list(self._finished)}
        write_file_atomically(self.folder / _ROW, json.dumps(row) + "\n")
        return self._finished[stage.name]

    def _make(self, stage: Stage, identity: str, target: Path) -> None:
        work = self.folder / "work" / stage.name
        spent = _begin(work, identity)
        self.on_note(f"{stage.name}: {'begins' if spent is None else 'goes on'}")
        started = time.perf_counter()
        try:
            report = dict(stage.make(work))
        except BaseException:
            _mark(work, identity, (spent or 0.0) + time.perf_counter() - started)
            raise
        seconds = round((spent or 0.0) + time.perf_counter() - started, 1)
        passing = {path for pattern in _UNDER_WAY for path in work.glob(pattern)}
        files = sorted(path for path in work.rglob("*") if path.is_file() and not passing & {*path.parents})
        names = [path.relative_to(work).as_posix() for path in files]
        inputs = _inputs(stage.reads, self._finished)
        content = {
            "stage": stage.name,
            "identity": identity,
            "settings": stage.settings,
            "inputs": {f"stages/{path}": json_sha256(hashes) for path, hashes in inputs.items()},
            "relsdk": version("relsdk"),
            "outputs": {name: file_sha256(work / name) for name in names if name not in _PASSING},
            "seconds": seconds,
            "report": report,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        write_file_atomically(work / _DESCRIPTION, text + "\n")
        self._put(work, target)
        self.on_note(f"{stage.name}: done in {seconds:.0f} s")

    def _put(self, work: Path, target: Path) -> None:
        """Move a stage that is done into its place. A kill leaves the old one, the new one or none there."""
        sync_tree(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        replaced = self.folder / "work" / _REPLACED
        shutil.rmtree(replaced, ignore_errors=True)  # what a kill left
        if target.exists():  # of other settings, or damaged
            target.rename(replaced)
        work.rename(target)
        sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        (target / _IDENTITY).unlink()


def read_stages(run: Path) -> list[FinishedStage]:
    """Return the finished stages of a run's latest configuration, in order.

    Args:
        run: A run's folder.

    Raises:
        InputError: The folder is missing, holds no finished stage, or is damaged.
    """
    remedy = "name the run.output of a run that was started with: relsdk train ssra CONFIG.toml"
    if not run.is_dir():
        raise InputError(f"there is no run folder {run}; {remedy}")
    if not (run / _ROW).is_file():
        raise InputError(f"{run} has no finished stage; {remedy}")
    names = _read_object(run / _ROW).get("stages")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{run / _ROW}: 'stages' must be a list of names; delete it and start the run again")
    return [_read_finished(run / "stages" / name) for name in names]


def _inputs(reads: Sequence[str], finished: Finished) -> dict[str, dict[str, str]]:
    """Return what stages read, as NN-name or NN-name/file, with the hashes of those files."""
    inputs: dict[str, dict[str, str]] = {}
    for read in reads:
        name, _, pattern = read.partition("/")
        outputs = finished[name].outputs
        if not pattern:
            inputs[name] = outputs
            continue
        files = sorted(file for file in outputs if fnmatchcase(file, pattern))
        if not files:
            raise InputError(f"{finished[name].folder} made no {pattern}; delete the folder and run it again")
        inputs |= {f"{name}/{file}": {file: outputs[file]} for file in files}
    return inputs


def _begin(work: Path, identity: str) -> float | None:
    """Make the work folder and return None, or take over that of a stopped try and return its seconds.

    One that was killed could not write them down: it worked at least until its newest file.
    """
    mark = work / _IDENTITY
    if mark.is_file():
        before, _, seconds = mark.read_text(encoding="utf-8").strip().partition(" ")
        if before == identity:
            newest = max(path.stat().st_mtime for path in work.rglob("*"))
            spent = float(seconds) + max(0.0, newest - mark.stat().st_mtime)
            _mark(work, identity, spent)
            return spent
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    _mark(work, identity, 0.0)
    return None


def _mark(work: Path, identity: str, seconds: float) -> None:
    write_file_atomically(work / _IDENTITY, f"{identity} {seconds:.1f}\n")


def _state(folder: Path, identity: str) -> Literal["none", "other", "damaged", "whole"]:
    """Say whether a stage of that identity is done, and what it made is still there as it was made."""
    if not folder.is_dir():
        return "none"
    stage = _read_finished(folder)
    if stage.identity != identity:
        return "other"
    paths = {folder / name: sha256 for name, sha256 in stage.outputs.items()}
    whole = all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in paths.items())
    return "whole" if whole else "damaged"


def _remove_what_was_under_way(folder: Path) -> None:
    for pattern in _UNDER_WAY:
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _read_finished(folder: Path) -> FinishedStage:
    path = folder / _DESCRIPTION
    content = _read_object(path)
    kinds: dict[str, Any] = {"identity": str, "outputs": dict, "seconds": (int, float), "report": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise InputError(
            f"{path}: {', '.join(wrong)} missing or wrong; delete the stage's folder and run it again"
        )
    return FinishedStage(
        folder.name,
        folder,
        content["identity"],
        content["outputs"],
        float(content["seconds"]),
        content["report"],
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror or error}); delete the stage's folder and run it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); delete the stage's folder and run it again") from error
