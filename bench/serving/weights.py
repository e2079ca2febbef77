"""The same weights in the forms that relsdk and its peers take.

The unfused folder is what a team gets without relsdk's export: the checkpoint's graph as torch writes it, in
dynamic int8.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILE", "Models", "quiet_quantizer", "unfused_folder"]

FILE = "unfused_int8.onnx"


@dataclass(frozen=True)
class Models:
    """The same weights in the forms that each library takes.

    Attributes:
        bundle: The encoder's bundle.
        checkpoint: For torch; None when there is none.
        variant: Name of the bundle's int8 variant.
        unfused: A folder of `unfused_folder`; None when there is none.
    """

    bundle: Path
    checkpoint: Path | None
    variant: str
    unfused: Path | None = None

    def file_of(self, precision: str) -> str:
        """Return the name of the bundle's variant for "int8" or "fp32"."""
        return self.variant if precision == "int8" else "fp32"


def unfused_folder(bundle: Path, checkpoint: Path, temporary: Path) -> Path:
    """Write a folder as fastembed takes it, with the bundle's tokenizer."""
    folder = temporary / "unfused"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("onnx"))
    _write(checkpoint, folder / FILE)
    return folder


def _write(checkpoint: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from relsdk.bundle import read_encoder_settings
    from relsdk_export.onnx.convert import load_encoder
    from relsdk_export.onnx.graphs import save_program
    from relsdk_export.onnx.write import trace

    plain = target.with_name("unfused.onnx")
    save_program(trace(load_encoder(checkpoint, read_encoder_settings(checkpoint))), plain)
    with quiet_quantizer():
        quantize_dynamic(
            plain,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        )


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Silence onnxruntime's quantiser, which asks for its own preprocessing on the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
