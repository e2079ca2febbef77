"""SIGKILL at random moments of writers of an index, while others read: what was acknowledged is there, whole.

    python -m bench.experiments.index_kills --output bench/results/index_kills.json

One writer adds, replaces, deletes, compacts and builds again; another compacts. Both are killed, at random.
Each document carries the number of the change that wrote it, so that what a reader sees can be compared with
what was there after each change.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click

from bench.experiments import index_kills_processes
from bench.experiments.index_kills_processes import (
    GRAPH_ROWS,
    Change,
    Encoder,
    State,
    apply,
    digest,
    listing,
    merge,
    perform,
    plan,
    play,
    read,
    small_graphs,
    write,
)
from bench.harness.machine import machine_record
from relsdk.files.folders import write_file_atomically
from relsdk.index import Index, verify_index
from relsdk.records import Document

__all__ = ["main", "run"]

READERS = 4
# The longest that a writer lives after its first change has begun, in seconds.
LIFE = 1.5


@dataclass
class Worker:
    """A process, and the pipe by which it speaks."""

    process: BaseProcess
    pipe: Any
    rest: bytes = b""

    def lines(self) -> Iterator[str]:
        """Yield what it has said since."""
        os.set_blocking(self.pipe.fileno(), False)
        while True:
            try:
                block = os.read(self.pipe.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not block:
                return
            *lines, self.rest = (self.rest + block).split(b"\n")
            yield from (line.decode() for line in lines)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.kill()
        self.process.join()


@dataclass
class Supervisor:
    """Starts and kills the processes, and checks what they leave.

    Attributes:
        path: The index.
        state: What is acknowledged.
        number: Of the next change.
        seen: When each content was current, by its hash: numbers in rising order.
        facts: What is counted.
    """

    path: Path
    chance: random.Random
    context: Any
    state: State = field(default_factory=dict)
    number: int = 1
    moment: int = 0
    seen: dict[str, list[int]] = field(default_factory=dict)
    facts: Counter[str] = field(default_factory=Counter)
    killed_in: Counter[str] = field(default_factory=Counter)
    ratio: float = 0.0

    def start(self, work: Any, *arguments: Any) -> Worker:
        reader, writer = self.context.Pipe(duplex=False)
        process = self.context.Process(target=play, args=(writer, work, *arguments), daemon=True)
        process.start()
        writer.close()
        return Worker(process, reader)

    def note(self, state: State) -> None:
        """Take a content as the current one."""
        self.state = state
        self.moment += 1
        self.seen.setdefault(digest(state), []).append(self.moment)

    def round(self) -> None:
        """Let writers work, kill them, and look at what they leave."""
        writer = self.start(write, self.path, self.state, self.number)
        other = (
            self.start(merge, self.path, self.chance.randrange(2**31)) if self.chance.random() < 0.5 else None
        )
        pending = self.follow(writer, self.chance.random() * LIFE)
        for worker in filter(None, (writer, other)):
            worker.kill()
        pending = self.hear(writer, pending)
        for line in other.lines() if other else ():
            check(not line.startswith("ERROR"), line)
        with Index.open(self.path) as index:
            self.settle_pending(pending, listing(index))
        report = verify_index(self.path)
        check(report.ok, str(report))
        self.facts["leftovers"] += sum(name.startswith(".tmp") for name in os.listdir(self.path))
        self.next_commit()

    def follow(self, writer: Worker, life: float) -> Change | None:
        """Hear a writer until its time is over; return the change that it has begun."""
        pending, deadline = None, None
        limit = time.monotonic() + 60
        while deadline is None or time.monotonic() < deadline:
            pending = self.hear(writer, pending)
            if pending is not None and deadline is None:
                deadline = time.monotonic() + life
            check(
                writer.process.is_alive() and time.monotonic() < limit, "a writer has ended, or never began"
            )
            time.sleep(0.0005)
        return pending

    def hear(self, writer: Worker, pending: Change | None) -> Change | None:
        """Take note of what a writer has acknowledged; return the change that it has begun since."""
        for line in writer.lines():
            check(not line.startswith("ERROR"), line)
            word, number = line.split()
            if word == "begin":
                pending = plan(int(number), self.state)
            elif pending is not None:
                check(pending.number == int(number) == self.number, line)
                self.note(apply(pending, self.state))
                self.facts["commits"] += 1
                self.number += 1
                pending = None
        return pending

    def settle_pending(self, pending: Change | None, there: State) -> None:
        """Compare what is there with what was acknowledged, and with the one change that was not."""
        if pending is None:
            self.killed_in["between changes"] += 1
            check(there == self.state, f"after {self.number - 1}: {differences(there, self.state)}")
            return
        after = apply(pending, self.state)
        self.killed_in[pending.kind] += 1
        check(there in (self.state, after), f"{pending}: {differences(there, self.state)}")
        if there == after != self.state:
            self.facts["unacknowledged changes that are there"] += 1
        elif after != self.state:
            self.facts["unacknowledged changes that are not"] += 1
        self.note(there)
        self.number += 1

    def next_commit(self) -> None:
        """Make the next change here: what killed writers left is gone then."""
        change = next(
            one
            for one in (plan(number, self.state) for number in range(self.number, self.number + 1000))
            if one.kind in ("add", "upsert")
        )
        with Index.open(self.path) as index:
            perform(self.path, index, change)
            self.note(apply(change, self.state))
            self.number = change.number + 1
            check(listing(index) == self.state, "the next change")
            live = index.stats().bytes
        names = set(os.listdir(self.path))
        generations = {name for name in names if name.startswith("gen-")}
        check(
            names == {".lock", ".writer", "CURRENT", "segments"} | generations, f"left over: {sorted(names)}"
        )
        check(len(generations) == 2, f"left over: {sorted(generations)}")
        manifests = [json.loads((self.path / one / "manifest.json").read_text()) for one in generations]
        named = {segment["folder"] for one in manifests for segment in one["segments"]}
        there = {f"segments/{one}" for one in os.listdir(self.path / "segments")}
        check(there == named, f"left over: {sorted(there - named)}")
        size = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        self.ratio = max(self.ratio, size / live)
        check(size <= 3 * live, f"{size:,} bytes, {live:,} of them of the current generation")

    def check_reader(self, lines: list[str]) -> None:
        """What a reader saw was current once, and never older than what it saw before."""
        last = 0
        for line in lines:
            check("ERROR" not in line, line)
            _, hashed, generation = line.split()
            check(hashed in self.seen, f"a reader saw in {generation} what was never current")
            later = [moment for moment in self.seen[hashed] if moment >= last]
            check(bool(later), f"a reader went back in {generation}")
            last = later[0]
        self.facts["answers of readers"] += len(lines)


def differences(there: State, wanted: State) -> str:
    """Say how two contents differ."""
    return (
        f"lost {sorted(set(wanted) - set(there))[:9]}, risen {sorted(set(there) - set(wanted))[:9]}, "
        f"other {[slot for slot in there if slot in wanted and there[slot] != wanted[slot]][:9]}"
    )


def check(right: bool, what: str) -> None:
    """Raise where something is wrong."""
    if not right:
        raise RuntimeError(what)


def run(path: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill writers so many times.

    Args:
        path: Where the index is made.
        kills: How often.
        seed: Of the moments.

    Returns:
        What was counted.

    Raises:
        RuntimeError: Something was lost, has risen, is damaged or was left over.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([index_kills_processes.__name__])
    supervisor = Supervisor(path, random.Random(seed), context)
    first = Change(0, "build", tuple(range(200)), 0, sync=True)
    perform(path, Index.build(path, [Document("x", "x", "", {"slot": 0})], Encoder()), first).close()
    supervisor.note(apply(first, {}))
    readers = [supervisor.start(read, path, seed + number) for number in range(READERS)]
    said: list[list[str]] = [[] for _ in readers]
    started = time.perf_counter()
    try:
        for kill in range(kills):
            supervisor.round()
            for lines, reader in zip(said, readers, strict=True):
                lines += reader.lines()
                check(reader.process.is_alive(), f"a reader has ended: {lines[-1:]}")
            print(f"{kill + 1}/{kills}, {supervisor.number} changes", end="\r", file=sys.stderr, flush=True)
    finally:
        for reader in readers:
            reader.kill()
    for lines in said:
        supervisor.check_reader(lines)
    return {
        "kills": kills,
        "killed_in": dict(sorted(supervisor.killed_in.items())),
        **{name.replace(" ", "_"): count for name, count in sorted(supervisor.facts.items())},
        "changes_lost_or_risen": 0,
        "most_bytes_to_current_generation": round(supervisor.ratio, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--kills", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(output: Path, kills: int, seed: int) -> None:
    """Kill the writers of an index and count what is lost."""
    with tempfile.TemporaryDirectory() as folder, small_graphs():
        counts = run(Path(folder, "index"), kills, seed)
    result = {"machine": machine_record(seed), "readers": READERS, "graph_rows": GRAPH_ROWS, **counts}
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
