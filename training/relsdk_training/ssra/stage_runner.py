"""A run is a row of stages: each writes a folder aside, and one rename makes it done.

`RUN/stages/NN-name/` holds what a finished stage made, and `stage.json`: what it was made from (settings,
hashes of the inputs, relsdk's version), how long it took, a report. `RUN/work/NN-name/` is a stage under way;
it goes on where it stood. A stage whose settings, inputs and files are what they were is not done again; one
whose are not is, and so is what reads it. `RUN/row.json` names the stages of the latest configuration: others
may lie about, and are found again when it returns.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

from relsdk.errors import InputError
from relsdk.files.atomic import sync, sync_tree
from relsdk.files.folders import file_sha256, json_sha256, write_file_atomically
from relsdk_training.engine.lock import LOCK_FILE, lock_run

__all__ = [
    "FinishedStage",
    "Stage",
    "Stages",
    "json_object",
    "read_lines",
    "read_stages",
    "shard_paths",
    "write_lines",
    "write_shards",
]

_DESCRIPTION = "stage.json"
_IDENTITY = "identity"
_ROW = "row.json"
_REPLACED = "replaced"
# Part of every identity: raised when a stage comes to mean something else, so that older ones are done again.
_FORMAT = 2
# What differs between two equal runs: times and places. At the top of a stage; below it they are content.
_PASSING = ("log.jsonl", "result.json", "config.json", LOCK_FILE, _IDENTITY, _DESCRIPTION)
# What a training goes on from: of no use once its stage is done.
_UNDER_WAY = ("last", "state-*")


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: NN-name.
        settings: What it depends on besides its inputs, in a JSON form.
        inputs: What it reads: folders of stages, or single files of them.
        make: Fills the folder it is given, which may hold what an interrupted try left; returns a report.
    """

    name: str
    settings: Any
    inputs: Sequence[Path]
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


class Stages:
    """Runs the stages of one run folder, which no other process may do at the same time.

    Args:
        run: The folder; made when it is not there.
        on_note: Called with a line for people when a stage begins, ends or is skipped.

    Raises:
        LockedError: Another process runs there.
        InputError: The folder cannot be made.
    """

    def __init__(self, run: Path, on_note: Callable[[str], None] = lambda note: None) -> None:
        self.run = run
        self.on_note = on_note
        self._row: list[str] = []
        self._lock = lock_run(run)

    def close(self) -> None:
        """Let other processes run here."""
        self._lock.release()

    def done(self, stage: Stage) -> Path:
        """Return the folder of a stage, which is run first unless it is done already.

        Raises:
            InputError: What it reads is damaged.
            RelsdkError: What the stage raises; what it has finished so far is kept in the work folder.
        """
        target = self.run / "stages" / stage.name
        inputs = [_outputs(source) for source in stage.inputs]
        identity = json_sha256([_FORMAT, stage.name, stage.settings, inputs])
        state = _state(target, identity)
        if state == "whole":
            self.on_note(f"{stage.name}: done before")
        else:
            if state == "damaged":
                self.on_note(f"{stage.name}: what it made is lost or changed, it is made again")
            self._run(stage, identity, inputs, target)
        _remove_what_was_under_way(target)
        self._row.append(stage.name)
        write_file_atomically(self.run / _ROW, json.dumps({"stages": self._row}) + "\n")
        return target

    def report(self, folder: Path) -> dict[str, Any]:
        """Return the report of a stage that is done."""
        return _finished(folder).report

    def _run(self, stage: Stage, identity: str, inputs: list[dict[str, str]], target: Path) -> None:
        work = self.run / "work" / stage.name
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
        content = {
            "stage": stage.name,
            "identity": identity,
            "settings": stage.settings,
            "inputs": {
                str(path.relative_to(self.run)): json_sha256(made)
                for path, made in zip(stage.inputs, inputs, strict=True)
            },
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
        replaced = self.run / "work" / _REPLACED
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
    return [_finished(run / "stages" / name) for name in names]


def shard_paths(folder: Path, name: str) -> list[Path]:
    """Return the shards of a stage, in order.

    Raises:
        InputError: There is none, or one is missing.
    """
    found = sorted(folder.glob(f"{name}-*.jsonl"))
    if not found:
        raise InputError(f"{folder} holds no {name}; delete the folder and start the run again")
    for number, path in enumerate(found):
        if path.name != f"{name}-{number:05d}.jsonl":
            raise InputError(
                f"{folder} has {path.name} where {name}-{number:05d}.jsonl should be; delete the folder and "
                "start the run again"
            )
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines that a stage wrote.

    Raises:
        InputError: A line is damaged, which is named.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json_object(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}:{number}: damaged ({error}); delete the stage's folder and start the run again"
                ) from error


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines in one step."""
    write_file_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def write_shards(folder: Path, name: str, lines: Iterable[Mapping[str, Any]], size: int) -> int:
    """Write shards of at most `size` lines, holding one in memory; return how many lines there were."""
    total = 0
    shard: list[Mapping[str, Any]] = []
    for line in lines:
        shard.append(line)
        total += 1
        if len(shard) == size:
            write_lines(folder / f"{name}-{total // size - 1:05d}.jsonl", shard)
            shard = []
    if shard:
        write_lines(folder / f"{name}-{total // size:05d}.jsonl", shard)
    return total


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Raises:
        ValueError: It holds none; NaN and infinities are not JSON.
    """
    value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object should be")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _begin(work: Path, identity: str) -> float | None:
    """Make the work folder and return None, or take over that of a stopped try and return its seconds.

    One that was killed could not write them down: it worked at least until its newest file.
    """
    mark = work / _IDENTITY
    if mark.is_file():
        found, _, seconds = mark.read_text(encoding="utf-8").strip().partition(" ")
        if found == identity:
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
    stage = _finished(folder)
    if stage.identity != identity:
        return "other"
    paths = {folder / name: sha256 for name, sha256 in stage.outputs.items()}
    whole = all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in paths.items())
    return "whole" if whole else "damaged"


def _remove_what_was_under_way(folder: Path) -> None:
    for pattern in _UNDER_WAY:
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _finished(folder: Path) -> FinishedStage:
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


def _outputs(source: Path) -> dict[str, str]:
    """Return the hashes of a stage's files, or of one of them."""
    if source.is_dir():
        return _finished(source).outputs
    return {source.name: _finished(source.parent).outputs[source.name]}
