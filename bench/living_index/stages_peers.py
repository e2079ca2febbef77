"""The comparison with peers: build, search, filters, changes, what a crash leaves; and hybrid retrieval."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.living_index import figures
from bench.living_index.contenders import contender_class
from bench.living_index.corpus import Oracle, Size
from bench.living_index.run import Run, by_turns, filters, folder_bytes

_MEMORY = Path("/dev/shm")


def build(run: Run) -> dict[str, Any]:
    """Build each contender's index, one after the other, on one CPU."""
    size, rows = run.small, {}
    for name in run.contenders:
        contender = contender_class(name)
        target = run.index(size, name, "clean")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        in_memory = contender.memory_build and _MEMORY.is_dir()
        with tempfile.TemporaryDirectory(dir=_MEMORY if in_memory else target.parent) as temporary:
            folder = Path(temporary) / "index"
            with run.worker(size, name) as worker:
                made = worker.ask("build", folder=str(folder), count=size.documents, threads=1)
            shutil.move(folder, target)
        rows[name] = {
            **figures.rounded(made),
            "disk_mb": round(folder_bytes(target) / 1e6, 1),
            "holds": contender.holds,
            "built_in_memory": in_memory,
        }
    return rows


def search(run: Run) -> dict[str, Any]:
    """Search what was built, by turns."""
    size = run.small
    exact = Oracle(run.corpus(size), size.documents).nearest(size.queries)
    with run.opened(size, [(name, "clean") for name in run.contenders]) as workers:
        found, _ = by_turns(workers, size, exact)
        return {
            name: {
                **one,
                "open_s": figures.short(worker.opening["wall_s"]),
                **worker.ask("memory"),
            }
            for name, one, worker in zip(run.contenders, found, workers, strict=True)
        }


def filtered(run: Run) -> dict[str, Any]:
    """Search with filters; who has none is left out."""
    size = run.small
    names = [name for name in run.contenders if contender_class(name).filters]
    oracle = Oracle(run.corpus(size), size.documents)
    return dict(zip(names, filters(run, size, [(name, "clean") for name in names], oracle), strict=True))


def changes(run: Run) -> dict[str, Any]:
    """Add, delete, search with a tenth dead, replace; then end each process, and look for its last change."""
    size, names = run.small, run.contenders
    oracle = Oracle(run.corpus(size), size.documents)
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    with ExitStack() as stack:
        folders = [_copy(run, name, stack) for name in names]
        workers = [stack.enter_context(run.worker(size, name)) for name in names]
        for worker, folder in zip(workers, folders, strict=True):
            worker.ask("open", folder=str(folder))
        everyone = dict(zip(names, workers, strict=True))
        adds, deletes, upserts = _blocks(size)
        spare = size.documents
        _change(everyone, "add", adds, spare, rows)
        for number, block in enumerate(adds):
            first = spare + number * size.change
            oracle.put(block, run.corpus(size).vectors[first : first + size.change])
        _change(everyone, "delete", deletes, 0, rows)
        oracle.delete(np.concatenate(deletes))
        found, _ = by_turns(workers, size, oracle.nearest(size.queries))
        for name, one in zip(names, found, strict=True):
            rows[name]["search"] = one
        _change(everyone, "upsert", upserts, spare + size.repeats * size.change, rows)
        for name, worker, folder in zip(names, workers, folders, strict=True):
            rows[name]["kept_after_kill"] = _survives(run, name, worker, folder)
        for name in names:
            if contender_class(name).memory_build:
                rows[name]["add_on_disk"] = _add_on_disk(run, name, adds[0].tolist())
    return rows


def _blocks(size: Size) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the rows of each addition, deletion (a tenth in all) and replacement."""
    step, first = size.change, size.documents
    old = np.random.default_rng(first).permutation(first)
    dead, kept = old[: first // 10], old[first // 10 :]
    adds = [np.arange(first + n * step, first + (n + 1) * step) for n in range(size.repeats)]
    upserts = [kept[n * step : (n + 1) * step] for n in range(size.repeats)]
    return adds, np.array_split(dead, len(dead) // step), upserts


def _change(
    workers: dict[str, Any], kind: str, blocks: list[Any], first: int, rows: dict[str, dict[str, Any]]
) -> None:
    """Let everyone make the same changes by turns; put what they took into the rows."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number, block in enumerate(blocks):
        turn = list(workers.items())
        for name, worker in turn if number % 2 == 0 else turn[::-1]:
            request = {"rows": block.tolist(), "first": first + number * len(block)}
            taken[name].append(worker.ask("change", kind=kind, **request))
    for name, answers in taken.items():
        rows[name][kind] = figures.median_of(answers)


def hybrid(run: Run) -> dict[str, Any]:
    """Search by meaning, by words and by both."""
    return retrieval(run, run.small, "clean")


def retrieval(run: Run, size: Any, state: str) -> dict[str, Any]:
    """Time the modes of `Index.retrieve` of an index in a state, and what hybrid costs beyond dense."""
    with run.opened(size, [("relsdk", state)]) as (worker,):
        answer = worker.ask("retrieve", queries=size.queries)
    modes = {mode: figures.calls(answer["wall_s"][mode], answer["cpu_s"][mode]) for mode in answer["wall_s"]}
    beyond = {
        kind: figures.median(list(np.array(answer[kind]["hybrid"]) - np.array(answer[kind]["dense"])))
        for kind in ("wall_s", "cpu_s")
    }
    return {
        **modes,
        "hybrid_over_dense_ms": figures.short(1e3 * beyond["wall_s"]),
        "hybrid_over_dense_cpu_ms": figures.short(1e3 * beyond["cpu_s"]),
    }


def _copy(run: Run, name: str, stack: ExitStack) -> Path:
    """Copy what was built, to be changed; into memory where a contender waits for the disk too long."""
    clean, target = (run.index(run.small, name, state) for state in ("clean", "changed"))
    if contender_class(name).memory_build and _MEMORY.is_dir():
        target = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_MEMORY))) / "changed"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(clean, target)
    return target


def _survives(run: Run, name: str, worker: Any, folder: Path) -> bool:
    """Add one document, kill the process once it says that it is done, and look whether it is there."""
    row = len(run.corpus(run.small).vectors) - 1
    worker.ask("change", kind="add", rows=[row], first=row)
    worker.kill()
    with run.worker(run.small, name) as again:
        again.ask("open", folder=str(folder))
        found = again.ask("find", row=row)["rows"]
        again.ask("close")
    return bool(found and found[0] == row)


def _add_on_disk(run: Run, name: str, rows: list[int]) -> dict[str, float]:
    """Return what adding takes where the folder is on the disk."""
    folder = run.index(run.small, name, "changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.index(run.small, name, "clean"), folder)
    with run.worker(run.small, name) as worker:
        worker.ask("open", folder=str(folder))
        taken = worker.ask("change", kind="add", rows=rows, first=rows[0])
        worker.ask("close")
    return figures.rounded(taken)
