"""The same weights in the forms that relsdk and its peers take.

The unfused folder is what a team gets without relsdk's export: the checkpoint's graph as torch writes it, in
dynamic int8. The dynamic file is the same of relsdk's fp32 file, whose operators are fused. The inlined file
is relsdk's int8 file for OpenVINO, which does not read functions.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

__all__ = [
    "FILE",
    "Models",
    "ctranslate2_folder",
    "dynamic_file",
    "inlined_file",
    "quiet_quantizer",
    "unfused_folder",
]

FILE = "unfused_int8.onnx"


@dataclass(frozen=True)
class Models:
    """The same weights in the forms that each library takes.

    Attributes:
        bundle: The encoder's bundle.
        checkpoint: For torch; None when there is none.
        variant: Name of the bundle's int8 variant.
        unfused: A folder of `unfused_folder`; None when there is none.
        dynamic: A file of `dynamic_file`; None when there is none.
        inlined: A file of `inlined_file`; None when there is none.
        ctranslate2: A folder of `ctranslate2_folder`; None when there is none.
    """

    bundle: Path
    checkpoint: Path | None
    variant: str
    unfused: Path | None = None
    dynamic: Path | None = None
    inlined: Path | None = None
    ctranslate2: Path | None = None

    def file_of(self, precision: str) -> str:
        """Return the name of the bundle's variant for "int8" or "fp32"."""
        return self.variant if precision == "int8" else "fp32"

    def to_dict(self) -> dict[str, str | None]:
        """Return what `from_dict` reads, for another process."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, content: dict[str, str | None]) -> Models:
        """Return what `to_dict` described."""
        paths = {name: value and Path(value) for name, value in content.items() if name != "variant"}
        return cls(**paths, variant=content["variant"])


def unfused_folder(bundle: Path, checkpoint: Path, temporary: Path) -> Path:
    """Write a folder as fastembed takes it, with the bundle's tokenizer."""
    folder = temporary / "unfused"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("onnx"))
    _write(checkpoint, folder / FILE)
    return folder


def dynamic_file(fp32: Path, target: Path) -> Path:
    """Write an ONNX file in onnxruntime's dynamic int8: weights by channel, activations by tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_quantizer():
        quantize_dynamic(
            fp32,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        )
    return target


def inlined_file(path: Path, target: Path) -> Path:
    """Write an ONNX file with its functions' operators where they are called, and its weights inside."""
    import onnx
    from onnx.inliner import inline_local_functions

    onnx.save(inline_local_functions(onnx.load(path)), target)
    return target


def ctranslate2_folder(checkpoint: Path, target: Path) -> Path:
    """Convert a checkpoint to CTranslate2's int8.

    Raises:
        ValueError: CTranslate2 does not convert this architecture.
    """
    from ctranslate2.converters import TransformersConverter

    copy = target.with_name(f"{target.name}-checkpoint")
    shutil.copytree(checkpoint, copy, copy_function=shutil.copyfile)
    path = copy / "config.json"
    # Its converter asks for what transformers 5 no longer writes.
    config = {"position_embedding_type": "absolute", **json.loads(path.read_text(encoding="utf-8"))}
    path.write_text(json.dumps(config), encoding="utf-8")
    TransformersConverter(str(copy)).convert(str(target), quantization="int8")
    return target


def _write(checkpoint: Path, target: Path) -> None:
    from relsdk.bundle import read_encoder_settings
    from relsdk_export.onnx.convert import load_encoder
    from relsdk_export.onnx.graphs import save_program
    from relsdk_export.onnx.write import trace

    plain = target.with_name("unfused.onnx")
    save_program(trace(load_encoder(checkpoint, read_encoder_settings(checkpoint))), plain)
    dynamic_file(plain, target)


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Silence onnxruntime's quantiser, which asks for its own preprocessing on the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
