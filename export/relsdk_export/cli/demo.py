"""`relsdk demo`: pull, export, index, calibrate, query and measure, on a corpus made on the spot.

Every step leaves its result complete in the demo's folder or not at all, so a second run reuses what is there
and an interrupted one goes on where it stopped. What is older than the corpus, as after a run of another
size or version, is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np

from relsdk.bundle import RELSDK_JSON, read_bundle
from relsdk.cli.evaluate import echo_evaluations
from relsdk.cli.output import echo, echo_next
from relsdk.cli.query import echo_hits
from relsdk.errors import MissingExtraError, RelsdkError
from relsdk.formats import read_documents, read_queries
from relsdk.index import Index
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import Pair, PairOutputs
from relsdk.progress import Progress
from relsdk.runtime.variants import best_int8, choose_variant, runs_exactly
from relsdk.search.searcher import Searcher
from relsdk.tools.evaluation import calibrate_model, evaluate
from relsdk_sample import SampleWorld, generate, level_of, write

__all__ = ["demo"]

BACKBONE = "multilingual-e5-small"
_QUERIES = 5
_DOCUMENTS_PER_QUERY = 5  # of those that labelled pairs are made for


class _Clock:
    """Says what is being done and how long it took."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def step(self, name: str, work: Callable[[], str]) -> None:
        """Run one step and print a line: how long it took, its name, its outcome."""
        echo(f"... {name}", dim=True, err=True)
        started = time.perf_counter()
        outcome = work()
        echo(f"{time.perf_counter() - started:7.1f} s  {name}: {outcome}")

    def total(self) -> float:
        """Return seconds since the start."""
        return time.perf_counter() - self._started


