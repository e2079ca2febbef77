"""A run is a row of stages: each writes a folder aside, and one rename makes it done.

`RUN/stages/NN-name/` holds what a finished stage made, and `stage.json`: what it was made from, how long it
took, a report. `RUN/work/NN-name/` is a stage under way; it goes on where it stood. A stage whose settings
and inputs are what they were is not done again; one whose are not is, and so is what reads it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.folders import file_sha256, json_sha256, write_file_atomically

__all__ = ["Stage", "Stages", "read_lines", "shard_paths", "write_lines"]

_DESCRIPTION = "stage.json"
_IDENTITY = "identity"
# What differs between two equal runs: times and places.
_PASSING = ("log.jsonl", "result.json", "config.json")


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


class Stages:
    """Runs stages of one run folder.

    Args:
        run: The folder.
        on_note: Called with a line for people when a stage begins, ends or is skipped.
    """

    def __init__(self, run: Path, on_note: Callable[[str], None] = lambda note: None) -> None:
        self.run = run
        self.on_note = on_note

    def done(self, stage: Stage) -> Path:
        """Return the folder of a stage, which is run first unless it is done already.

        Raises:
            RelsdkError: What the stage raises; what it has finished so far is kept in the work folder.
        """
        target = self.run / "stages" / stage.name
        identity = json_sha256([stage.name, stage.settings, [_outputs(source) for source in stage.inputs]])
        if target.is_dir() and _description(target)["identity"] == identity:
            self.on_note(f"{stage.name}: done before")
            return target
        work = self.run / "work" / stage.name
        spent = self._begin(work, identity)
        self.on_note(f"{stage.name}: {'goes on' if spent else 'begins'}")
        started = time.perf_counter()
        try:
            report = dict(stage.make(work))
        except BaseException:
            spent += time.perf_counter() - started
            write_file_atomically(work / _IDENTITY, f"{identity} {spent:.1f}\n")
            raise
        seconds = spent + time.perf_counter() - started
        (work / _IDENTITY).unlink()
        files = sorted(path for path in work.rglob("*") if path.is_file() and path.name not in _PASSING)
        content = {
            "stage": stage.name,
            "identity": identity,
            "outputs": {path.relative_to(work).as_posix(): file_sha256(path) for path in files},
            "seconds": round(seconds, 1),
            "report": report,
        }
        write_file_atomically(work / _DESCRIPTION, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # of other settings; nothing reads it any more
            shutil.rmtree(target)
        work.rename(target)
        self.on_note(f"{stage.name}: done in {seconds:.0f} s")
        return target

    def report(self, folder: Path) -> dict[str, Any]:
        """Return the report of a stage that is done."""
        report: dict[str, Any] = _description(folder)["report"]
        return report

    def _begin(self, work: Path, identity: str) -> float:
        """Make the work folder, or take over the one of a try that was stopped; return its seconds so far."""
        mark = work / _IDENTITY
        if mark.is_file():
            found, _, seconds = mark.read_text(encoding="utf-8").strip().partition(" ")
            if found == identity:
                return float(seconds or 0.0) or 0.1
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        write_file_atomically(mark, f"{identity} 0\n")
        return 0.0


def shard_paths(folder: Path, name: str) -> list[Path]:
    """Return the shards of a stage, in order.

    Raises:
        InputError: There is none.
    """
    found = sorted(folder.glob(f"{name}-[0-9]*.jsonl"))
    if not found:
        raise InputError(f"{folder} holds no {name}; the stage has nothing to go on from")
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines that a stage wrote."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def write_lines(path: Path, lines: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines in one step."""
    write_file_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _description(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    return content


def _outputs(source: Path) -> dict[str, str]:
    """Return the hashes of a stage's files, or of one of them."""
    if source.is_dir():
        outputs: dict[str, str] = _description(source)["outputs"]
        return outputs
    return {source.name: _description(source.parent)["outputs"][source.name]}
