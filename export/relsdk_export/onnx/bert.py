"""The ONNX graph of BERT and its family, built from the weights in a fraction of the time that tracing takes.

The operators are those that torch exports and `fusion` fuses, on the same numbers in the same order; only the
mask and the positions take fewer of them. A model of another kind is traced.

Shape letters: B texts of a batch, T tokens, D dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape
from torch import Tensor, nn

from relsdk_export.onnx.convert import PairClassifier, SentenceEncoder

__all__ = ["DENSE_ACTIVATIONS", "OPSET", "encoder_graph", "scorer_graph"]

OPSET = 20  # the first with Gelu as one operator
_IR_VERSION = 10  # what torch writes, too
_MICROSOFT = "com.microsoft"
_ENCODERS = ("BertModel", "RobertaModel", "XLMRobertaModel")
# Name -> where its encoder is.
_CLASSIFIERS = {
    "BertForSequenceClassification": "bert",
    "RobertaForSequenceClassification": "roberta",
    "XLMRobertaForSequenceClassification": "roberta",
}
# Configured names -> operators; others are traced.
_ACTIVATIONS = {"gelu": "Gelu", "relu": "Relu"}
DENSE_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "Tanh", nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid"}


def encoder_graph(model: SentenceEncoder) -> ir.Model | None:
    """Build the graph of an encoder with its pooling; None for an architecture that is not known here."""
    if type(model.transformer).__name__ not in _ENCODERS or not _is_plain(model.transformer.config):
        return None
    graph = _Graph()
    hidden = graph.transformer(model.transformer)
    pooled = graph.pool(hidden, model.pooling)  # (B, D)
    for number, layer in enumerate(model.dense):
        linear, activation = layer.children()
        pooled = graph.head(pooled, linear, f"dense.{number}")
        if type(activation) in DENSE_ACTIVATIONS:
            pooled = graph.op(DENSE_ACTIVATIONS[type(activation)], pooled)
    if model.cut is not None:
        pooled = graph.op("Slice", pooled, graph.vector(0), graph.vector(model.cut), graph.vector(1))
    if model.normalize:
        pooled = graph.normalise(pooled)
    if model.cut is None:
        graph.output("last_hidden_state", hidden, ["batch", "tokens", model.transformer.config.hidden_size])
    graph.output("sentence_embedding", pooled, ["batch", model.cut or model.width])
    return graph.finish()


def scorer_graph(model: PairClassifier) -> ir.Model | None:
    """Build the graph of a cross-encoder with its head; None for an architecture that is not known here."""
    transformer: Any = model.transformer
    inside = _CLASSIFIERS.get(type(transformer).__name__)
    if inside is None or not _is_plain(transformer.config):
        return None
    encoder = getattr(transformer, inside)
    graph = _Graph(uses_types=model.uses_types)
    first = graph.first_token(graph.transformer(encoder))  # (B, D)
    if inside == "bert":
        dense, classifier = encoder.pooler.dense, transformer.classifier
    else:
        dense, classifier = transformer.classifier.dense, transformer.classifier.out_proj
    between = graph.op("Tanh", graph.head(first, dense, "head.dense"))
    logits = graph.head(between, classifier, "head.classifier")
    graph.output("logits", logits, ["batch", classifier.out_features])
    return graph.finish()


def _is_plain(config: Any) -> bool:
    """Whether a configuration changes nothing that is not built here."""
    return (
        config.hidden_act in _ACTIVATIONS
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "add_cross_attention", False)
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
    )


class _Graph:
    """A graph in the making: inputs, constants by name, nodes.

    Args:
        uses_types: Whether the types of tokens are an input; otherwise all are of the first.
    """

    def __init__(self, *, uses_types: bool = False) -> None:
        self.tape = Tape()
        self.constants: dict[str, ir.Value] = {}
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if uses_types else [])]
        kind = ir.TensorType(ir.DataType.INT64)
        self.inputs = {
            name: ir.Value(name=name, shape=ir.Shape(["batch", "tokens"]), type=kind) for name in names
        }
        self.ids, self.mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        self.outputs: list[ir.Value] = []

    def op(
        self, operator: str, *inputs: ir.Value | None, name: str = "", domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Add a node of one output, which has its name."""
        name = name or f"{operator}_{len(self.tape.nodes)}"
        output = ir.Value(name=name)
        return self.tape.op(operator, inputs, attributes, domain=domain, name=name, output=output)

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> ir.Value:
        """Return the constant of a name, added when it is first asked for."""
        if name not in self.constants:
            self.constants[name] = self.tape.initializer(ir.tensor(values, name=name))
        return self.constants[name]

    def whole(self, value: int) -> ir.Value:
        """Return a constant whole number."""
        return self.constant(f"whole_{value}", np.array(value, dtype=np.int64))

    def vector(self, *values: int) -> ir.Value:
        """Return a constant vector of whole numbers."""
        return self.constant(f"vector_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def number(self, value: float) -> ir.Value:
        """Return a constant real number."""
        return self.constant(f"number_{value:g}", np.array(value, dtype=np.float32))

    def weight(self, name: str, tensor: Tensor) -> ir.Value:
        """Return a weight as a constant, without a copy of it."""
        return self.constant(name, tensor.detach().numpy())

    def transformer(self, model: Any) -> ir.Value:
        """Add the embeddings and all layers; return the token vectors (B, T, D)."""
        hidden = self._embeddings(model.embeddings)
        real = self.op("Cast", self.mask, to=ir.DataType.INT32)  # (B, T)
        for number, layer in enumerate(model.encoder.layer):
            hidden = self._layer(hidden, real, layer, f"layer.{number}", model.config.hidden_act)
        return hidden

    def _embeddings(self, part: Any) -> ir.Value:
        """Add words, types and positions (B, T, D)."""
        types = self.inputs.get("token_type_ids") or self.constant("first_type", np.zeros((1, 1), np.int64))
        words = self._rows(part.word_embeddings, self.ids, "embeddings.word")
        words = self.op("Add", words, self._rows(part.token_type_embeddings, types, "embeddings.type"))
        positions = self._positions(getattr(part, "padding_idx", None))
        rows = self._rows(part.position_embeddings, positions, "embeddings.position")
        hidden = self._norm(self.op("Add", words, rows), part.LayerNorm, "embeddings.norm")
        # Runtimes fuse residuals whose shapes they know to be equal; through the positions, they lose it.
        return _typed(hidden, ["batch", "tokens", part.word_embeddings.embedding_dim])

    def _rows(self, table: nn.Embedding, ids: ir.Value, name: str) -> ir.Value:
        return self.op("Gather", self.weight(f"{name}.weight", table.weight), ids, name=name, axis=0)

    def _positions(self, padding: int | None) -> ir.Value:
        """Return each token's row in the table of positions: (T,), or (B, T) counted past the padding.

        RoBERTa's family counts what is no padding, from the row behind the padding's.
        """
        if padding is None:
            length = self.op("Squeeze", self.op("Shape", self.ids, start=1, end=2))
            return self.op("Range", self.whole(0), length, self.whole(1))
        pad = self.whole(padding)
        real = self.op("Cast", self.op("Not", self.op("Equal", self.ids, pad)), to=ir.DataType.INT64)
        counted = self.op("Mul", self.op("CumSum", real, self.vector(1)), real)
        return self.op("Add", counted, pad)

    def _layer(self, hidden: ir.Value, real: ir.Value, layer: Any, name: str, activation: str) -> ir.Value:
        attention = layer.attention.self
        parts = [
            self._linear(hidden, getattr(attention, part), f"{name}.{part}")
            for part in ("query", "key", "value")
        ]
        mixed = self.op(
            "MultiHeadAttention",
            *parts,
            None,
            real,
            name=f"{name}.attention",
            domain=_MICROSOFT,
            num_heads=attention.num_attention_heads,
        )
        # Tools that know the standard's operators alone look for it.
        _typed(mixed, ["batch", "tokens", attention.all_head_size])
        hidden = self._residual(mixed, hidden, layer.attention.output, f"{name}.attention.output")
        wide = self._linear(hidden, layer.intermediate.dense, f"{name}.intermediate")
        wide = self.op(_ACTIVATIONS[activation], wide, name=f"{name}.activation")
        return self._residual(wide, hidden, layer.output, f"{name}.output")

    def _residual(self, inner: ir.Value, hidden: ir.Value, part: Any, name: str) -> ir.Value:
        inner = self._linear(inner, part.dense, name)
        return self._norm(self.op("Add", inner, hidden), part.LayerNorm, f"{name}.norm")

    def _linear(self, inner: ir.Value, layer: nn.Linear, name: str) -> ir.Value:
        """Multiply (B, T, K) by weights (K, N) and add the bias: what quantisation looks for."""
        product = self.op(
            "MatMul", inner, self.weight(f"{name}.weight", layer.weight.T), name=f"{name}.product"
        )
        return self.op("Add", product, self.weight(f"{name}.bias", layer.bias), name=name)

    def _norm(self, inner: ir.Value, layer: nn.LayerNorm, name: str) -> ir.Value:
        gain, bias = self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)
        return self.op("LayerNormalization", inner, gain, bias, name=name, axis=-1, epsilon=layer.eps)

    def head(self, inner: ir.Value, layer: Any, name: str) -> ir.Value:
        """Multiply (B, K) by weights (N, K) and add the bias: a small product that stays in fp32."""
        weight, bias = self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)
        return self.op("Gemm", inner, weight, bias, name=name, transB=1)

    def first_token(self, hidden: ir.Value) -> ir.Value:
        """Take the first token's vector (B, D)."""
        return self.op("Gather", hidden, self.whole(0), axis=1)

    def pool(self, hidden: ir.Value, pooling: str) -> ir.Value:
        """Add what makes one vector (B, D) of token vectors; see `relsdk.models.pooling`."""
        if pooling == "cls":
            return self.first_token(hidden)
        if pooling == "lasttoken":
            count = self.op("ReduceSum", self.mask, self.vector(1), keepdims=1)  # (B, 1)
            last = self.op("Max", self.op("Sub", count, self.whole(1)), self.whole(0))
            return self.op("GatherND", hidden, last, batch_dims=1)
        if pooling == "max":
            real = self.op("Cast", self.op("Unsqueeze", self.mask, self.vector(-1)), to=ir.DataType.BOOL)
            masked = self.op("Where", real, hidden, self.number(float("-inf")))
            return self.op("ReduceMax", masked, self.vector(1), keepdims=0)
        weights = self.op("Cast", self.op("Unsqueeze", self.mask, self.vector(1)), to=ir.DataType.FLOAT)
        if pooling == "weightedmean":
            weights = self.op("Mul", weights, self.op("CumSum", weights, self.vector(2)))
        total = self.op("ReduceSum", weights, self.vector(2), keepdims=0)  # (B, 1)
        total = self.op("Clip", total, self.number(1e-9))
        if pooling == "mean_sqrt_len_tokens":
            total = self.op("Sqrt", total)
        # A product, whose order of adding depends less on the padding than a sum's.
        summed = self.op("Squeeze", self.op("MatMul", weights, hidden), self.vector(1))
        return self.op("Div", summed, total)

    def normalise(self, vectors: ir.Value) -> ir.Value:
        """Divide (B, D) by their lengths."""
        length = self.op("ReduceL2", vectors, self.vector(-1), keepdims=1)
        return self.op("Div", vectors, self.op("Clip", length, self.number(1e-12)))

    def output(self, name: str, value: ir.Value, shape: list[str | int]) -> None:
        """Make a value an output of the graph, under a name that callers know."""
        value.name = name
        self.outputs.append(_typed(value, shape))

    def finish(self) -> ir.Model:
        """Return the model."""
        graph = ir.Graph(
            list(self.inputs.values()),
            self.outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": OPSET, _MICROSOFT: 1},
            name="main_graph",
        )
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="relsdk")


def _typed(value: ir.Value, shape: list[str | int]) -> ir.Value:
    """Say that a value is of real numbers, and its shape; return it."""
    value.shape, value.dtype = ir.Shape(shape), ir.DataType.FLOAT
    return value
