"""`relsdk demo`: pull, export, calibrate, index, query and measure, on a corpus made on the spot.

Every step leaves its result complete in the demo's folder or not at all, so a second run reuses what is there
and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from relsdk.bundle import Bundle, read_bundle
from relsdk.cli.evaluate import echo_evaluations
from relsdk.cli.output import echo, echo_next
from relsdk.cli.query import echo_hits
from relsdk.errors import InputError, MissingExtraError, RelsdkError
from relsdk.formats import read_documents
from relsdk.index import Index
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.embedder import Embedder
from relsdk.progress import Progress
from relsdk.runtime.variants import best_int8, choose_variant
from relsdk.search.searcher import Searcher
from relsdk.tools.evaluation import calibrate_bundle, evaluate
from relsdk_sample import SampleWorld, generate, level_of, write

__all__ = ["demo"]

BACKBONE = "multilingual-e5-small"
_QUERIES = 5


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
        self.world: SampleWorld = generate(n_documents=documents, n_queries=documents // 10)

    @property
    def bundle_path(self) -> Path:
        return self.folder / "bundle"

    def write_world(self) -> str:
        target = self.folder / "world"
        reused = (target / "documents.jsonl").is_file()
        if not reused:
            write(self.world, target)
        found = sum(1 for _ in read_documents(target / "documents.jsonl"))
        if found != len(self.world.documents):
            raise InputError(
                f"{self.folder} holds a demo of {found:,} documents, and {len(self.world.documents):,} are "
                "asked for; name another --folder"
            )
        return _outcome(
            reused, f"{len(self.world.documents):,} documents, {len(self.world.pairs):,} labelled pairs"
        )

    def export(self) -> str:
        reused = _is_whole(self.bundle_path)
        if not reused:
            self._export()
        bundle = read_bundle(self.bundle_path)
        chosen = choose_variant(bundle)
        size = bundle.onnx_path(chosen).stat().st_size / 1e6
        return _outcome(reused, f"{chosen.name}, {size:.0f} MB")

    def _export(self) -> None:
        try:
            from relsdk_export.backbones.pull import pull
            from relsdk_export.encoder import EncoderCuts, export_encoder
        except ImportError as error:
            raise MissingExtraError("relsdk demo", "backbone,export") from error
        pulled = pull(BACKBONE)
        echo(f"    {BACKBONE} from: {pulled.source}", dim=True, err=True)
        texts = (f"{document.title} {document.text}" for document in self.world.documents)
        export_encoder(
            pulled.path,
            self.bundle_path,
            variants=["fp32", best_int8()],
            cuts=EncoderCuts(vocabulary_from=texts),
            overwrite=True,
            on_step=lambda step: echo(f"    {step}", dim=True, err=True),
        )

    def calibrate(self) -> str:
        embedder = self.embedder()
        if embedder.is_calibrated:
            return _outcome(True, embedder.calibration.to_dict()["method"])
        pairs = self.world.split("train")
        reports = calibrate_bundle(
            self.bundle_path,
            pairs,
            variants=[embedder.variant.name],
            threads=self.threads,
            show_progress_bar=True,
        )
        return f"{reports[0].method} on {len(pairs):,} train pairs"

    def build_index(self) -> str:
        embedder = self.embedder()
        path = self.folder / "index"
        try:
            with Index.open(path) as index:
                index.check_encoder(embedder)
                return _outcome(True, f"{len(index):,} documents")
        except RelsdkError:
            pass  # absent, of another model or damaged: build it
        documents = read_documents(self.folder / "world" / "documents.jsonl")
        with Progress(len(self.world.documents)) as progress:
            index = Index.build(path, documents, embedder, overwrite=True, on_progress=progress)
        with index:
            return f"{len(index):,} documents"

    def embedder(self) -> Embedder:
        return Embedder(self.bundle_path, threads=self.threads)


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
    default=5000,
    show_default=True,
    help="Size of the sample corpus; fewer are faster.",
)
def demo(folder: Path, threads: int | None, documents: int) -> None:
    """Make a bundle of a real pretrained encoder, index a sample corpus, answer queries with levels.

    The column "true" is the level that the sample corpus's rules give; the model does not see it.
    """
    clock = _Clock()
    run = _Demo(folder, threads, documents)
    clock.step("sample corpus", run.write_world)
    clock.step("bundle", run.export)
    clock.step("calibration", run.calibrate)
    clock.step("index", run.build_index)
    embedder = run.embedder()
    with Index.open(folder / "index") as index:
        searcher = Searcher(embedder, index)
        embedder.warmup()
        for query in run.world.split_queries("test")[:_QUERIES]:
            _answer(searcher, query.text)
    echo()
    clock.step("held-out pairs", lambda: _measure(embedder, run.world))
    echo(f"{clock.total():7.1f} s  in total, on {embedder.threads} threads")
    echo_next("query", folder / "index", '"..." --min-level 2')


def _answer(searcher: Searcher, text: str) -> None:
    started = time.perf_counter()
    hits = searcher.search(text, k=5)
    milliseconds = (time.perf_counter() - started) * 1e3
    echo()
    echo(f"{text}  ({milliseconds:.1f} ms)", bold=True)
    echo_hits(hits, [level_of(text, hit.document) for hit in hits])


def _measure(embedder: Embedder, world: SampleWorld) -> str:
    pairs = world.split("test")
    echo_evaluations([evaluate(BiEncoder(embedder), pairs, show_progress_bar=True)])
    return f"{len(pairs):,} pairs of queries that the calibration has not seen"


def _is_whole(path: Path) -> bool:
    try:
        bundle: Bundle = read_bundle(path)
        bundle.check_hashes()
    except RelsdkError:
        return False
    return True


def _outcome(reused: bool, text: str) -> str:
    return f"{text} (reused)" if reused else text
