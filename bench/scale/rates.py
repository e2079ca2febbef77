"""Measure on this machine what a simulation of large collections starts from; one core, minutes.

python -m bench.scale rates --output bench/results/scale.json
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.harness.machine import ROOT
from bench.harness.memory import memory_now, peak_memory
from bench.http_server.models import prepare_tower
from bench.living_index.corpus import Corpus
from bench.scale.inputs import open_corpus
from bench.scale.records import KINDS, BuildRates, Rates
from bench.scale.results import write_stage
from bench.scale.silent_store import loading
from relsdk import Embedder, Index
from relsdk.formats import write_documents
from relsdk.index import IndexConfig
from relsdk.shards.parts import Columns, read_part, write_part
from relsdk.shards.plan import Job, RowCursor, Shard, Source, open_source, rows_of_a_part

__all__ = ["SMALL", "Sizes", "main", "measure"]

_BLOCK = 1024  # texts that are encoded at a time, as a worker does


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        builds: Documents of the two indexes; the input has as many rows as the second.
        encoded: Texts.
        queries: Texts that are encoded one by one, and searches.
        exact: Searches without the graph.
        parts: Most that are written and verified.
    """

    builds: tuple[int, int] = (25_000, 100_000)
    encoded: int = 3072
    queries: int = 200
    exact: int = 20
    parts: int = 6


SMALL = Sizes(builds=(2200, 4000), encoded=64, queries=10, exact=3, parts=2)


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="Encoder [one of 12 layers].")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=ROOT / ".bench" / "http")
@click.option("--shared", type=click.Path(path_type=Path), default=ROOT.parent / "shared", help="Real data.")
@click.option("--small", is_flag=True, help="Toy sizes: does it run? Its numbers mean nothing.")
def main(output: Path, bundle: Path | None, work: Path, shared: Path, small: bool) -> None:
    """Measure rates and sizes, and write the stage "rates" of OUTPUT."""
    sizes = SMALL if small else Sizes()
    bundle = bundle or prepare_tower(work, shared)
    dimension = Embedder(bundle, threads=1).dimension
    made = work / "scale"
    corpus = open_corpus(made, shared, sizes.builds[1], dimension, sizes.queries)

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=made) as folder:
            return asdict(measure(bundle, corpus, sizes, Path(folder)))

    write_stage(output, "rates", run, toy=small)
    click.echo(f"wrote {output}")


def measure(bundle: Path, corpus: Corpus, sizes: Sizes, folder: Path, *, apart: bool = True) -> Rates:
    """Measure everything.

    Args:
        bundle: The encoder; of one with a query tower, queries are encoded by that.
        corpus: As many documents as the larger index has.
        sizes: How much.
        folder: Empty; what is written there is of no use afterwards.
        apart: Build each index in a process of its own, so that memory is that of the build.
    """
    path = folder / "documents.jsonl"
    rows = write_documents(path, corpus.documents(range(sizes.builds[1])))
    embedder = Embedder(bundle, threads=1)
    reading, source = _input_rates(path, rows)
    encoding = _encoding_rates(embedder, corpus, sizes)
    parts = _part_rates(folder / "parts", source, embedder, corpus, sizes)
    del embedder
    indexes = _index_rates(folder, corpus, sizes, apart)
    documents_per_s, bytes_per_document = loading(corpus, rows)
    return Rates(
        dimension=corpus.dimension,
        loader_documents_per_s=documents_per_s,
        loader_bytes_per_document=bytes_per_document,
        **reading,
        **encoding,
        **parts,
        **indexes,
    )


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Yield a list that holds the seconds of the block at its end."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def _input_rates(path: Path, rows: int) -> tuple[dict[str, Any], Source]:
    with _timed() as planning:
        source = open_source(path, "document")
    with _timed() as skipping:
        next(RowCursor(source).rows(rows - 1, rows))
    rates = {
        "input_bytes_per_row": path.stat().st_size / rows,
        "plan_rows_per_s": rows / planning[0],
        "skip_rows_per_s": rows / skipping[0],
    }
    return rates, source


