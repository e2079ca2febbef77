"""Quantisation schemes side by side: fidelity, ranking, batch invariance, size; time in one interleaved run.

Run by `make quantisation`; needs the folder of real data. Ranking is measured on the dev split, on which the
scheme was chosen; the test split is left for `make real`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from bench.harness.machine import machine_record
from bench.serving.weights import quiet_quantizer
from relsdk import Embedder
from relsdk.bundle import read_bundle, read_encoder_settings
from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_pairs, read_queries
from relsdk.metrics import mean_ap_over_levels
from relsdk.records import LabelledPair
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.session import ModelSession
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk_export.encoder import export_encoder
from relsdk_export.int8.quantize import quantize_int8
from relsdk_export.onnx.convert import load_encoder
from relsdk_export.onnx.graphs import save_program
from relsdk_export.onnx.write import trace
from relsdk_sample import generate

_UNFUSED = "dynamic int8, no fusion"
_PLAIN = "dynamic int8, no fusion, default session"
Feed = dict[str, NDArray[np.int64]]


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=300, show_default=True, help="Timed queries for each scheme.")
def main(shared: Path, output: Path, rounds: int) -> None:
    """Compare schemes on the shared encoder."""
    with quiet_quantizer(), TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "checkpoint").symlink_to((shared / "models/me5-small-zh").resolve())
        bundle = read_bundle(export_encoder(work / "checkpoint", work / "bundle").path)
        files = make_files(work, bundle.path)
        result = {
            "machine": machine_record(),
            "threads": 1,
            "schemes": measure(files, bundle.path, shared, rounds),
        }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    for name, row in result["schemes"].items():
        click.echo(f"{name:<42} " + "  ".join(f"{key} {value}" for key, value in row.items()))


def make_files(work: Path, bundle: Path) -> dict[str, Path]:
    """Write one ONNX file for each scheme."""
    source = bundle / "onnx/model.onnx"
    makers: dict[str, Callable[[Path], object]] = {
        "fp32, no fusion": lambda path: _no_fusion(bundle, path),
        "dynamic int8": lambda path: quantize_dynamic(
            source,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        ),
        _UNFUSED: lambda path: quantize_dynamic(
            files["fp32, no fusion"],
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        ),
        "rows only, not measured": lambda path: quantize_int8(source, {"avx512_vnni": path}),
    }
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        makers[f"static QDQ, {method.name}"] = lambda path, method=method: quantize_static(
            source,
            path,
            _Reader(bundle),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={"MatMulConstBOnly": True},
        )
    makers["fp16"] = lambda path: _fp16(source, path)
    makers["fp32, every fusion of onnxscript"] = lambda path: _every_fusion(source, path)
    for bits in (8, 4):
        makers[f"MatMulNBits {bits} bits, block 128"] = lambda path, bits=bits: _nbits(source, path, bits)
    files = {
        "fp32": source,
        "relsdk int8 (avx512_vnni)": bundle / "onnx/model_qint8_avx512_vnni.onnx",
        "relsdk int8 (avx2)": bundle / "onnx/model_qint8_avx2.onnx",
    }
    for number, (name, make) in enumerate(makers.items()):
        click.echo(f"make {name}", err=True)
        files[name] = work / f"{number}.onnx"
        make(files[name])
    return files


def measure(files: dict[str, Path], bundle: Path, shared: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Return a row for each scheme."""
    pairs = list(read_pairs(shared / "data/kuake_qtr/dev.jsonl"))
    texts = [query.text for query in read_queries(shared / "data/queries/video_search.txt")][:rounds]
    rows = {}
    exact = None
    for name, path in files.items():
        click.echo(f"measure {name}", err=True)
        embedder = _embedder(bundle, path)
        q, d = _encoded(embedder, pairs)
        exact = exact if exact is not None else d
        ap = mean_ap_over_levels([int(pair.level) for pair in pairs], (q * d).sum(axis=1))
        alone = np.stack([embedder.encode_query(text) for text in texts[:100]])
        together = embedder.encode_query(texts[:100], batch_size=32)
        rows[name] = {
            "mb": round(path.stat().st_size / 1e6, 1),
            "nodes": len(onnx.load(path).graph.node),
            "mean_ap": round(ap.mean_ap * 100, 2),
            "cosine_mean": round(float((d * exact).sum(axis=1).mean()), 5),
            "cosine_min": round(float((d * exact).sum(axis=1).min()), 5),
            "alone_vs_batch": float(f"{np.abs(alone - together).max():.1e}"),
        }
    timed = {name: _embedder(bundle, path) for name, path in files.items()}
    timed[_PLAIN] = _embedder(bundle, files[_UNFUSED], _DefaultSession)
    rows[_PLAIN] = dict(rows[_UNFUSED])
    for name, times in interleaved(timed, texts).items():
        rows[name]["query_p50_ms"] = round(float(np.median(times)) * 1e3, 3)
    for row in rows.values():
        row["time_to_plain_dynamic"] = round(row["query_p50_ms"] / rows[_PLAIN]["query_p50_ms"], 3)
    return rows


