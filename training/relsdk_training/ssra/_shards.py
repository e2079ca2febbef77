"""Files of JSON lines that stages write, and shards that a stage turns into shards of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from relsdk.errors import InputError
from relsdk.files.folders import write_file_atomically

__all__ = [
    "json_object",
    "map_shards",
    "read_lines",
    "read_shards",
    "shard_paths",
    "write_lines",
    "write_shards",
]

Line = Mapping[str, Any]


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
    shards: list[Path],
    folder: Path,
    name: str,
    make: Callable[[list[dict[str, Any]], int], Iterable[Line]],
    on_shard: Callable[[int, int], None],
    *,
    at_once: int = 0,
) -> list[Path]:
    """Turn shards into shards of a stage; those that are there are not made again.

    Args:
        shards: Files of lines.
        folder: Where the stage's own are written.
        name: What they are called.
        make: Makes a shard's lines from those of another and its number.
        on_shard: Called with how many shards are done, and of how many.
        at_once: So many lines of a shard are made and kept before the next; 0 takes the whole shard.

    Returns:
        The stage's shards.
    """
    for number, path in enumerate(shards):
        target = folder / f"{name}-{number:05d}.jsonl"
        if not target.is_file():
            lines = list(read_lines(path))
            size = at_once or max(1, len(lines))
            pieces = (lines[start : start + size] for start in range(0, len(lines), size))
            _write_in_parts(target, (partial(make, piece, number) for piece in pieces))
        for part in _parts(target):
            part.unlink()
        on_shard(number + 1, len(shards))
    return shard_paths(folder, name)


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


def _write_in_parts(path: Path, makers: Iterable[Callable[[], Iterable[Line]]]) -> None:
    """Write a file of lines, part by part: a part that is there is not made again."""
    for number, make in enumerate(makers):
        part = path.with_name(f"part-{path.stem}-{number:05d}.jsonl")
        if not part.is_file():
            write_lines(part, make())
    write_lines(path, read_shards(_parts(path)))


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"part-{path.stem}-*.jsonl"))
