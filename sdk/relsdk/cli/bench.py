"""`relsdk bench`: latencies of whole searches, and the depth that fits a time budget."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from relsdk.cli.options import INDEX_FOLDER, dim_option, json_option
from relsdk.cli.output import counted, echo, echo_json, echo_table
from relsdk.errors import InputError
from relsdk.formats import read_documents, read_queries
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import open_scorer
from relsdk.progress import Progress
from relsdk.tools.latency import KS, Benchmark, Plan, run_benchmark

__all__ = ["bench"]


@click.command(epilog="Example: relsdk bench -m bundle -q queries.txt -d docs.jsonl --budget-ms 20")
@click.option("--model", "-m", required=True, help="Bundle of the encoder.")
@click.option("--queries", "-q", "source", required=True, help="File of queries, one a line (or .jsonl).")
@click.option("--documents", "-d", help="Documents; a temporary index is built of them.")
@click.option("--index", "index_path", type=INDEX_FOLDER, help="An index instead of documents.")
@click.option("--scorer", help="Bundle that re-scores the top candidates.")
@click.option("--variant", default="auto", show_default=True, help="ONNX file of the encoder.")
@dim_option
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads for one query.")
@click.option("--budget-ms", type=float, default=20.0, show_default=True, help="What p99 may take.")
@click.option(
    "-k", "ks", type=int, multiple=True, default=KS, show_default=True, help="Hits; several may be given."
)
@click.option("--repeats", type=int, default=3, show_default=True, help="Searches of each query, at most.")
@click.option(
    "--seconds", type=float, default=20.0, show_default=True, help="Time for each k and way, at most."
)
@json_option
def bench(
    model: str,
    source: str,
    documents: str | None,
    index_path: Path | None,
    scorer: str | None,
    variant: str,
    truncate_dim: int | None,
    threads: int,
    budget_ms: float,
    ks: tuple[int, ...],
    repeats: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Say whether MODEL serves your queries within a budget, at which k, and what to change if not."""
    if (documents is None) == (index_path is None):
        raise InputError("give either --documents FILE or --index INDEX")
    plan = Plan(budget_ms, tuple(sorted(set(ks))), repeats, seconds)
    queries = [query.text for query in read_queries(source)]
    embedder = Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
    opened = None if scorer is None else open_scorer(embedder, scorer, threads=threads)
    with Progress() as progress, _open_index(documents, index_path, embedder, progress) as index:
        benchmark = run_benchmark(embedder, index, queries, plan, scorer=opened, on_progress=progress)
    if as_json:
        echo_json(asdict(benchmark))
    else:
        _echo(benchmark)


@contextlib.contextmanager
def _open_index(
    documents: str | None, index_path: Path | None, embedder: Embedder, progress: Progress
) -> Iterator[Index]:
    """Open the index, or build one of the documents that is gone afterwards."""
    with contextlib.ExitStack() as stack:
        if index_path is not None:
            yield stack.enter_context(Index.open(index_path))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relsdk-bench-")))
            yield stack.enter_context(
                Index.build(folder / "index", read_documents(documents or ""), embedder, on_progress=progress)
            )


def _echo(benchmark: Benchmark) -> None:
    facts = benchmark.facts
    echo(
        f"{benchmark.model} ({benchmark.variant}, {facts.dimension} dimensions), "
        f"{facts.documents:,} documents, {benchmark.queries:,} different queries, "
        f"{counted(facts.threads, 'thread')}"
        + (f", scorer {benchmark.scorer} ({benchmark.scorer_variant})" if benchmark.scorer else "")
    )
    header = ["way", "k", "p50 ms", "p90", "p95", "p99", "queries/s/core", "scored", "calls", "fits"]
    rows = [
        [
            row.mode,
            str(row.k),
            *(f"{value:.2f}" for value in (row.p50, row.p90, row.p95, row.p99)),
            f"{row.queries_per_second:,.1f}",
            f"{row.scored:.0f}/{row.candidates:.0f}" if benchmark.scorer else "-",
            str(row.calls),
            "yes" if row.fits else "no",
        ]
        for row in benchmark.latencies
    ]
    echo_table(header, rows, right=tuple(range(1, len(header) - 1)))
    echo(f"encode p99 {benchmark.parts.encode:.2f} ms, retrieve p99 {benchmark.parts.retrieve:.2f} ms")
    echo(benchmark.verdict.summary, bold=True)
    for line in benchmark.verdict.advice:
        echo(f"  - {line}")
    for line in benchmark.verdict.caution:
        echo(f"note: {line}")
