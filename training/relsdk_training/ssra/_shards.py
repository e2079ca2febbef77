"""Files of JSON lines that stages write, and shards that a stage turns into shards of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, cast

from relsdk.errors import InputError
from relsdk.files.folders import file_sha256, write_file_atomically
from relsdk.runtime.hardware import choose_threads
from relsdk.shards.runner import LocalRunner, Runner
from relsdk_training.ssra.job import Job

__all__ = [
    "SUMS",
    "Make",
    "json_object",
    "map_shards",
    "read_lines",
    "read_shards",
    "shard_paths",
    "write_lines",
    "write_shards",
]

Line = Mapping[str, Any]
Make = Callable[[list[dict[str, Any]], int], Iterable[Line]]
# Of a stage under way: the hashes of the shards that are done.
SUMS = "sums"


def shard_paths(folder: Path, name: str) -> list[Path]:
    """Return the shards of a stage, in order.

    Raises:
        InputError: There is none, or one is missing.
    """
    paths = sorted(folder.glob(f"{name}-*.jsonl"))
    if not paths:
        raise InputError(f"{folder} holds no {name}; delete the folder and start the run again")
    for number, path in enumerate(paths):
        if path.name != f"{name}-{number:05d}.jsonl":
            raise InputError(
                f"{folder} has {path.name} where {name}-{number:05d}.jsonl should be; delete the folder and "
                "start the run again"
            )
    return paths


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


def read_shards(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the objects of several files; see `read_lines`."""
    for path in paths:
        yield from read_lines(path)


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a file of JSON lines in one step."""
    write_file_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def write_shards(folder: Path, name: str, lines: Iterable[Line], size: int) -> int:
    """Write shards of at most `size` lines, holding one in memory; return how many lines there were."""
    total = 0
    shard: list[Line] = []
    for line in lines:
        shard.append(line)
        total += 1
        if len(shard) == size:
            write_lines(folder / f"{name}-{total // size - 1:05d}.jsonl", shard)
            shard = []
    if shard:
        write_lines(folder / f"{name}-{total // size:05d}.jsonl", shard)
    return total


def map_shards(
    job: Job,
    shards: Sequence[Path],
    name: str,
    opener: Callable[[Job], Make],
    *,
    at_once: int = 0,
    alone: bool = False,
) -> list[Path]:
    """Turn shards into shards of a stage, by one worker or many; those that are whole are not made again.

    Args:
        job: The stage; its own shards are written into its folder.
        shards: Files of lines.
        name: What the stage's own are called.
        opener: A function of a module, which loads what the work needs; it returns what makes a shard's lines
            from those of another and its number. Called once a worker, when that has something to do.
        at_once: So many lines of a shard are made and kept before the next; 0 takes the whole shard.
        alone: Whether one worker in this process does it, whatever the job says: an endpoint has threads of
            its own.

    Returns:
        The stage's shards.

    Raises:
        InputError: A shard of the stage before is damaged.
        RelsdkError: What the work raises, or a shard that ended several workers.
    """
    targets = [job.folder / f"{name}-{number:05d}.jsonl" for number in range(len(shards))]
    waiting = [number for number, target in enumerate(targets) if not _is_whole(target)]
    for number, target in enumerate(targets):
        if number not in waiting:
            _remove_parts(target)
        elif target.is_file() and _sum_of(target).is_file():
            job.on_note(f"{target.name}: damaged, it is made again")
    done = len(shards) - len(waiting)
    if done:
        job.tell_progress(done, len(shards))
    runner = LocalRunner() if alone else job.shard_runner
    work = _ShardWork(opener, job.for_workers(), at_once, _threads(job, runner), Path.cwd())
    items = [(number, shards[number], targets[number]) for number in waiting]
    with closing(cast(Generator[Any], runner.run(work, items))) as results:
        for _ in results:
            done += 1
            job.tell_progress(done, len(shards))
    return shard_paths(job.folder, name)


@dataclass(frozen=True)
class _ShardWork:
    """Makes a shard of a stage from one of another.

    Attributes:
        opener: See `map_shards`.
        job: The stage.
        at_once: See `map_shards`.
        threads: Of torch in each worker; 0 leaves its choice.
        place: Where relative paths of the settings begin.
    """

    opener: Callable[[Job], Make]
    job: Job
    at_once: int
    threads: int
    place: Path

    def open(self) -> Callable[[tuple[int, Path, Path]], str]:
        """Return what makes a shard: of its number, the other's path and its own."""
        if Path.cwd() != self.place:  # on a machine of a cluster
            os.chdir(self.place)
        return partial(self._make, cache(self._load))

    def _load(self) -> Make:
        """Load what makes lines; torch, if it came with that, takes the worker's threads."""
        make = self.opener(self.job)
        if self.threads and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)
        return make

    def _make(self, make: Callable[[], Make], shard: tuple[int, Path, Path]) -> str:
        number, source, target = shard
        lines = list(read_lines(source))
        size = self.at_once or max(1, len(lines))

        def make_piece(start: int) -> Iterable[Line]:
            return make()(lines[start : start + size], number)

        _write_in_parts(target, [partial(make_piece, start) for start in range(0, len(lines), size)])
        _sum_of(target).parent.mkdir(exist_ok=True)
        write_file_atomically(_sum_of(target), file_sha256(target) + "\n")
        _remove_parts(target)  # last: what cost money is there until the shard is
        return target.name


def _threads(job: Job, runner: Runner) -> int:
    """Return the threads of a worker: those of the settings, or this machine's, shared."""
    if job.config.run.threads or not isinstance(runner, LocalRunner):
        return job.config.run.threads or 1  # a cluster has more workers instead
    return max(1, choose_threads().threads // runner.workers) if runner.workers > 1 else 0


def _sum_of(shard: Path) -> Path:
    """Return the file that says what a shard was when it was made."""
    return shard.parent / SUMS / f"{shard.name}.sha256"


def _is_whole(shard: Path) -> bool:
    """Whether a shard is there as it was made."""
    try:
        return _sum_of(shard).read_text(encoding="utf-8").strip() == file_sha256(shard)
    except (OSError, ValueError):
        return False


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Raises:
        ValueError: It holds none; NaN and infinities are not JSON.
    """
    value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object should be")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _write_in_parts(path: Path, makers: Sequence[Callable[[], Iterable[Line]]]) -> None:
    """Write a file of lines, part by part: a part that is there, and can be read, is not made again."""
    parts = [path.with_name(f"part-{path.stem}-{number:05d}.jsonl") for number in range(len(makers))]
    for part, make in zip(parts, makers, strict=True):
        if not _is_readable(part):
            write_lines(part, make())
    write_lines(path, read_shards(parts))


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file() and all(True for _ in read_lines(path))
    except InputError:
        return False


def _remove_parts(path: Path) -> None:
    for part in path.parent.glob(f"part-{path.stem}-*.jsonl"):
        part.unlink()
