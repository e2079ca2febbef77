"""The meaning of ONNX file names in folders of Optimum, sentence-transformers and the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["find_onnx_files"]

# model.onnx, model_quantized.onnx, model_int8.onnx, model_qint8_avx512_vnni.onnx, model_quint8_avx2.onnx, ...
_ONNX_NAME = re.compile(
    r"^model(?:_(?P<quantisation>q?u?int8|quantized|fp32)(?:_(?P<isa>[a-z0-9_]+))?)?\.onnx$"
)


class _OnnxName(NamedTuple):
    """A file whose name is understood: the first fields of a `Variant`."""

    name: str
    file: str
    quantisation: str
    isa: str


def find_onnx_files(folder: Path) -> tuple[list[_OnnxName], list[str]]:
    """Find the ONNX files of a folder, `onnx/` first, then the top.

    Other precisions and graphs optimised for another runtime (`model_fp16.onnx`, `model_O2.onnx`,
    `model_optimized.onnx`) are left alone: their names do not say what they compute.

    Args:
        folder: The model folder.

    Returns:
        The files whose names are understood, each with a variant name of its own, and the paths of the
        others.
    """
    names: dict[str, _OnnxName] = {}
    ignored = []
    for path in [*sorted(folder.glob("onnx/*.onnx")), *sorted(folder.glob("*.onnx"))]:
        file = path.relative_to(folder).as_posix()
        match = _ONNX_NAME.match(path.name)
        if match is None:
            ignored.append(file)
            continue
        exact = match["quantisation"] in (None, "fp32")
        isa = "any" if exact else match["isa"] or "any"
        name = "fp32" if exact else "int8" if isa == "any" else f"int8_{isa}"
        copies = any(Path(other.file).name == path.name for other in names.values())
        if name in names:  # model_quantized.onnx beside model_int8.onnx
            name = path.stem.removeprefix("model_")
        if not copies and name not in names:
            names[name] = _OnnxName(name, file, "fp32" if exact else "int8", isa)
    return list(names.values()), ignored