class _DefaultSession(ModelSession):
    """A session with onnxruntime's default options but for the threads, as other libraries open one."""

    def _load(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads.threads
        return onnxruntime.InferenceSession(str(self.path), options, providers=self.providers)


class _Reader(CalibrationDataReader):
    """Feeds onnxruntime's calibration with texts, one by one, each cut to the same length.

    Its histograms (Percentile) take arrays of one shape only.
    """

    TOKENS = 16

    def __init__(self, bundle: Path) -> None:
        settings = read_bundle(bundle).settings
        tokenizer = TextTokenizer(
            bundle / "tokenizer.json", max_tokens=self.TOKENS, pad_token=settings.pad_token
        )
        documents = generate(n_documents=160, n_queries=60).documents
        tokens = tokenizer.tokenize([f"passage: {document.title} {document.text}" for document in documents])
        full = [row for row, length in enumerate(tokens.lengths) if length == self.TOKENS]
        self._feeds: Iterator[Feed] = (tokenizer.pad(tokens, np.array([row])) for row in full)

    def get_next(self) -> Feed | None:
        feed = next(self._feeds, None)
        return None if feed is None else {name: feed[name] for name in ("input_ids", "attention_mask")}


def _fp16(source: Path, target: Path) -> None:
    model = convert_float_to_float16(
        onnx.load(source), keep_io_types=True, op_block_list=["MultiHeadAttention"]
    )
    onnx.save(model, target)


def _every_fusion(source: Path, target: Path) -> None:
    model, _ = optimize_for_ort(onnx_ir.load(source))
    onnx_ir.save(model, target)


def _no_fusion(bundle: Path, target: Path) -> None:
    checkpoint = next(bundle.parent.glob("checkpoint"))
    save_program(trace(load_encoder(checkpoint, read_encoder_settings(checkpoint))), target)


def _nbits(source: Path, path: Path, bits: int) -> None:
    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), bits=bits, block_size=128, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def _embedder(bundle: Path, path: Path, session: type[ModelSession] = ModelSession) -> Embedder:
    """An embedder of the bundle that runs another ONNX file."""
    embedder = Embedder(bundle, variant="fp32", threads=1)
    runner = embedder._runner
    runner.session = runner.query_session = session(path, threads=choose_threads(1))
    return embedder


def _encoded(
    embedder: Embedder, pairs: list[LabelledPair]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    queries, query_of = np.unique([pair.query for pair in pairs], return_inverse=True)
    return (
        embedder.encode_query(queries.tolist())[query_of],
        embedder.encode_document([pair.document for pair in pairs]),
    )


def interleaved(embedders: dict[str, Embedder], texts: list[str], block: int = 10) -> dict[str, list[float]]:
    """Time every scheme on every text, in blocks by turns: A A A B B B ... B B B A A A.

    A slow moment of the machine meets all schemes, and within a block a model finds its weights in the cache,
    as a server's model does; the first queries of a block, which fetch them, are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in embedders}
    for number, start in enumerate(range(0, len(texts), block)):
        turn = list(embedders.items())
        for name, embedder in turn if number % 2 == 0 else turn[::-1]:
            for text in texts[:3]:
                embedder.encode_query(text)
            for text in texts[start : start + block]:
                started = time.perf_counter()
                embedder.encode_query(text)
                times[name].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
