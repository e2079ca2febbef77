"""Packages with hnswlib's interface side by side: CPU time on one thread, by turns, and recall.

Each has a folder of its own (`pip install --no-deps --target FOLDER PACKAGE`): all are imported as `hnswlib`.

    python -m bench.experiments.hnswlib_packages peers/hnswlib peers/chroma-hnswlib

Shape letters: N vectors, Q queries, D dimension, K results.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

N, Q, D, K, CLUSTERS, EF = 20_000, 1_000, 128, 10, 500, 32


def make_vectors() -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (N, D) around random centres, and queries (Q, D) around the same."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, D))
    rows = centres[rng.integers(CLUSTERS, size=N + Q)] + rng.normal(size=(N + Q, D)) * 0.7
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit[:N], unit[N:]


def serve() -> None:
    """Build and search at each line of stdin; answer with CPU seconds, labels and what the index can do."""
    import hnswlib

    documents, queries = make_vectors()
    for _ in sys.stdin:
        index = hnswlib.Index(space="ip", dim=D)
        index.init_index(max_elements=N, M=16, ef_construction=200, random_seed=0)
        start = time.process_time()
        index.add_items(documents, np.arange(N), num_threads=1)
        built = time.process_time()
        index.set_ef(EF)
        labels, _ = index.knn_query(queries, k=K, num_threads=1)  # (Q, K)
        answer = {"build_s": built - start, "query_ms": 1000 * (time.process_time() - built) / Q}
        names = [name for name in dir(index) if not name.startswith("_")]
        print(json.dumps({**answer, "labels": labels.tolist(), "names": names}), flush=True)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True, help="How often each builds and searches.")
def main(folders: tuple[Path, ...], rounds: int) -> None:
    """Compare the packages in FOLDERS with the first of them."""
    servers = {folder.name: _start(folder) for folder in folders}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for turn in range(rounds):
        for name in list(servers)[:: -1 if turn % 2 else 1]:
            answers[name].append(_ask(name, servers[name]))
    documents, queries = make_vectors()
    nearest = np.argsort(-(queries @ documents.T), axis=1)[:, :K].tolist()
    wanted = set(answers[folders[0].name][0]["names"])
    click.echo("| package | build, CPU s | query, CPU ms | recall@10 | lacks |\n|---|---|---|---|---|")
    for name, rows in answers.items():
        hits = sum(len(set(a) & set(b)) for a, b in zip(rows[0]["labels"], nearest, strict=True))
        build, query = (median(row[key] for row in rows) for key in ("build_s", "query_ms"))
        lacks = ", ".join(sorted(wanted - set(rows[0]["names"])))
        click.echo(f"| {name} | {build:.2f} | {query:.3f} | {hits / (Q * K):.4f} | {lacks} |")
        servers[name].terminate()


def _start(folder: Path) -> subprocess.Popen[str]:
    """Start a process that imports hnswlib from a folder."""
    program = (
        f"import sys; sys.path.insert(0, {str(folder.resolve())!r}); import {__spec__.name} as m; m.serve()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(name: str, server: subprocess.Popen[str]) -> dict[str, Any]:
    """Let a process build and search once."""
    print(file=server.stdin, flush=True)
    line = server.stdout.readline() if server.stdout else ""
    if not line:
        raise click.ClickException(f"{name} ended with {server.wait()}; try: python -c 'import hnswlib'")
    return json.loads(line)


if __name__ == "__main__":
    main()
