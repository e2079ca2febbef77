"""Names of the files that hold an ONNX graph's weights beside it, read without the onnx package.

A weight outside the graph names its file in `TensorProto.external_data`, an entry with the key "location"
(onnx.proto, ONNX 1.18). Only the parts of the file that hold this word are parsed.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from relsdk.errors import BundleError

__all__ = ["external_names"]

_KEY = b"location"
_MAX_DEPTH = 100
# Fields that hold messages which may hold an entry, by message: field number -> message.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "Tensor": {13: "Entry"},
}


class _Field(NamedTuple):
    number: int
    start: int
    end: int


def external_names(path: Path) -> tuple[str, ...]:
    """Return the files that hold weights of an ONNX file, as it names them, each once.

    Args:
        path: The ONNX file. What it says of files is not believed: a name may lead anywhere.

    Raises:
        BundleError: The file cannot be read, or is damaged where it names files.
    """
    try:
        with path.open("rb") as stream:
            if stream.seek(0, 2) == 0:
                return ()
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                places = list(_places(content))
                names = _Scan(content, places).names(0, len(content), "Model", 0) if places else iter(())
                return tuple(dict.fromkeys(names))
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BundleError(
            f"{path} is not a loadable ONNX model: {error}; copy the file again or export it again"
        ) from error


def _places(content: mmap.mmap) -> Iterator[int]:
    place = content.find(_KEY)
    while place >= 0:
        yield place
        place = content.find(_KEY, place + 1)


class _Scan:
    """A walk through a protobuf message."""

    def __init__(self, content: mmap.mmap, places: list[int]) -> None:
        self._content = content
        self._places = places

    def names(self, start: int, end: int, message: str, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} graphs in each other")
        known = _MESSAGES[message]
        for field in self._fields(start, end):
            kind = known.get(field.number)
            if kind is None or not self._holds_key(field):
                continue
            if kind == "Entry":
                yield from self._entry(field)
            else:
                yield from self.names(field.start, field.end, kind, depth + 1)

    def _entry(self, entry: _Field) -> Iterator[str]:
        key = value = b""
        for field in self._fields(entry.start, entry.end):
            text = self._content[field.start : field.end]
            key, value = (text if field.number == 1 else key), (text if field.number == 2 else value)
        if key == _KEY:
            yield value.decode("utf-8")

    def _holds_key(self, field: _Field) -> bool:
        at = bisect_left(self._places, field.start)
        return at < len(self._places) and self._places[at] + len(_KEY) <= field.end

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields that have a length; pass over numbers."""
        while start < end:
            tag, start = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                _, start = self._varint(start, end)
            elif wire in (1, 5):
                start += 8 if wire == 1 else 4
            elif wire == 2:
                size, start = self._varint(start, end)
                if start + size <= end:
                    yield _Field(number, start, start + size)
                start += size
            else:
                raise ValueError(f"wire type {wire} at byte {start}")
        if start > end:
            raise ValueError("a field is longer than what holds it")

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if start >= end:
                break
            byte = self._content[start]
            start += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, start
        raise ValueError(f"a number without end at byte {start}")
