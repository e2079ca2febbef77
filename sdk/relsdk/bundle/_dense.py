"""The linear layers that sentence-transformers puts behind the pooling, run with numpy.

Their weights are read from safetensors (https://github.com/huggingface/safetensors: an 8-byte length, a JSON
header, the bytes of the tensors); a pickled file is never opened.

Shape letters: B texts, D width before a layer, E width behind it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle._json_files import DenseConfig, read_json, write_json
from relsdk.bundle.inside import check_inside
from relsdk.errors import BundleError

__all__ = ["DenseLayer", "copy_dense", "dense_config", "dense_files", "read_dense"]

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_VECTORS = "sentence_embedding"  # what a layer reads and writes
_MAX_HEADER = 1 << 20
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_Activation = Callable[[NDArray[np.float32]], NDArray[np.float32]]
# By the last part of the name of torch's class; the exporter has the same names.
_ACTIVATIONS: dict[str, _Activation] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "Sigmoid": lambda x: np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x)),
}
_CLASSES = {
    name: f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"
    for name in _ACTIVATIONS
}


@dataclass(frozen=True, slots=True, eq=False)
class DenseLayer:
    """A linear layer with an activation.

    Attributes:
        weight: (E, D) float32.
        bias: (E,) float32; zeros where the layer has none.
        activation: The last part of the name of torch's class, such as "Tanh".
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (B, D) to (B, E)."""
        # One product a text: the sums of a matrix product depend on how many rows it has.
        rows = [self.weight @ vector for vector in vectors]
        mapped = np.stack(rows) if rows else np.empty((0, len(self.weight)), dtype=np.float32)
        return _ACTIVATIONS[self.activation](mapped + self.bias)

    def write(self, folder: Path, layer: str) -> None:
        """Write the layer into the folder `layer` of a model folder being made, for `read_dense`."""
        behind, before = self.weight.shape
        config = {
            "in_features": before,
            "out_features": behind,
            "bias": True,
            "activation_function": _CLASSES[self.activation],
        }
        (folder / layer).mkdir(parents=True, exist_ok=True)
        write_json(folder / layer / _CONFIG, config)
        _write_safetensors(
            folder / layer / _WEIGHTS, {"linear.weight": self.weight, "linear.bias": self.bias}
        )


def dense_files(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the paths inside a model folder of the files of its layers."""
    return tuple(f"{layer}/{name}" for layer in layers for name in (_CONFIG, _WEIGHTS))


def dense_config(folder: Path, layer: str) -> DenseConfig:
    """Read a layer's configuration.

    Raises:
        BundleError: It is missing or damaged, or asks for what is not supported.
    """
    path = check_inside(folder, f"{layer}/{_CONFIG}")
    config = read_json(path, DenseConfig)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _VECTORS):
            raise BundleError(f"{path} has {key} {config.get(key)!r}; {_VECTORS!r} is supported")
    if config.get("use_residual"):
        raise BundleError(f"{path} has use_residual: true, which is not supported")
    if _dense_activation(config) not in _ACTIVATIONS:
        raise BundleError(
            f"{path} has activation_function {config['activation_function']!r}; known of torch are "
            f"{list(_ACTIVATIONS)}"
        )
    return config


def _dense_activation(config: DenseConfig) -> str:
    """Return the last part of the name of the activation's class; empty where it is none of torch's."""
    stated = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    return stated.rpartition(".")[2] if stated.startswith("torch.") else ""


def copy_dense(source: Path, folder: Path, layers: Sequence[str]) -> None:
    """Copy the files of a checkpoint's layers into a folder being made."""
    for name in dense_files(layers):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(check_inside(source, name), folder / name)


def read_dense(folder: Path, layer: str) -> DenseLayer:
    """Read a layer of a model folder.

    Raises:
        BundleError: A file is missing or damaged, or the layer does what is not supported.
    """
    config = dense_config(folder, layer)
    before, behind = config["in_features"], config["out_features"]
    path = check_inside(folder, f"{layer}/{_WEIGHTS}")
    if not path.is_file():
        raise BundleError(
            f"{path} is missing (a pickled pytorch_model.bin is not opened); save the model again with "
            f"sentence-transformers: SentenceTransformer({str(folder)!r}).save_pretrained(OUT)"
        )
    tensors = _read_safetensors(path)
    wanted: dict[str, tuple[int, ...]] = {"linear.weight": (behind, before)}
    if config.get("bias", True):
        wanted["linear.bias"] = (behind,)
    shapes = {name: values.shape for name, values in tensors.items()}
    if shapes != wanted:
        raise BundleError(f"{path} holds {shapes}; its {_CONFIG} says {wanted}; copy the folder again")
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise BundleError(f"{path} holds numbers that are not finite; copy the folder again")
    bias = tensors.get("linear.bias", np.zeros(behind, dtype=np.float32))
    return DenseLayer(tensors["linear.weight"], bias, _dense_activation(config))


def _read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= min(_MAX_HEADER, len(content) - 8):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(content[8 : 8 + length].decode("utf-8"))
        tensors = memoryview(content)[8 + length :]
        return {name: _tensor(item, tensors) for name, item in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is not a readable safetensors file: {error}") from error


def _write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, values in tensors.items():
        start, end = end, end + 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)  # as safetensors' own writer: tensors start at a multiple of 8 bytes
    content = [np.ascontiguousarray(values, dtype="<f4").tobytes() for values in tensors.values()]
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *content]))


def _tensor(item: Mapping[str, Any], content: memoryview) -> NDArray[np.float32]:
    kind, shape, (start, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
    if kind not in _DTYPES:
        raise ValueError(f"a tensor of {kind}; {list(_DTYPES)} are read")
    if not 0 <= start <= end <= len(content) or any(size < 0 for size in shape):
        raise ValueError("a tensor that lies outside the file")
    values = np.frombuffer(content[start:end], dtype=_DTYPES[kind])
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape).astype(np.float32)
