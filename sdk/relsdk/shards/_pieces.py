"""What all work on shards has in common: rows in pieces, errors that name them, and the same model."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from relsdk.bundle import Bundle, Variant
from relsdk.errors import BundleError, InputError
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.variants import runs_exactly
from relsdk.shards.plan import Job, RowCursor, Shard
from relsdk.shards.runner import LocalRunner, Runner

__all__ = ["Piece", "check_model", "check_places", "pieces", "quietly", "threads_of_a_worker"]

# Rows that are read, tokenised and computed at a time: a worker needs no more memory for a larger part.
_PIECE_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a shard.

    Attributes:
        rows: They.
        place: Where they are, for messages.
    """

    rows: list[Any]
    place: str

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Let errors of a model, which count inputs from 0, say which rows those are."""
        try:
            yield
        except (InputError, BundleError) as error:
            raise type(error)(f"{self.place} (input 0 is the first of them): {error}") from error


def pieces(cursor: RowCursor, shard: Shard) -> Iterator[Piece]:
    """Yield the rows of a shard; where one piece ends depends on the shard alone."""
    rows, first = cursor.rows(shard.start, shard.stop), shard.start
    while some := list(islice(rows, _PIECE_ROWS)):
        yield Piece(some, f"{shard.source}, rows {first + 1:,} to {first + len(some):,}")
        first += len(some)


def check_model(bundle: Bundle, variant: Variant, job: Job) -> None:
    """Compare what a worker opened with what the work was planned for.

    Raises:
        BundleError: The folder holds another model.
        InputError: This machine does not compute the variant exactly.
    """
    if bundle.fingerprint != job.fingerprint:
        raise BundleError(
            f"{bundle.path} holds another model ({bundle.fingerprint}) than when the work was planned "
            f"({job.fingerprint}); start again"
        )
    if not runs_exactly(variant):
        raise InputError(
            f"this machine does not compute the variant {variant.name} exactly, so its results would be "
            "others than those of the machine that planned the work; name a variant that runs everywhere, "
            "such as --variant int8_avx2 or fp32"
        )


def check_places(*places: str | os.PathLike[str]) -> None:
    """Find out whether a worker sees the files of its work, which may run on another machine.

    Raises:
        InputError: One is not there.
    """
    for place in places:
        if not os.path.exists(place):
            raise InputError(
                f"the machine {socket.gethostname()} does not see {os.fspath(place)}; the model, the "
                "input and the folder of parts must be on a file system that all machines have under the "
                "same paths"
            )


@contextmanager
def quietly() -> Iterator[None]:
    """Open a model without its warnings: they were given when the work was planned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def threads_of_a_worker(runner: Runner, threads: int | None) -> int:
    """Return how many threads each worker takes: this machine's, shared, unless they are given."""
    if threads is None and not isinstance(runner, LocalRunner):
        return 1  # a cluster has more workers instead
    chosen = choose_threads(threads).threads
    return max(1, chosen // runner.workers) if threads is None and isinstance(runner, LocalRunner) else chosen
