"""ONNX files of any size: past the limit of one protobuf file, weights go into a file beside the graph."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir
from onnx.external_data_helper import set_external_data

__all__ = ["check_graph", "save_graph", "save_program"]

# Bytes of weights; one protobuf file cannot hold 2 GiB.
_EXTERNAL_ABOVE = 1_800_000_000
_PAGE = 4096


def save_graph(model: onnx.ModelProto, path: Path, *, mapped: Sequence[str] = ()) -> None:
    """Write a graph; weights above `_EXTERNAL_ABOVE` go to `<name>.onnx_data` in the same folder.

    Args:
        model: The graph.
        path: The file.
        mapped: Names of weights that go there in any case, each at the start of a page, so that runtimes map
            them into memory as they are.
    """
    weights = sum(len(item.raw_data) for item in model.graph.initializer)
    data = path.with_name(f"{path.name}_data")
    data.unlink(missing_ok=True)  # onnx would append
    offset = 0
    constants = {item.name: item for item in model.graph.initializer}
    for name in mapped:
        set_external_data(constants[name], data.name, offset=offset)
        offset += -(-len(constants[name].raw_data) // _PAGE) * _PAGE
    # onnx writes weights in the graph's order.
    order = {name: number for number, name in enumerate(mapped)}
    ordered = sorted(model.graph.initializer, key=lambda item: order.get(item.name, len(order)))
    del model.graph.initializer[:]
    model.graph.initializer.extend(ordered)
    if mapped or weights <= _EXTERNAL_ABOVE:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    if data.exists():
        shutil.copymode(path, data)  # onnx lets nobody else read it


def save_program(model: onnx_ir.Model, path: Path) -> None:
    """Write what torch exported, as `save_graph` does, without a second copy of the weights in memory.

    Without the exporter's notes, too: they hold the paths of the machine that exported.
    """
    _forget_notes(model)
    weights = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    data = f"{path.name}_data" if weights > _EXTERNAL_ABOVE else None
    onnx_ir.save(model, path, external_data=data, size_threshold_bytes=1024)


def _forget_notes(model: onnx_ir.Model) -> None:
    """Remove the metadata of a model, its graphs, nodes and values."""
    parts: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    values = list(model.graph.initializers.values())
    for part in parts:
        part.metadata_props.clear()
        values.extend(part.inputs)
        for node in onnx_ir.traversal.RecursiveGraphIterator(part):
            node.metadata_props.clear()
            values.extend(node.outputs)
    model.metadata_props.clear()
    for value in values:
        value.metadata_props.clear()


def check_graph(path: Path) -> None:
    """Check a written graph by the ONNX standard; works at any size.

    Raises:
        onnx.checker.ValidationError: The graph is not valid.
    """
    onnx.checker.check_model(str(path))
