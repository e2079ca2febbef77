"""The program that a user would write around a bare engine: tokenise, sort by length, run, pool.

A program takes rows of token ids and returns what its model says of them.

Shape letters: B rows of one batch, T tokens, D dimension, C outputs of a head.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:
    from relsdk.bundle import Bundle

BATCH = 16  # of 8, 16, 32 and 64 the fastest with mixed lengths, for each of them
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
Floats = NDArray[np.float32]
Program = Callable[[Sequence[Encoding]], Floats]


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """Open a bundle's tokenizer file, which cuts and does not pad."""
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(bundle.settings.max_tokens)
    return tokenizer


def in_batches(program: Program, rows: Sequence[Encoding]) -> Floats:
    """Run rows of like length together; return the results in the order of the rows."""
    if len(rows) == 1:
        return program(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
    parts = [program([rows[i] for i in order[start : start + BATCH]]) for start in range(0, len(rows), BATCH)]
    results = np.concatenate(parts)
    results[order] = results.copy()
    return results


def onnxruntime_program(path: Path, output: str, threads: int) -> Program:
    """Open an ONNX file with onnxruntime's default options but for the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return lambda rows: session.run([output], _feed(rows, names))[0]


def openvino_program(path: Path, output: str, threads: int, callers: int) -> Program:
    """Open an ONNX file with OpenVINO, set for latency, as many streams as there are callers.

    The arithmetic around int8 is float32: on CPUs with bfloat16, OpenVINO's default, it is slower.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads * callers,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if callers > 1:
        settings["NUM_STREAMS"] = callers
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    names = [item.get_any_name() for item in compiled.inputs]
    requests = threading.local()  # one request runs one call at a time

    def run(rows: Sequence[Encoding]) -> Floats:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        found = requests.own.infer(_feed(rows, names), share_inputs=True, share_outputs=True)
        return np.array(found[output])  # the next call overwrites what it shares

    return run


def ctranslate2_encoder(folder: Path, pooling: str, threads: int, callers: int) -> Program:
    """Open a converted encoder in int8; rows give unit vectors (B, D).

    Args:
        folder: Of `ctranslate2_folder`.
        pooling: "mean" or "cls".
        threads: Of an operator.
        callers: How many threads call it.
    """
    encoder = _ctranslate2(folder, threads, callers)

    def run(rows: Sequence[Encoding]) -> Floats:
        hidden = np.asarray(encoder.forward_batch([row.ids for row in rows]).last_hidden_state)  # (B, T, D)
        if pooling == "cls":
            pooled = hidden[:, 0]
        else:
            lengths = np.array([len(row.ids) for row in rows])[:, None]
            real = (np.arange(hidden.shape[1]) < lengths).astype(np.float32)  # (B, T)
            pooled = (real[:, None] @ hidden)[:, 0] / lengths
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)

    return run


def ctranslate2_classifier(folder: Path, weight: Floats, bias: Floats, threads: int) -> Program:
    """Open a converted BERT in int8 with a head (C, D) and (C,) in numpy; rows give logits (B, C)."""
    encoder = _ctranslate2(folder, threads, callers=1)

    def run(rows: Sequence[Encoding]) -> Floats:
        found = encoder.forward_batch(
            [row.ids for row in rows], token_type_ids=[row.type_ids for row in rows]
        )
        return np.asarray(found.pooler_output) @ weight.T + bias

    return run


def _ctranslate2(folder: Path, threads: int, callers: int) -> Any:
    import ctranslate2

    return ctranslate2.Encoder(str(folder), compute_type="int8", inter_threads=callers, intra_threads=threads)


def _feed(rows: Sequence[Encoding], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the inputs that a graph asks for, (B, T) each; what is padded is masked."""
    arrays = np.zeros((len(_FIELDS), len(rows), max(len(row.ids) for row in rows)), dtype=np.int64)
    for place, row in enumerate(rows):
        for array, field in zip(arrays, _FIELDS.values(), strict=True):
            array[place, : len(row.ids)] = getattr(row, field)
    found = dict(zip(_FIELDS, arrays, strict=True))
    return {name: found[name] for name in names}
