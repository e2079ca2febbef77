"""What a team gets without relsdk's export: the checkpoint's graph as torch writes it, dynamic int8."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnxruntime

from bench.suites.settings import Settings

FILE = "unfused_int8.onnx"


def unfused_folder(settings: Settings) -> Path | None:
    """Write a folder as fastembed takes it, with the bundle's tokenizer; None without a checkpoint."""
    if not settings.peers or settings.checkpoint is None:
        return None
    folder = settings.temporary / "unfused"
    shutil.copytree(settings.bundle, folder, ignore=shutil.ignore_patterns("onnx"))
    _write(settings.checkpoint, folder / FILE)
    return folder


def unfused_session(settings: Settings) -> Any | None:
    """Return a session with onnxruntime's default options but for the threads; None without a checkpoint."""
    folder = settings.models.unfused
    if folder is None:
        if settings.peers:
            settings.absent["onnxruntime dynamic int8"] = "no checkpoint of the bundle's weights"
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])


def _write(checkpoint: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from relsdk.bundle import read_encoder_settings
    from relsdk_export.convert import load_encoder, write_onnx

    plain = target.with_name("unfused.onnx")
    with patch("relsdk_export.convert.fuse_attention", lambda model: model):
        write_onnx(load_encoder(checkpoint, read_encoder_settings(checkpoint)), plain)
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
