"""A stage under way: its settings, what it reads, and the folder that it fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from relsdk.shards.runner import LocalRunner, Runner
from relsdk_training.config.ssra import SsraConfig

__all__ = [
    "DEV",
    "DOCUMENTS",
    "HELD_OUT",
    "LABELLED",
    "QUERIES",
    "WEAK",
    "WRITTEN",
    "Job",
    "OnNote",
    "OnProgress",
]

OnNote = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]

# Files of the first stage, as the table of stages names them.
LABELLED, DEV, HELD_OUT = "pool/labelled.jsonl", "pool/dev.jsonl", "pool/held_out.jsonl"
QUERIES, DOCUMENTS = "pool/queries.jsonl", "pool/documents-*.jsonl"
# Of a run with data.weak and data.written.
WEAK, WRITTEN = "pool/weak.jsonl", "pool/written-*.jsonl"


@dataclass(frozen=True)
class Job:
    """One stage of a run; it may be begun again on a folder that it did not finish.

    Attributes:
        config: Of the run.
        folder: To fill; its name is that of the stage.
        round_number: From 1; 0 outside the rounds.
        sources: The paths of what its row in the table reads, by what the row calls it.
        on_note: Called with lines for people.
        on_progress: Called with a stage's name, how much of it is done, and of how much.
        shard_runner: Where the shards of the stage are made.
    """

    config: SsraConfig
    folder: Path
    round_number: int
    sources: Mapping[str, Sequence[Path]]
    on_note: OnNote
    on_progress: OnProgress
    shard_runner: Runner = field(default_factory=LocalRunner)

    def path(self, read: str) -> Path:
        """Return the one path of a read."""
        (path,) = self.sources[read]
        return path

    def paths(self, read: str) -> list[Path]:
        """Return all paths of a read: none where this run leaves the stage out."""
        return list(self.sources[read])

    def for_workers(self) -> Job:
        """Return the job as it can be sent to a worker, which speaks to nobody."""
        return replace(self, on_note=_ignore, on_progress=_ignore, shard_runner=LocalRunner())

    def tell_progress(self, done: int, total: int) -> None:
        """Say how much of the stage is done."""
        self.on_progress(self.folder.name, done, total)


def _ignore(*_: object) -> None:
    pass
