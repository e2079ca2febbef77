"""Works for the tests of runners; in a module of their own, since a worker imports them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from relsdk.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Squares:
    """Squares numbers, and notes in a folder which process did which.

    Attributes:
        folder: For the notes.
        killed: A number whose first so many workers are killed.
        times: How many.
        wrong: A number that raises.
        extra: A number that raises an error with arguments of its own.
        hangs: A number that takes for ever.
    """

    folder: Path
    killed: int = -1
    times: int = 0
    wrong: int = -1
    extra: int = -1
    hangs: int = -1

    def open(self):
        print("opened: this is no answer")
        return self.square

    def square(self, number):
        with (self.folder / f"{number}.log").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        print("at work: nor is this")
        tries = len((self.folder / f"{number}.log").read_text().splitlines())
        if number == self.killed and tries <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.wrong:
            raise InputError(f"docs.jsonl:{number}: wrong; remove it")
        if number == self.extra:
            raise MissingExtraError("squares", "parquet")
        if number == self.hangs:
            time.sleep(300)
        return number * number


@dataclass(frozen=True)
class Unopened:
    """Cannot be opened."""

    def open(self):
        raise InputError("no such model")


@dataclass(frozen=True)
class KilledEncode:
    """Encodes as `EncodeWork` does, but the first worker that comes to a row is killed, before or after.

    Attributes:
        work: The `EncodeWork`.
        row: Where a shard begins.
        after: Whether its part is written by then.
        note: A file that says that it has happened.
    """

    work: object
    row: int
    after: bool
    note: Path

    def open(self):
        encode = self.work.open()

        def do(shard):
            info = encode(shard) if self.after or shard.start != self.row else None
            if shard.start == self.row and not self.note.exists():
                self.note.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return info or encode(shard)

        return do
