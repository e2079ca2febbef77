"""A memory on disk of what torch exported: tests export the same few toys again and again, seconds each time.

It holds what torch made of a module, its weights and its inputs, under the versions of its libraries and the
code of our packages. All that is relsdk's (fusion, quantisation, parity checks, writing) runs each time.
"""

import functools
import hashlib
import os
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir
from torch import nn

from relsdk_export.onnx.convert import SentenceEncoder

ROOT = Path(__file__).resolve().parent.parent
_TOY_BYTES = 40_000_000
_PLAIN = (bool, int, float, str, tuple, type(None))
_LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir")
_CODE = ("export/relsdk_export", "training/relsdk_checkpoint")


def remembered(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Wrap `torch.onnx.export`: a toy that any process exported before is read from a folder."""
    world = _versions_and_code()

    @functools.wraps(export)
    def exported(module: nn.Module, *others: Any, **options: Any) -> Any:
        if others or sum(tensor.nbytes for tensor in module.state_dict().values()) > _TOY_BYTES:
            return export(module, *others, **options)  # another exporter's call, or no toy
        path = folder / f"{_key(module, options, world)}.onnx"
        if not path.exists():
            aside = path.with_name(f".{uuid.uuid4().hex}.onnx")
            onnx_ir.save(export(module, **options).model, aside)
            os.replace(aside, path)  # another process may have been as fast
        return SimpleNamespace(model=onnx_ir.load(path))

    return exported


def _versions_and_code() -> str:
    digest = hashlib.sha256(repr([(name, version(name)) for name in _LIBRARIES]).encode())
    for path in sorted(path for folder in _CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _key(module: nn.Module, options: dict[str, Any], world: str) -> str:
    digest = hashlib.sha256(world.encode())
    for name, part in module.named_modules():
        kind = type(part)
        settings = {key: value for key, value in vars(part).items() if isinstance(value, _PLAIN)}
        settings.pop("name_or_path", None)
        config = getattr(part, "config", None)
        own = vars(part).get("forward")
        told = (name, kind.__module__, kind.__qualname__, sorted(settings.items()), str(config), repr(own))
        digest.update(repr(told).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(module, SentenceEncoder) and name.startswith("transformer.pooler."):
            continue  # drawn at random in each loading, and not used
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    inputs = {
        name: (tensor.dtype, tuple(tensor.shape), tensor.tolist())
        for name, tensor in options["kwargs"].items()
    }
    others = {name: value for name, value in options.items() if name != "kwargs"}
    digest.update(repr((inputs, sorted(others.items()))).encode())
    return digest.hexdigest()
