"""What flows into the matrix products of a graph: found by running it on real texts.

Shape letters: B texts, T tokens, K channels of an activation, N columns of a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from relsdk_export.graphs import save_graph

__all__ = ["ChannelRanges", "channel_ranges", "weighted_inputs"]


ChannelRanges = Mapping[str, NDArray[np.float32]]


def weighted_inputs(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the activations that meet constant weights, each with its products, in graph order."""
    weights = {
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) == 2
    }
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            found.setdefault(node.input[0], []).append(node)
    return found


def channel_ranges(path: Path, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> ChannelRanges:
    """Return the lowest, highest and mean value of each channel of each activation that meets weights.

    Args:
        path: The fp32 ONNX file.
        batches: Inputs of the graph, `attention_mask` (B, T) among them; padding is left out.

    Returns:
        (3, K) float32 by the activation's name.
    """
    model = onnx.load(path)
    names = list(weighted_inputs(model))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:  # a graph of any size loads from a file only
        save_graph(model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
    wanted = {item.name for item in session.get_inputs()}
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    total: dict[str, NDArray[np.float64]] = {}
    count = 0
    for batch in batches:
        real = batch["attention_mask"].astype(bool)  # (B, T)
        count += int(real.sum())
        values = session.run(names, {name: value for name, value in batch.items() if name in wanted})
        for name, value in zip(names, values, strict=True):  # (B, T, K)
            seen = value[real]
            low[name] = np.minimum(low.get(name, np.inf), seen.min(axis=0))
            high[name] = np.maximum(high.get(name, -np.inf), seen.max(axis=0))
            total[name] = total.get(name, 0.0) + seen.sum(axis=0, dtype=np.float64)
    return {name: np.stack([low[name], high[name], total[name] / count]).astype(np.float32) for name in total}
