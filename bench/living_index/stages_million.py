"""A million documents: three graphs, a tail and a tenth dead, against one clean graph of the same documents.

States of the index, each a folder: "steps" as it was built, "dead" with a tenth deleted, "added" with further
documents, "compacted" into one graph. They share files.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from bench.living_index import figures
from bench.living_index.corpus import Oracle
from bench.living_index.run import Run, by_turns, copy_links, filters, folder_bytes
from bench.living_index.stages_peers import retrieval

_NAME, _FLAT = "relsdk", "faiss flat"


def build(run: Run) -> dict[str, Any]:
    """Build an index in steps, each a segment."""
    size, target = run.large, run.index(run.large, _NAME, "steps")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with run.worker(size, _NAME, threads=run.threads) as worker:
        made = worker.ask("steps", folder=str(target), steps=list(size.steps), threads=run.threads)
        segments = worker.ask("segments")["segments"]
        worker.ask("close")
    steps = made.pop("steps")
    total = {key: sum(step[key] for step in steps) for key in steps[0]}
    return {
        "threads": run.threads,
        **figures.rounded(total),
        **made,
        "disk_mb": round(folder_bytes(target) / 1e6, 1),
        "steps": [figures.rounded(step) for step in steps],
        "segments": segments,
    }


def delete(run: Run) -> dict[str, Any]:
    """Delete some documents at a time, then all that make up a tenth."""
    size, dead = run.large, _dead(run)
    copy_links(run.index(size, _NAME, "steps"), run.index(size, _NAME, "dead"))
    with run.opened(size, [(_NAME, "dead")]) as (worker,):
        each = size.change
        taken = []
        for number in range(size.repeats):
            rows = dead[number * each : (number + 1) * each]
            taken.append(worker.ask("change", kind="delete", rows=rows.tolist()))
        rest = worker.ask("change", kind="delete", rows=dead[size.repeats * each :].tolist())
        segments = worker.ask("segments")["segments"]
    return {
        "documents": each,
        **figures.median_of(taken),
        "rest": {"documents": len(dead) - size.repeats * each, **figures.rounded(rest)},
        "segments": segments,
    }


def add(run: Run) -> dict[str, Any]:
    """Add some documents at a time, vectors given; every second time or so the tail gets a graph."""
    size = run.large
    copy_links(run.index(size, _NAME, "dead"), run.index(size, _NAME, "added"))
    with run.opened(size, [(_NAME, "added")]) as (worker,):
        taken = []
        for number in range(size.repeats):
            first = size.documents + number * size.change
            rows = list(range(first, first + size.change))
            taken.append(worker.ask("change", kind="add", rows=rows, first=first))
        segments = worker.ask("segments")["segments"]
    return {"documents": size.change, **figures.median_of(taken), "segments": segments}


def compact(run: Run) -> dict[str, Any]:
    """Merge everything into one graph: the seconds of the graph, and of the rest."""
    size = run.large
    unfinished = run.index(size, _NAME, "compacting")
    copy_links(run.index(size, _NAME, "dead"), unfinished)
    with run.worker(size, _NAME, threads=run.threads) as worker:
        worker.ask("open", folder=str(unfinished))
        made = worker.ask("compact", threads=run.threads)
        segments = worker.ask("segments")["segments"]
        worker.ask("close")
    target = run.index(size, _NAME, "compacted")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    rest = {kind: (made[f"{kind}_s"] - made[f"graph_{kind}_s"]) for kind in ("wall", "cpu")}
    return {
        "threads": run.threads,
        **figures.rounded(made),
        **{f"rest_{kind}_s": figures.short(value) for kind, value in rest.items()},
        "rest_to_graph": figures.short(rest["wall"] / (made["graph_wall_s"] or 1.0)),
        "segments": segments,
    }


def search(run: Run) -> dict[str, Any]:
    """Search three graphs, tail and dead documents, and one clean graph, by turns."""
    size, states = run.large, ("dead", "compacted")
    exact = _oracle(run).nearest(size.queries)
    with run.opened(size, [(_NAME, state) for state in states]) as workers:
        found, rounds = by_turns(workers, size, exact)
        rows = {
            state: {**one, "open_s": figures.short(worker.opening["wall_s"]), **worker.ask("memory")}
            for state, one, worker in zip(states, found, workers, strict=True)
        }
    ratios = np.array(rounds[0]) / np.array(rounds[1])
    return {
        **rows,
        "ratio": figures.short(np.median(ratios)),
        "recall_difference": round(rows["dead"]["recall_at_10"] - rows["compacted"]["recall_at_10"], 5),
    }


def filtered(run: Run) -> dict[str, Any]:
    """Search with filters in both states, or in the one that there is."""
    states = _states(run)
    found = filters(run, run.large, [(_NAME, state) for state in states], _oracle(run))
    return dict(zip(states, found, strict=True))


def hybrid(run: Run) -> dict[str, Any]:
    """Search by meaning, by words and by both, in both states, or in the one that there is."""
    return {state: retrieval(run, run.large, state) for state in _states(run)}


def peer(run: Run) -> dict[str, Any]:
    """What can be built in the time: a library that compares every vector."""
    if _FLAT not in run.contenders:
        return {}
    size, target, dead = run.large, run.index(run.large, _FLAT, "clean"), _dead(run)
    shutil.rmtree(target, ignore_errors=True)
    with run.worker(size, _FLAT) as worker:
        made = worker.ask("build", folder=str(target), count=size.documents, threads=1)
    with run.opened(size, [(_FLAT, "clean")]) as (worker,):
        deletes = [
            worker.ask("change", kind="delete", rows=rows.tolist())
            for rows in np.array_split(dead, len(dead) // size.change)[: size.repeats]
        ]
        rest = dead[size.repeats * size.change :]
        worker.ask("change", kind="delete", rows=rest.tolist())
        few = {"rounds": 2, "calls": min(10, size.calls)}
        found, _ = by_turns([worker], type(size)(**{**vars(size), **few}), _oracle(run).nearest(size.queries))
        adds = []
        for number in range(size.repeats):
            first = size.documents + number * size.change
            rows = list(range(first, first + size.change))
            adds.append(worker.ask("change", kind="add", rows=rows, first=first))
        memory = worker.ask("memory")
    return {
        _FLAT: {
            "build": figures.rounded(made),
            "delete": figures.median_of(deletes),
            "search": found[0],
            "add": figures.median_of(adds),
            **memory,
        }
    }


def _states(run: Run) -> list[str]:
    return [state for state in ("dead", "compacted") if run.index(run.large, _NAME, state).is_dir()]


def _dead(run: Run) -> Any:
    """Return the rows of a tenth of the documents, in no order."""
    count = run.large.documents
    return np.random.default_rng(count).permutation(count)[: count // 10]


def _oracle(run: Run) -> Oracle:
    oracle = Oracle(run.corpus(run.large), run.large.documents)
    oracle.delete(_dead(run))
    return oracle
