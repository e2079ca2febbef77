"""Count the operators of a graph, and the matrix products that quantisation left in fp32."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

__all__ = ["compare_operators"]


@dataclass(frozen=True, slots=True)
class _OperatorReport:
    """Operators of a variant against the fp32 graph that it was made of.

    Attributes:
        before: Nodes of the fp32 graph by operator.
        after: Nodes of the variant by operator.
        quantised: Matrix products with constant fp32 weights that are gone; some are merged into one.
        left: Matrix products with constant fp32 weights that remain.
    """

    before: dict[str, int]
    after: dict[str, int]
    quantised: int
    left: int

    def to_dict(self) -> dict[str, object]:
        """Return a JSON form."""
        return asdict(self)


def compare_operators(reference: Path, variant: Path) -> _OperatorReport:
    """Count the operators of an fp32 graph and of a variant made of it (weights are not read)."""
    before, after = (onnx.load(path, load_external_data=False) for path in (reference, variant))
    left = len(_constant_products(after))
    return _OperatorReport(_counts(before), _counts(after), len(_constant_products(before)) - left, left)


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
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
