"""Measure the inputs of a graph's matrix products on real texts.

Shape letters: B texts, T tokens, K channels of an activation, N columns of a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.onnx_runtime import onnxruntime
from relsdk_export.onnx.graphs import save_graph

__all__ = ["Activation", "measure_activations", "weighted_inputs"]

# A covariance is K x K: past this width (64 MB each) it is not worth its memory.
_WIDEST_COVARIANCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """Statistics of an activation on real texts.

    Attributes:
        low: (K,) the lowest value of each channel.
        high: (K,) the highest.
        mean: (K,) the mean.
        covariance: (K, K) between channels; None where K is too large for one.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    mean: NDArray[np.float32]
    covariance: NDArray[np.float32] | None = None

    @property
    def middle(self) -> NDArray[np.float32]:
        """(K,) of each channel's range."""
        return np.asarray((self.low + self.high) / 2, dtype=np.float32)


def weighted_inputs(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the activations that meet constant weights, each with its products, in graph order."""
    weights = {
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) == 2
    }
    products: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            products.setdefault(node.input[0], []).append(node)
    return products


def measure_activations(
    path: Path, batches: Iterable[Mapping[str, NDArray[np.int64]]]
) -> dict[str, Activation]:
    """Measure every activation that meets weights.

    Args:
        path: The fp32 ONNX file.
        batches: Inputs of the graph, `attention_mask` (B, T) among them; padding is left out.

    Returns:
        What was measured, by the activation's name.
    """
    model = onnx.load(path)
    names = list(weighted_inputs(model))
    if not names:
        return {}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = choose_threads().threads
    with TemporaryDirectory() as folder:  # a graph of any size loads from a file only
        save_graph(model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
    wanted = {item.name for item in session.get_inputs()}
    sums: dict[str, _Sums] = {}
    for batch in batches:
        real = batch["attention_mask"].astype(bool)  # (B, T)
        values = session.run(names, {name: value for name, value in batch.items() if name in wanted})
        for name, value in zip(names, values, strict=True):  # (B, T, K)
            rows = value[real]
            sums.setdefault(name, _Sums(rows.shape[1])).add(rows)
    return {name: gathered.result() for name, gathered in sums.items()}


class _Sums:
    """One pass over an activation of K channels."""

    def __init__(self, width: int) -> None:
        self.low = np.full(width, np.inf, dtype=np.float32)
        self.high = np.full(width, -np.inf, dtype=np.float32)
        self.total = np.zeros(width)
        self.products = np.zeros((width, width)) if width <= _WIDEST_COVARIANCE else None
        self.count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in rows (tokens, K)."""
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))
        self.total += rows.sum(axis=0, dtype=np.float64)
        if self.products is not None:
            self.products += rows.T @ rows
        self.count += len(rows)

    def result(self) -> Activation:
        mean = self.total / self.count
        covariance = None
        if self.products is not None:
            covariance = (self.products / self.count - np.outer(mean, mean)).astype(np.float32)
        return Activation(self.low, self.high, mean.astype(np.float32), covariance)