class _Demo:
    """The demo's folder and what has been made in it."""

    def __init__(self, folder: Path, threads: int | None, documents: int) -> None:
        self.folder = folder
        self.threads = threads
        self.world: SampleWorld = generate(n_documents=documents, n_queries=documents // _DOCUMENTS_PER_QUERY)

    @property
    def bundle_path(self) -> Path:
        return self.folder / "bundle"

    @property
    def index_path(self) -> Path:
        return self.folder / "index"

    @property
    def world_path(self) -> Path:
        return self.folder / "world"

    def write_world(self) -> str:
        reused = self._has_world()
        if not reused:
            write(self.world, self.world_path, overwrite=True)
        return _outcome(
            reused, f"{len(self.world.documents):,} documents, {len(self.world.pairs):,} labelled pairs"
        )

    def _has_world(self) -> bool:
        """Whether the folder holds this very world: its documents and its queries."""
        try:
            documents = tuple(read_documents(self.world_path / "documents.jsonl"))
            queries = [query.text for query in read_queries(self.world_path / "queries.jsonl")]
        except RelsdkError:
            return False
        return documents == self.world.documents and queries == [query.text for query in self.world.queries]

    def export(self) -> str:
        reused = self._has_bundle()
        if not reused:
            self._export()
        bundle = read_bundle(self.bundle_path)
        chosen = choose_variant(bundle)
        size = bundle.variant_bytes(chosen) / 1e6
        return _outcome(reused, f"{chosen.name}, {size:.0f} MB")

    def _has_bundle(self) -> bool:
        """Whether the folder holds a whole bundle for this world that this CPU runs exactly."""
        try:
            bundle = read_bundle(self.bundle_path)
            bundle.check_hashes()
        except RelsdkError:
            return False
        written = (self.bundle_path / RELSDK_JSON).stat().st_mtime_ns
        is_newer = written >= (self.world_path / "documents.jsonl").stat().st_mtime_ns
        return is_newer and runs_exactly(choose_variant(bundle))

    def _export(self) -> None:
        try:
            from relsdk_export.backbones.pull import pull
            from relsdk_export.encoder import EncoderCuts, export_encoder
        except ImportError as error:
            raise MissingExtraError("relsdk demo", "backbone,export") from error
        pulled = pull(BACKBONE, installed_first=True)
        echo(f"    {BACKBONE} from: {pulled.source}", dim=True, err=True)
        texts = (f"{document.title} {document.text}" for document in self.world.documents)
        export_encoder(
            pulled.path,
            self.bundle_path,
            variants=[best_int8()],
            cuts=EncoderCuts(vocabulary_from=texts),
            overwrite=True,
            on_step=lambda step: echo(f"    {step}", dim=True, err=True),
        )

    def build_index(self) -> str:
        embedder = self.embedder()
        try:
            with Index.open(self.index_path) as index:
                index.check_encoder(embedder)
                if tuple(index.documents()) == self.world.documents:
                    return _outcome(True, f"{len(index):,} documents")
        except RelsdkError:
            pass  # absent, of another model or damaged: build it
        documents = read_documents(self.world_path / "documents.jsonl")
        with Progress(len(self.world.documents)) as progress:
            index = Index.build(self.index_path, documents, embedder, overwrite=True, on_progress=progress)
        with index:
            return f"{len(index):,} documents"

    def calibrate(self) -> str:
        embedder = self.embedder()
        if embedder.is_calibrated:
            return _outcome(True, embedder.calibration.to_dict()["method"])
        pairs = self.world.split("train")
        with Index.open(self.index_path) as index:
            report = calibrate_model(_IndexedPairs(embedder, index), pairs)
        return f"{report.method} on {len(pairs):,} train pairs"

    def embedder(self) -> Embedder:
        return Embedder(self.bundle_path, threads=self.threads)


class _IndexedPairs(BiEncoder):
    """Judges pairs whose documents are in an index by their vectors there; queries alone are encoded."""

    def __init__(self, embedder: Embedder, index: Index) -> None:
        super().__init__(embedder)
        self._vectors = index.vectors
        self._rows = {embedder.document_text(item): row for row, item in enumerate(index.documents())}

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Return the cosine of each pair."""
        queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        encoded = self.embedder.encode_query(list(queries), batch_size=batch_size)
        left = encoded[[queries[query] for query, _ in pairs]]  # (N, D)
        right = self._vectors[[self._rows[self.embedder.document_text(item)] for _, item in pairs]]
        cosines = np.asarray(np.einsum("nd,nd->n", left, right), dtype=np.float32)
        return PairOutputs(cosines, cosines)


@click.command(epilog="Example: relsdk demo --documents 1000")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("relsdk-demo"),
    show_default=True,
    help="Where bundle, index and sample data go; a second run reuses them.",
)
@click.option("--threads", type=int, help="CPU threads [default: what affinity and container quota allow].")
@click.option(
    "--documents",
    type=click.IntRange(min=200),
    default=1500,
    show_default=True,
    help="Size of the sample corpus; fewer are faster.",
)
def demo(folder: Path, threads: int | None, documents: int) -> None:
    """Make a bundle of a real pretrained encoder, index a sample corpus, answer queries with levels.

    The column "true" is the level that the sample corpus's rules give; the model does not see it.
    """
    run = _Demo(folder, threads, documents)
    if find_spec("torch") is None and not run.bundle_path.exists():  # before anything is written
        raise MissingExtraError("relsdk demo", "backbone,export")
    clock = _Clock()
    clock.step("sample corpus", run.write_world)
    clock.step("bundle", run.export)
    clock.step("index", run.build_index)
    clock.step("calibration", run.calibrate)
    embedder = run.embedder()
    with Index.open(run.index_path) as index:
        searcher = Searcher(embedder, index)
        embedder.warmup()
        for query in run.world.split_queries("test")[:_QUERIES]:
            _answer(searcher, query.text)
        echo()
        clock.step("held-out pairs", lambda: _measure(_IndexedPairs(embedder, index), run.world))
    echo(f"{clock.total():7.1f} s  in total, on {embedder.threads} threads")
    echo_next("query", run.index_path, '"..." --min-level 2')


def _answer(searcher: Searcher, text: str) -> None:
    started = time.perf_counter()
    hits = searcher.search(text, k=5)
    milliseconds = (time.perf_counter() - started) * 1e3
    echo()
    echo(f"{text}  ({milliseconds:.1f} ms)", bold=True)
    echo_hits(hits, [level_of(text, hit.document) for hit in hits])


def _measure(model: BiEncoder, world: SampleWorld) -> str:
    pairs = world.split("test")
    echo_evaluations([evaluate(model, pairs)])
    return f"{len(pairs):,} pairs of queries that the calibration has not seen"


def _outcome(reused: bool, text: str) -> str:
    return f"{text} (reused)" if reused else text
