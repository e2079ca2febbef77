"""Count the operators of a graph, and the matrix products that quantisation left in fp32."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

__all__ = ["count_operators"]


@dataclass(frozen=True, slots=True)
class _Operators:
    """What a graph is made of.

    Attributes:
        counts: Nodes by operator.
        products: Matrix products with constant fp32 weights.
    """

    counts: dict[str, int]
    products: int

    def compare(self, variant: _Operators) -> dict[str, object]:
        """Compare an fp32 graph with a variant made of it, in a JSON form.

        Returns:
            Nodes by operator "before" and "after", how many of the products are "quantised" (gone; some are
            merged into one), and how many are "left".
        """
        return {
            "before": self.counts,
            "after": variant.counts,
            "quantised": self.products - variant.products,
            "left": variant.products,
        }


def count_operators(path: Path) -> _Operators:
    """Count the operators of a graph (weights in other files are not read)."""
    model = onnx.load(path, load_external_data=False)
    return _Operators(_counts(model), len(_constant_products(model)))


def _constant_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the `MatMul` and `Gemm` nodes that meet a constant fp32 matrix, directly or transposed."""
    constant = {
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) >= 2
    }
    products = []
    for node in model.graph.node:  # in an order in which inputs come first
        if node.op_type in ("Transpose", "Identity", "Cast") and node.input[0] in constant:
            constant.add(node.output[0])
        elif node.op_type in ("MatMul", "Gemm") and any(name in constant for name in node.input[:2]):
            products.append(node)
    return products


def _counts(model: onnx.ModelProto) -> dict[str, int]:
    """Count operators; of a function those of its body that run for each input."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    nodes = [one for node in model.graph.node for one in bodies.get((node.domain, node.op_type), [node])]
    return dict(sorted(Counter(node.op_type for node in nodes if node.op_type != "Constant").items()))
