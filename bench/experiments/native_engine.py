"""How far the native engine's vectors are from onnxruntime's, and whether levels change.

Run by `make native-engine`; needs the folder of real data (`../shared`). The same int8 file is computed by
onnxruntime alone and by the engine with every instruction set of this CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.harness.instruction_sets import INSTRUCTION_SETS, instruction_set
from bench.harness.machine import machine_record
from relsdk import Embedder, RelevanceScorer
from relsdk.errors import RelsdkError
from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_pairs
from relsdk.records import LabelledPair
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.native_engine import native_engine
from relsdk.runtime.session import ModelSession
from relsdk.runtime.variants import choose_variant
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_export.encoder import export_encoder

# Vectors have length 1; within this they are the same but for the order of additions.
_SAME = 1e-5


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--texts", default=10_000, show_default=True, help="Titles that are encoded.")
@click.option("--pairs", default=0, help="Graded pairs of each split; 0: all.")
def main(shared: Path, output: Path, texts: int, pairs: int) -> None:
    """Compare the engine with onnxruntime on the shared encoder and KUAKE-QTR."""
    kuake = shared / "data/kuake_qtr"
    titles = list(dict.fromkeys(pair.document.title for pair in read_pairs(kuake / "train.jsonl")))[:texts]
    dev, test = (list(read_pairs(kuake / f"{split}.jsonl"))[: pairs or None] for split in ("dev", "test"))
    with TemporaryDirectory() as temporary:
        click.echo("export", err=True)
        bundle = export_encoder(shared / "models/me5-small-zh", Path(temporary) / "bundle").path
        result = {
            "machine": machine_record(),
            "onnxruntime": onnxruntime.__version__,
            "model": "me5-small-zh",
            **measure(bundle, titles, dev, test),
        }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    for name, row in result["engine"].items():
        click.echo(f"{name:<14} " + "  ".join(f"{key} {value}" for key, value in row.items()))


def measure(
    bundle: Path, texts: list[str], dev: list[LabelledPair], test: list[LabelledPair]
) -> dict[str, Any]:
    """Encode texts and grade pairs with both; return a record of each of the CPU's instruction sets.

    Args:
        bundle: An encoder; it gets a calibration.
        texts: What is encoded.
        dev: The pairs that levels are calibrated on.
        test: The pairs whose levels are compared.

    Raises:
        RelsdkError: The engine is not here.
    """
    library, reason = native_engine()
    if library is None:
        raise RelsdkError(f"there is nothing to compare: the native engine {reason}")
    exact = Embedder(bundle, variant="fp32", threads=1).encode_document(texts, truncation="silent")
    embedder = Embedder(bundle, threads=1)
    variant = choose_variant(embedder.bundle)
    calibrate_bundle(bundle, dev, variants=[variant.name], threads=1)

    def answers(native: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return vectors (N, D) of the texts and levels of the pairs."""
        opened = Embedder(bundle, variant=variant.name, threads=1)
        path = opened._runner.session.path
        opened._runner.session = ModelSession(path, threads=choose_threads(1), native=native)
        opened._runner.query_session = opened._runner.session
        vectors = opened.encode_document(texts, truncation="silent")
        graded = RelevanceScorer(opened).predict([(pair.query, pair.document) for pair in test])
        return vectors, np.asarray(graded.levels)

    click.echo("onnxruntime", err=True)
    theirs, levels = answers(native=False)
    rows = {}
    for name in INSTRUCTION_SETS:
        with instruction_set(library, name) as available:
            if available:
                click.echo(name, err=True)
                ours, our_levels = answers(native=True)
                rows[name] = {
                    **compare(ours, theirs, exact),
                    "levels_changed": int((our_levels != levels).sum()),
                }
    return {
        "variant": variant.name,
        "texts": len(texts),
        "pairs": len(test),
        "onnxruntime_cosine_to_fp32": _cosines(theirs, exact),
        "engine": rows,
    }


def compare(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], exact: NDArray[np.float32]
) -> dict[str, Any]:
    """Return how far vectors (N, D) are from others: the largest coordinate of each difference."""
    largest = np.abs(ours - theirs).max(axis=1)
    return {
        "same_bits": round(float((largest == 0).mean()), 5),
        "same_within_1e-5": round(float((largest <= _SAME).mean()), 5),
        "median_difference": float(f"{np.median(largest):.2e}"),
        "largest_difference": float(f"{largest.max():.2e}"),
        "cosine_to_onnxruntime": _cosines(ours, theirs),
        "cosine_to_fp32": _cosines(ours, exact),
    }


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> dict[str, float]:
    one, other = (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (ours, theirs))
    cosines = (one * other).sum(axis=1)
    return {"mean": round(float(cosines.mean()), 6), "least": round(float(cosines.min()), 6)}


if __name__ == "__main__":
    main()
