"""Fill a folder with the parts of an input: what is there and verifies is kept, the rest is made.

Whoever is stopped, or killed, starts again and goes on with the parts that are missing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relsdk.errors import InputError, LockedError, RelsdkError
from relsdk.files.atomic import hold_lock
from relsdk.shards.parts import PartInfo, check_parquet, part_paths, read_part, read_part_info
from relsdk.shards.plan import Job, OnProgress, Shard, Source, plan_shards
from relsdk.shards.runner import Runner, Work

__all__ = ["PartsSummary", "check_parts_folder", "fill_folder"]

_LOGGER = logging.getLogger(__name__)
_MILLION = 1_000_000
# A network file system may show for so long what was in a folder before.
_LISTING_SECONDS = 90.0
_STAGES = {"query": "queries", "document": "documents", "pair": "pairs"}


@dataclass(frozen=True, slots=True)
class PartsSummary:
    """What is in a folder of parts now, and what was done for it.

    Attributes:
        folder: The folder.
        rows: Rows of the input, each of which is in one part.
        parts: All parts.
        kept: Parts that were there before.
        tokens: Tokens that the model read, of all parts.
        truncated: Texts that were longer than the model reads, of all parts.
        computed: Rows that were computed now.
        seconds: How long that took.
    """

    folder: Path
    rows: int
    parts: int
    kept: int
    tokens: int
    truncated: int
    computed: int
    seconds: float

    @property
    def rows_per_second(self) -> float | None:
        """Rows computed now by the time it took; None when nothing was computed."""
        return self.computed / self.seconds if self.computed and self.seconds else None

    @property
    def seconds_per_million(self) -> float | None:
        """How long a million rows take at that rate."""
        rate = self.rows_per_second
        return None if rate is None else _MILLION / rate


def check_parts_folder(folder: Path) -> None:
    """Find out before the work whether a folder can take parts; it need not be there.

    Raises:
        InputError: It is a file, holds other things than parts, or cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    check_parquet()
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder for the parts, or a file that ends in .npy")
        if folder.is_dir():
            parts = {path.name for path in part_paths(folder)}
            names = sorted({*os.listdir(folder)} - parts)
            other = [name for name in names if not name.startswith((".", "_"))]
            if other:
                raise InputError(
                    f"{folder} is a folder with other things in it ({other[0]!s:.60}); nothing was touched; "
                    "name another folder"
                )
        place = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be written ({reason}); name another folder") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: no permission in {place}; name another folder")


def fill_folder(
    folder: Path,
    source: Source,
    job: Job,
    work: Work[Shard, PartInfo],
    runner: Runner,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> PartsSummary:
    """Make the parts of an input that are not in a folder yet.

    Args:
        folder: Where they go; made if it is not there.
        source: The input.
        job: What is made of it.
        work: Makes a part of a shard, and writes it.
        runner: Where the work is done.
        overwrite: Remove the parts of another job, instead of raising.
        on_progress: Called with "verify" or the kind of rows, the rows done and those of the input.

    Raises:
        InputError: There are parts of another input or model in the folder.
        LockedError: Another process fills the same folder.
        RelsdkError: The file system refused. And whatever the work raises.
    """
    check_parts_folder(folder)
    shards = plan_shards(source, job)
    with _locked(folder):
        _refuse_others(folder, source, job, {shard.file_name for shard in shards}, overwrite)
        kept = _verified(folder, shards, source, on_progress)
        missing = [shard for shard in shards if shard.hash not in kept]
        made: list[PartInfo] = []
        started, done = time.perf_counter(), sum(info.rows[1] - info.rows[0] for info in kept.values())
        before = done
        if on_progress is not None and missing:
            on_progress(_STAGES[job.kind], done, source.rows)
        with closing(runner.run(work, missing)) as results:  # type: ignore[type-var]
            for number, info in results:
                made.append(info)
                done += missing[number].stop - missing[number].start
                if on_progress is not None:
                    on_progress(_STAGES[job.kind], done, source.rows)
        _check_there(folder, missing)
    every = [*kept.values(), *made]
    return PartsSummary(
        folder=folder,
        rows=source.rows,
        parts=len(every),
        kept=len(kept),
        tokens=sum(info.tokens for info in every),
        truncated=sum(info.truncated for info in every),
        computed=done - before,
        seconds=time.perf_counter() - started if made else 0.0,
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other writers out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(folder / ".lock")
    except LockedError:
        raise LockedError(
            f"{folder} is being filled by another process; wait until it has finished, or name another one"
        ) from None
    except OSError as error:
        raise RelsdkError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release(remove=True)


def _refuse_others(folder: Path, source: Source, job: Job, wanted: set[str], overwrite: bool) -> None:
    """Raise, or remove them, when there are parts that are not of this job."""
    others = [path for path in part_paths(folder) if path.name not in wanted]
    if others and not overwrite:
        count = f"{len(others):,} part{'s' * (len(others) > 1)}"
        raise InputError(
            f"{folder} holds {count} of {_difference(others[0], source, job)}; name another folder, or pass "
            "--overwrite to remove them"
        )
    for path in others:
        try:
            path.unlink()
        except OSError as error:
            raise RelsdkError(f"cannot remove {path}: {error.strerror or error}") from error


def _difference(path: Path, source: Source, job: Job) -> str:
    """Say what a part is of that does not belong to a job."""
    try:
        info = read_part_info(path)
    except InputError as error:
        return f"something else ({error})"
    for what, theirs, ours in (
        ("another model", f"{info.model} {info.fingerprint}", f"{job.model} {job.fingerprint}"),
        ("another input", info.source[:12], source.digest[:12]),
        ("another variant", info.variant, job.variant),
        ("another dimension", info.dimension, job.dimension),
        ("another kind", info.kind, job.kind),
    ):
        if theirs != ours:
            return f"{what} ({theirs}, and this is {ours})"
    return "the same input and model, read or graded otherwise"


def _check_there(folder: Path, shards: Sequence[Shard]) -> None:
    """Raise `RelsdkError` when a part that a worker made is not in the folder: it has another one."""
    end = time.monotonic() + _LISTING_SECONDS
    names = {shard.file_name: shard for shard in shards}
    while absent := names.keys() - set(os.listdir(folder)):
        if time.monotonic() > end:
            raise RelsdkError(
                f"{names[min(absent)]}: its part was made, but {folder} does not have it; the folder must be "
                "on a file system that all machines share"
            )
        time.sleep(1)


def _verified(
    folder: Path, shards: Sequence[Shard], source: Source, on_progress: OnProgress | None
) -> dict[str, PartInfo]:
    """Return what the parts say of themselves that are there and whole; one that is damaged is said."""
    kept = {}
    for shard in shards:
        path = folder / shard.file_name
        if not path.exists():
            continue
        try:
            info, _ = read_part(path)
            if info.hash != shard.hash:
                raise InputError(f"{path} has the content of another part ({info.hash})")
            kept[shard.hash] = info
        except InputError as error:
            _LOGGER.warning("%s: it is made again now", error)
        if on_progress is not None:
            on_progress("verify", shard.stop, source.rows)
    return kept
