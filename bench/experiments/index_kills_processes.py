"""The processes of `bench.experiments.index_kills`: they change an index, compact it, or read it, for ever.

A change follows from its number and from what is there: whoever knows both need not ask what a writer did.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import LockedError
from relsdk.index import Index, _changes, _segment_writer
from relsdk.records import Document

__all__ = [
    "GRAPH_ROWS",
    "Change",
    "Encoder",
    "State",
    "apply",
    "digest",
    "listing",
    "merge",
    "perform",
    "plan",
    "play",
    "read",
    "small_graphs",
    "write",
]

SLOTS, DIMENSION, BUCKETS = 600, 32, 10
FEWEST, MOST = 150, 450
# So that there are graphs, merges and tails with few documents.
GRAPH_ROWS = 100
KINDS = {
    "add": 30,
    "upsert": 30,
    "delete": 15,
    "delete where": 5,
    "compact": 8,
    "compact full": 6,
    "build": 6,
}
VECTORS = np.random.default_rng(1).standard_normal((SLOTS, DIMENSION)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)

# Slot to the number of the change that wrote its document.
State = dict[int, int]


class Encoder:
    """Each slot has a vector of its own."""

    name, fingerprint, dimension = "slots", "slots", DIMENSION

    def encode_document(self, inputs: list[Document]) -> NDArray[np.float32]:
        return VECTORS[[one.metadata["slot"] for one in inputs]]


@dataclass(frozen=True)
class Change:
    """One change: its number, what it does, with which slots, and whether it waits for the disk."""

    number: int
    kind: str
    slots: tuple[int, ...]
    bucket: int
    sync: bool


def plan(number: int, state: State) -> Change:
    """Return the change of a number where so much is there."""
    chance = random.Random(number)
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    free = sorted(set(range(SLOTS)) - set(state))
    if kind in ("add", "build") and len(state) > MOST:
        kind = "delete"
    if kind.startswith("delete") and len(state) < FEWEST:
        kind = "add"
    some = chance.choice([1, 3, 20, 20, 130])
    among = {"add": free, "upsert": range(SLOTS), "delete": sorted(state), "build": range(SLOTS)}
    if kind == "build":
        some = 200
    slots = chance.sample(list(among.get(kind, ())), min(some, len(among.get(kind, ()))))
    return Change(number, kind, tuple(slots), chance.randrange(BUCKETS), chance.random() < 0.5)


def apply(change: Change, state: State) -> State:
    """Return what is there after a change."""
    if change.kind == "build":
        return dict.fromkeys(change.slots, change.number)
    if change.kind in ("add", "upsert"):
        return state | dict.fromkeys(change.slots, change.number)
    if change.kind == "delete":
        return {slot: number for slot, number in state.items() if slot not in change.slots}
    if change.kind == "delete where":
        return {slot: number for slot, number in state.items() if slot % BUCKETS != change.bucket}
    return state


def perform(path: Path, index: Index, change: Change) -> Index:
    """Make a change; return the index, open."""
    documents = [
        Document(
            f"d{slot}",
            f"slot{slot}",
            f"第 {change.number} 次",
            {"slot": slot, "commit": change.number, "bucket": slot % BUCKETS},
        )
        for slot in change.slots
    ]
    if change.kind == "build":
        index.close()
        while True:
            try:
                return Index.build(path, documents, Encoder(), overwrite=True, num_threads=1)
            except LockedError:  # the other writer commits
                time.sleep(0.001)
    if change.kind == "add":
        index.add(documents, Encoder(), num_threads=1, sync=change.sync)
    elif change.kind == "upsert":
        index.upsert(documents, Encoder(), num_threads=1, sync=change.sync)
    elif change.kind == "delete":
        index.delete([document.id for document in documents], sync=change.sync)
    elif change.kind == "delete where":
        index.delete(where={"bucket": change.bucket}, sync=change.sync)
    else:
        compact(index, full=change.kind == "compact full")
    return index


def compact(index: Index, *, full: bool) -> None:
    """Compact, unless another writer was faster."""
    try:
        index.compact(full=full, num_threads=1)
    except LockedError as error:
        if "while it was compacted" not in str(error) and "was built again" not in str(error):
            raise


def listing(index: Index) -> State:
    """Read everything that is there."""
    return {one.metadata["slot"]: one.metadata["commit"] for one in index.documents()}


def digest(state: State) -> str:
    """Return a hash of what is there."""
    return hashlib.sha256(json.dumps(sorted(state.items())).encode()).hexdigest()[:16]


def _say(handle: int, text: str) -> None:
    os.write(handle, f"{text}\n".encode())  # short: written as a whole or not at all


@contextmanager
def small_graphs() -> Iterator[None]:
    """Let small segments have graphs, in this process."""
    usual = _changes.GRAPH_ROWS
    _changes.GRAPH_ROWS = _segment_writer.GRAPH_ROWS = GRAPH_ROWS  # type: ignore[misc]
    try:
        yield
    finally:
        _changes.GRAPH_ROWS = _segment_writer.GRAPH_ROWS = usual  # type: ignore[misc]


def play(out: Any, work: Any, *arguments: Any) -> None:
    """Run one of the processes below; what it raises is said."""
    try:
        with small_graphs():
            work(out.fileno(), *arguments)
    except BaseException:
        _say(out.fileno(), "ERROR " + repr(traceback.format_exc())[-3000:])
        os._exit(1)


def write(out: int, path: Path, state: State, number: int) -> None:
    """Change the index for ever; say when a change begins and when it is acknowledged."""
    index = Index.open(path)
    while True:
        change = plan(number, state)
        _say(out, f"begin {number}")
        index = perform(path, index, change)
        _say(out, f"done {number}")
        state = apply(change, state)
        number += 1


def merge(out: int, path: Path, seed: int) -> None:
    """Compact for ever."""
    chance = random.Random(seed)
    _say(out, "begin")
    index = Index.open(path)
    while True:
        index.refresh()
        compact(index, full=chance.random() < 0.5)
        time.sleep(chance.random() * 0.1)


def read(out: int, path: Path, seed: int) -> None:
    """Read and search for ever; say what was there."""
    chance = random.Random(seed)
    index = Index.open(path)
    looks = 0
    while True:
        if looks % 10 == 9:
            index.close()
            index = Index.open(path)
        elif chance.random() < 0.5:
            index.refresh()
        state = listing(index)
        wrong = check_answers(index, state, chance)
        _say(out, f"saw {digest(state)} {index.info().generation}{' ERROR ' + wrong if wrong else ''}")
        looks += 1
        time.sleep(0.01)


def check_answers(index: Index, state: State, chance: random.Random) -> str:
    """Return what does not agree with the listing of the same generation: searches, words, filters."""
    slot, bucket = chance.randrange(SLOTS), chance.randrange(BUCKETS)
    answers = [
        index.search(VECTORS[slot], 5),
        index.search(VECTORS[slot], 5, exact=True),
        index.retrieve([f"slot{slot}"], VECTORS[slot][None], 5, mode="lexical")[0],
    ]
    for number, hits in enumerate(answers):
        found = {hit.document.metadata["slot"]: hit.document.metadata["commit"] for hit in hits}
        if any(state.get(one) != commit for one, commit in found.items()):
            return f"answer {number} for {slot} is of another generation: {found}"
        if slot in state and slot not in found:
            return f"answer {number} does not find {slot}: {found}"
    expected = sum(one % BUCKETS == bucket for one in state)
    if index.count({"bucket": bucket}) != expected:
        return f"{index.count({'bucket': bucket})} documents in bucket {bucket}, not {expected}"
    return ""