def _encoding_rates(embedder: Embedder, corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Encode documents in bulk as a worker does, and queries one by one."""
    documents = list(islice(corpus.documents(range(sizes.encoded)), sizes.encoded))
    texts = [embedder.document_text(document) for document in documents]
    prompt = embedder.known_prompt("document")
    embedder.warmup()
    embedder.encode_document(documents[:16])
    tokens = 0
    with _timed() as seconds:
        for start in range(0, len(texts), _BLOCK):
            tokenized = embedder.tokenize(texts[start : start + _BLOCK], prompt_name=prompt)
            embedder.encode_tokens(tokenized, prompt_name=prompt, normalize_embeddings=True)
            tokens += sum(tokenized.lengths)
    queries = corpus.texts[: sizes.queries]
    embedder.encode_query(queries[0])
    return {
        "tokens_per_text": tokens / len(texts),
        "tokens_per_s": tokens / seconds[0],
        "query_ms": _median_ms(embedder.encode_query, queries),
        "query_model": "query tower" if embedder.variant.query_file else "encoder",
    }


def _median_ms(call: Callable[[Any], Any], inputs: Iterable[Any]) -> float:
    times = []
    for one in inputs:
        with _timed() as seconds:
            call(one)
        times.append(seconds[0])
    return 1e3 * median(times)


def _part_rates(
    folder: Path, source: Source, embedder: Embedder, corpus: Corpus, sizes: Sizes
) -> dict[str, Any]:
    """Write parts as large as those of a large input, and verify them while they are in memory."""
    folder.mkdir()
    job = Job(embedder.name, embedder.fingerprint, embedder.variant.name, corpus.dimension, "document")
    length = rows_of_a_part(10**9)
    writing = verifying = 0.0
    rows = size = 0
    for start in range(0, min(source.rows, sizes.parts * length), length):
        stop = min(start + length, source.rows)
        shard = Shard(source.path, start, stop, source.rows, f"{start:032x}")
        ids = [str(row) for row in range(shard.start, shard.stop)]
        columns: Columns = {"id": ids, "vector": corpus.vectors[shard.start : shard.stop]}
        with _timed() as seconds:
            write_part(folder, shard, source, job, columns, tokens=0, truncated=0)
        writing += seconds[0]
        path = folder / shard.file_name
        with _timed() as seconds:
            read_part(path)
        verifying += seconds[0]
        rows, size = rows + len(ids), size + path.stat().st_size
    return {
        "rows_per_part": length,
        "part_bytes_per_row": size / rows,
        "write_bytes_per_s": size / writing,
        "verify_bytes_per_s": size / verifying,
    }


def _index_rates(folder: Path, corpus: Corpus, sizes: Sizes, apart: bool) -> dict[str, Any]:
    """Build two indexes with a graph, and one without, which says what the rest costs."""
    run = _run_apart if apart else _run_here
    builds = [run(build, folder / f"index-{count}", corpus, count, "hnsw") for count in sizes.builds]
    flat = run(build, folder / "flat", corpus, sizes.builds[0], "flat")
    codes = flat.file_bytes["vectors, int8"] / flat.documents
    rates = []
    for one in builds:
        files = {**one.file_bytes, "vectors, int8": codes * one.documents}
        before = memory_now()[1]
        with Index.open(folder / f"index-{one.documents}") as index:
            index.warmup()
            searched = _median_ms(index.search, corpus.queries[: sizes.queries])
            opened = max(0.0, memory_now()[1] - before) * 1e6
            if one is builds[-1]:
                exact = _median_ms(
                    lambda query: index.search(query, exact=True), corpus.queries[: sizes.exact]
                )
                files_of_a_segment = len(index.info().files)
        rates.append(BuildRates(one.documents, one.seconds, one.peak_bytes, files, searched, opened))
    scanned = 4.0 * corpus.dimension * sizes.builds[1]
    return {
        "builds": tuple(rates),
        "rest_s_per_document": flat.seconds / flat.documents,
        "exact_bytes_per_s": scanned / (exact / 1e3),
        "files_of_a_segment": files_of_a_segment,
    }


def build(folder: Path, corpus: Corpus, count: int, kind: str) -> BuildRates:
    """Build an index of the first documents with their vectors, one thread; nothing is searched."""
    config = IndexConfig(kind=kind, int8=kind == "flat")
    with peak_memory() as memory, _timed() as seconds:
        Index.build(
            folder,
            corpus.documents(range(count)),
            corpus,
            vectors=corpus.vectors[:count],
            config=config,
            num_threads=1,
        ).close()
    sizes: dict[str, float] = dict.fromkeys([*KINDS.values(), "other"], 0.0)
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[KINDS.get(path.name, "other")] += path.stat().st_size
    return BuildRates(count, seconds[0], memory["peak_anonymous_mb"] * 1e6, sizes, 0.0, 0.0)


def _run_apart(work: Callable[..., BuildRates], *arguments: Any) -> BuildRates:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _run_here(work: Callable[..., BuildRates], *arguments: Any) -> BuildRates:
    return work(*arguments)
