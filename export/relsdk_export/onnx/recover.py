"""The weights of a bundle's fp32 graph, back in the torch module that it was written from.

The same module with random weights is written as a graph again. Both graphs use their weights in the same
order, so the place of a random weight in one is the place of the real weight in the other, whatever its name
there, and whether or not it was transposed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from relsdk.errors import BundleError
from relsdk_checkpoint.loading import keep_layers, quiet
from relsdk_export.onnx.bert import DENSE_ACTIVATIONS, encoder_graph
from relsdk_export.onnx.convert import SentenceEncoder
from relsdk_export.onnx.write import trace

__all__ = ["recover_weights"]

# What no vector is made of, and no graph holds.
_UNUSED = "transformer.pooler."
_ATTENTION = ("MultiHeadAttention", "Softmax")
# So many of a tensor's first numbers identify a random weight.
_MARK = 8


def recover_weights(model: SentenceEncoder, path: Path) -> None:
    """Load a graph's weights into a module, in place; it gets the layers that the graph has.

    Args:
        model: Of the graph's architecture and sizes; its weights are replaced.
        path: An fp32 file that `write_onnx` has written.

    Raises:
        BundleError: The graph is of another architecture, or of a version that writes it otherwise.
    """
    real = ir.load(path)
    _keep_first_layers(model, real, path)
    model.dense = nn.Sequential(*_dense(real))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    marks = dict(_marks(model))
    weights = next((w for write in _writers() if (w := _read(write(model), real, marks)) is not None), None)
    if weights is None:
        raise BundleError(
            f"{path} is not a graph that this version writes for a {model.transformer.config.model_type}; "
            "export the bundle again from its checkpoint"
        )
    _load(model, weights, path)


def _writers() -> Iterator[Callable[[SentenceEncoder], ir.Model | None]]:
    """Yield what `write_onnx` does, the fast way first; a bundle of an earlier version has a traced graph."""
    yield encoder_graph

    def traced(model: SentenceEncoder) -> ir.Model:
        from relsdk_export.onnx.fusion import fuse_attention  # slow to import, and seldom needed

        return fuse_attention(trace(model))

    yield traced


def _keep_first_layers(model: SentenceEncoder, real: ir.Model, path: Path) -> None:
    """Give the module as many layers as the graph has: a query tower has fewer than its encoder."""
    operators = [node.op_type for node in real.graph]
    layers = next((count for name in _ATTENTION if (count := operators.count(name))), 0)
    have = model.transformer.config.num_hidden_layers
    if layers > have:
        raise BundleError(
            f"{path} has {layers} layers of attention, and config.json says {have}; it is of another kind, "
            "and its weights cannot be told apart"
        )
    keep_layers(model.transformer, range(layers))


def _dense(real: ir.Model) -> Iterator[nn.Sequential]:
    """Yield a graph's linear layers, with random weights: a query tower has others than its encoder."""
    kinds = {operator: kind for kind, operator in DENSE_ACTIVATIONS.items()}
    for node in real.graph:
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        if weight is not None and weight.const_value is not None:
            behind, before = weight.const_value.shape.numpy()
            activation = next((use.node.op_type for use in node.outputs[0].uses()), "")
            yield nn.Sequential(nn.Linear(before, behind), kinds.get(activation, nn.Identity)())


def _marks(model: nn.Module) -> Iterator[tuple[bytes, tuple[str, bool]]]:
    """Yield how each weight begins, as it is and transposed, with its name and whether it is transposed."""
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        yield _mark(values), (name, False)
        if values.ndim == 2:
            yield _mark(values.T), (name, True)


def _mark(values: NDArray[Any]) -> bytes:
    return repr(values.shape).encode() + values.flat[:_MARK].tobytes()


def _read(
    probe: ir.Model | None, real: ir.Model, marks: dict[bytes, tuple[str, bool]]
) -> dict[str, NDArray[np.float32]] | None:
    """Return the real graph's weights by name; None where the graphs differ in what they do with weights."""
    if probe is None:
        return None
    ours, theirs = _uses(probe), _uses(real)
    if [place for place, _ in ours] != [place for place, _ in theirs]:
        return None
    weights = {}
    for (_, marked), (_, tensor) in zip(ours, theirs, strict=True):
        name, transposed = marks.get(_mark(marked.numpy()), ("", False))
        if name:
            weights[name] = tensor.numpy().T if transposed else tensor.numpy()
    return weights


def _uses(graph: ir.Model) -> list[tuple[tuple[str, int, int], ir.TensorProtocol]]:
    """Return where vectors and matrices of real numbers go in: operator, place and rank; and each."""
    return [
        ((node.op_type, place, len(value.const_value.shape)), value.const_value)
        for node in graph.graph
        for place, value in enumerate(node.inputs)
        if value is not None
        and value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and len(value.const_value.shape) > 0
    ]


def _load(model: SentenceEncoder, weights: dict[str, NDArray[np.float32]], path: Path) -> None:
    """Set every parameter; those that no vector is made of become zero."""
    for name, parameter in model.named_parameters():
        values = weights.get(name)
        if values is None and not name.startswith(_UNUSED):
            raise BundleError(f"{path} does not hold {name}; export the bundle again from its checkpoint")
        if values is not None and values.shape != parameter.shape:
            raise BundleError(
                f"{path} has a weight of shape {list(values.shape)} for {name}, and config.json makes it "
                f"{list(parameter.shape)}; the file is of an encoder of another size"
            )
        with torch.no_grad(), quiet():
            if values is None:
                parameter.zero_()
            else:
                parameter.copy_(torch.from_numpy(np.array(values, dtype=np.float32)))
