"""Any sequence of changes, by two writers and with failures, leaves what a dictionary and a full scan say."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from relsdk.calibration import HybridLink
from relsdk.errors import InputError, LockedError, RelsdkError
from relsdk.index import Index, IndexConfig, _changes, _segment_writer
from relsdk.index._passages import split
from relsdk.records import Document

DIMENSION, GRAPH_ROWS = 8, 12
COLOURS = ("red", "green", "blue")
FILTERS = ({"colour": "red"}, {"n": {"lt": 12}}, {"or": [{"colour": "blue"}, {"n": {"gte": 20}}]})
ALLOWS = (
    lambda one: one.metadata["colour"] == "red",
    lambda one: one.metadata["n"] < 12,
    lambda one: one.metadata["colour"] == "blue" or one.metadata["n"] >= 20,
)
POOL = np.random.default_rng(5).standard_normal((40, DIMENSION)).astype(np.float32)
POOL /= np.linalg.norm(POOL, axis=1, keepdims=True)
TEXTS = ("红烧肉。先焯水。", "手机黑屏！重启？拆开。", "", "大理旅游攻略，三天两夜。住古城。")

Model = dict[str, Document]


class Encoder:
    """One of few directions for a text: many scores are equal."""

    name, fingerprint, dimension = "e", "e", DIMENSION

    def encode_document(self, inputs: list[Document]) -> np.ndarray:
        numbers = [zlib.crc32(f"{one.title}|{one.text}".encode()) for one in inputs]
        return POOL[[number % 3 if number % 2 else number % len(POOL) for number in numbers]]


class Killed(BaseException):
    """The end of a process."""


@dataclass
class Failure:
    """The `at`-th call that changes the folder fails; of a process that is killed, every later one too."""

    at: int
    kills: bool
    calls: int = 0
    name: str = ""

    @contextmanager
    def happens(self, folder: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir"):
                patch.setattr(os, name, self._failing(getattr(os, name), folder))
            yield

    def _failing(self, function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            inside = isinstance(args[0], int) or "dir_fd" in options or str(args[0]).startswith(str(folder))
            if inside:
                self.calls += 1
                if self.calls == self.at:
                    self.name = function.__name__
                    raise Killed if self.kills else OSError(errno.EIO, os.strerror(errno.EIO))
                if self.kills and self.calls > self.at:
                    raise OSError(errno.EIO, "it is dead")
            return function(*args, **options)

        return wrapped


@dataclass
class Change:
    """What a writer does, and what becomes of the documents."""

    act: Callable[..., Any]
    apply: Callable[[Model], Model]
    may_refuse: bool = False


documents = st.builds(
    lambda number, version, colour, text: Document(
        f"d{number}", f"t{version}", text, {"n": number, "colour": colour}
    ),
    st.integers(0, 30),
    st.integers(0, 3),
    st.sampled_from(COLOURS),
    st.sampled_from(TEXTS),
)
batches = st.lists(documents, min_size=1, max_size=6) | st.lists(documents, min_size=14, max_size=30)


def added(batch: list[Document], given: bool, sync: bool) -> Change:
    unique = list({one.id: one for one in batch}.values())
    vectors = Encoder().encode_document(unique) if given else None

    def act(index: Index, hook: Any = None) -> None:
        options = {"vectors": vectors} if given else {"encoder": Encoder()}
        assert index.add(hooked(unique, hook), chunk_size=5, num_threads=1, sync=sync, **options) == len(
            unique
        )

    return Change(act, lambda model: model | {one.id: one for one in unique}, may_refuse=True)


def upserted(batch: list[Document], sync: bool) -> Change:
    def apply(model: Model) -> Model:
        changed = dict(model)
        for one in batch:
            changed.pop(one.id, None)
            changed[one.id] = one
        return changed

    def act(index: Index, hook: Any = None) -> None:
        count = index.upsert(hooked(batch, hook), Encoder(), chunk_size=5, num_threads=1, sync=sync)
        assert count == len({one.id for one in batch})

    return Change(act, apply)


def hooked(batch: list[Document], hook: Any) -> Iterator[Document]:
    """Documents that come slowly: halfway another writer commits."""
    for place, one in enumerate(batch):
        if hook is not None and place == len(batch) // 2:
            hook()
        yield one


def deleted(numbers: list[int]) -> Change:
    ids = [f"d{number}" for number in numbers]
    return Change(
        lambda index, hook=None: index.delete(ids),
        lambda model: {name: one for name, one in model.items() if name not in ids},
    )


def deleted_where(number: int) -> Change:
    return Change(
        lambda index, hook=None: index.delete(where=FILTERS[number]),
        lambda model: {name: one for name, one in model.items() if not ALLOWS[number](one)},
    )


def compacted(full: bool) -> Change:
    def act(index: Index, hook: Any = None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            merge = _changes.merge

            def merge_slowly(*arguments: Any) -> Any:
                patch.undo()  # the other writer merges its tail
                merged = merge(*arguments)
                hook()
                return merged

            if hook is not None:
                patch.setattr(_changes, "merge", merge_slowly)
            index.compact(full=full, num_threads=1)

    return Change(act, dict)


changes = st.one_of(
    st.builds(added, batches, st.booleans(), st.booleans()),
    st.builds(added, batches, st.just(False), st.booleans()),
    st.builds(upserted, batches, st.booleans()),
    st.builds(upserted, batches, st.booleans()),
    st.builds(deleted, st.lists(st.integers(0, 35), max_size=12)),
    st.builds(deleted_where, st.integers(0, len(FILTERS) - 1)),
    st.builds(compacted, st.booleans()),
)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stateful-"))
        self.path = self.folder / "i"
        self.patch = pytest.MonkeyPatch()
        for module in (_changes, _segment_writer):
            self.patch.setattr(module, "GRAPH_ROWS", GRAPH_ROWS)
        self.writers: list[Index] = []

    @initialize(
        batch=st.lists(documents, min_size=1, max_size=30, unique_by=lambda one: one.id),
        kind=st.sampled_from(["hnsw", "hnsw", "flat"]),
        split=st.sampled_from([0, 0, 5]),
        int8=st.booleans(),
    )
    def build(self, batch: list[Document], kind: str, split: int, int8: bool) -> None:
        self.config = IndexConfig(kind=kind, passage_characters=split, int8=int8)
        self.model = {one.id: one for one in batch}
        Index.build(self.path, batch, Encoder(), config=self.config, num_threads=1).close()
        self.writers = [Index.open(self.path) for _ in range(2)]
        self.reader, self.read = Index.open(self.path), dict(self.model)
        self.hybrid: dict[str, HybridLink] = {}

    @rule(writer=st.integers(0, 1), change=changes)
    def change(self, writer: int, change: Change) -> None:
        self._do(writer, change)
        self._check(self.writers[writer], self.model)

    def _do(self, writer: int, change: Change, hook: Any = None) -> None:
        before = set(self.model)
        try:
            change.act(self.writers[writer], hook)
        except InputError as error:
            if not (change.may_refuse and self._is_right(str(error), before)):
                raise
            return
        self.model = change.apply(self.model)

    def _is_right(self, error: str, before: set[str]) -> bool:
        known = re.search("id '(d[0-9]+)' is in the index already", error)
        if known:
            return known[1] in before | set(self.model)
        return "vectors of whole documents do not fit" in error and self.config.passage_characters > 0

    @rule(first=changes, second=changes)
    def change_while_another_changes(self, first: Change, second: Change) -> None:
        try:
            self._do(0, first, hook=lambda: self._do(1, second))
        except LockedError as error:
            if "while it was compacted" not in str(error):
                raise
        self._check(self.writers[0], self.model, current=False)

    @rule(batch=batches, change=changes)
    def change_while_another_compacts(self, batch: list[Document], change: Change) -> None:
        self._do(0, upserted(batch, sync=False))
        self.change_while_another_changes(compacted(full=True), change)

    @rule(
        writer=st.integers(0, 1),
        change=changes,
        at=st.integers(1, 45),
        kills=st.booleans(),
    )
    def fail(self, writer: int, change: Change, at: int, kills: bool) -> None:
        pointer, left = (self.path / "CURRENT").read_text(), self._leftovers()
        failure = Failure(at, kills)
        before = dict(self.model)
        try:
            with failure.happens(self.path):
                self._do(writer, change)
        except (RelsdkError, OSError, Killed):
            moved = (self.path / "CURRENT").read_text() != pointer
            self.model = change.apply(before) if moved else before
            if not kills and failure.name not in ("unlink", "rmdir"):
                assert self._leftovers() <= left
        if kills and failure.calls >= at:
            self.writers[writer] = Index.open(self.path)
        self.writers[writer].refresh()
        self._check(self.writers[writer], self.model)

    @rule(writer=st.integers(0, 1), weight=st.integers(1, 9))
    def calibrate(self, writer: int, weight: int) -> None:
        """What was fitted goes from generation to generation."""
        self.hybrid = {"fp32": HybridLink(1.0, float(weight), (0.0, 1.0, 2.0))}
        self.writers[writer].store_hybrid(self.hybrid)

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        self.read = dict(self.model)

    @rule(writer=st.integers(0, 1))
    def reopen(self, writer: int) -> None:
        self.writers[writer].close()
        self.writers[writer] = Index.open(self.path)

    @rule()
    def verify(self) -> None:
        with Index.open(self.path) as index:
            assert index.hybrid_models == self.hybrid
            report = index.verify()
            assert report.ok, report

    @rule(mode=st.sampled_from(["lexical", "hybrid"]))
    def compare_with_a_new_build(self, mode: str) -> None:
        """Scores and ranks do not depend on how documents came in."""
        if not self.model:
            return
        target = self.folder / "new"
        rows = list(self.model.values())
        with (
            Index.build(target, rows, Encoder(), config=self.config, overwrite=True, num_threads=1) as new,
            Index.open(self.path) as index,
        ):
            texts = ["红烧肉", "黑屏", "t1 古城", "无"]
            queries = POOL[[0, 1, 2, 30]]
            for where in (None, FILTERS[0]):
                one, other = (
                    each.retrieve(texts, queries, 7, mode=mode, where=where) for each in (index, new)
                )
                for hits, wanted in zip(one, other, strict=True):
                    assert [hit.document.id for hit in hits] == [hit.document.id for hit in wanted]
                    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted])
            assert index.vectors.tolist() == new.vectors.tolist() if not self.config.passage_characters else 1

    @invariant()
    def reader_answers_from_its_generation(self) -> None:
        if self.writers:
            self._check(self.reader, self.read)

    @invariant()
    def folder_holds_what_two_generations_name(self) -> None:
        if not self.writers:
            return
        current = (self.path / "CURRENT").read_text().strip()
        manifest = json.loads((self.path / current / "manifest.json").read_text())
        small = [one["folder"] for one in manifest["segments"] if one["rows"] < GRAPH_ROWS]
        assert len(small) <= 1, small

    def _check(self, index: Index, model: Model, current: bool = True) -> None:
        if current is False:
            index.refresh()
        rows = list(model.values())
        assert list(index.documents()) == rows
        assert len(index) == index.count() == len(rows)
        for number, where in enumerate((*FILTERS, None)):
            allowed = [one for one in rows if where is None or ALLOWS[number](one)]
            assert index.count(where) == len(allowed)
            queries = POOL[[number, 5 + len(rows) % 30]]
            wanted = [best(allowed, query, self.config)[:9] for query in queries]
            for exact in (True, False):
                hits = index.search(queries, 9, where=where, exact=exact)
                assert [[(hit.document.id, hit.score) for hit in one] for one in hits] == wanted

    def _leftovers(self) -> set[str]:
        return {name for name in os.listdir(self.path) if ".tmp" in name}

    def teardown(self) -> None:
        try:
            if self.writers:
                self.verify()
                with Index.open(
                    self.path
                ) as index:  # one more commit, and nothing is left that is not needed
                    index.upsert([Document("last", "t", "", {"n": 99, "colour": "red"})], Encoder())
                names = set(os.listdir(self.path))
                generations = {name for name in names if name.startswith("gen-")}
                assert names == {"CURRENT", ".lock", ".writer", "segments"} | generations
                assert len(generations) == 2
                manifests = [
                    json.loads((self.path / one / "manifest.json").read_text()) for one in generations
                ]
                named = {segment["folder"] for manifest in manifests for segment in manifest["segments"]}
                assert {f"segments/{one}" for one in os.listdir(self.path / "segments")} == named
        finally:
            self.patch.undo()
            for one in (*self.writers, *([self.reader] if self.writers else [])):
                one.close()
            shutil.rmtree(self.folder)


def best(rows: list[Document], query: np.ndarray, config: IndexConfig) -> list[tuple[str, float]]:
    """Every document with the score of its best passage, in falling order, equal ones as they came."""
    passages, spans = split(rows, config.passage_characters)
    if not passages:
        return []
    scores = np.einsum("nd,d->n", Encoder().encode_document(passages), query)
    found: dict[int, float] = {}
    for owner, score in zip(spans[:, 0].tolist(), scores.tolist(), strict=True):
        found[owner] = max(score, found.get(owner, -2.0))
    return [(rows[owner].id, score) for owner, score in sorted(found.items(), key=lambda one: -one[1])]


SETTINGS = settings(
    max_examples=6,
    stateful_step_count=20,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink takes minutes
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_an_index_is_a_dictionary():
    run_state_machine_as_test(IndexMachine, settings=SETTINGS)


@pytest.mark.slow
def test_an_index_is_a_dictionary_for_long():
    run_state_machine_as_test(
        IndexMachine, settings=settings(SETTINGS, max_examples=100, stateful_step_count=40)
    )
