"""The part file: what was made of a shard, as Parquet that says what it is and whether it is whole.

    FOLDER/part-HASH.parquet    `id` string, `vector` fixed_size_list<float32>[D], a row for each of the shard
                                (of scores: `query`, `id`, `score`, `level`, `p0` to `p3`)

The schema's metadata have a JSON object under "relsdk": `PartInfo`. No time and no machine is in it, so a
part that is computed twice is the same bytes. A part is written aside, flushed and renamed.

Shape letters: n rows of a part, D dimension.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError, MissingExtraError, RelsdkError
from relsdk.files.atomic import replaced_file
from relsdk.shards.plan import PART_VERSION, Job, Shard, Source
from relsdk.typed_json import convert_json

__all__ = [
    "PartInfo",
    "check_parquet",
    "part_paths",
    "read_part",
    "read_part_ids",
    "read_part_info",
    "write_part",
]

Columns = Mapping[str, Sequence[str] | NDArray[Any]]
_KEY = b"relsdk"
_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part says of itself.

    Attributes:
        version: Of what parts hold.
        hash: See `Shard`.
        source: SHA-256 of the input's bytes.
        rows: First row of the input, row after the last, rows of the whole input.
        model: See `Job`.
        fingerprint: See `Job`.
        variant: See `Job`.
        dimension: See `Job`.
        kind: See `Job`.
        content: SHA-256 of what the columns hold.
        tokens: How many the model read.
        truncated: How many texts were longer than it reads, and were cut.
    """

    version: int
    hash: str
    source: str
    rows: tuple[int, int, int]
    model: str
    fingerprint: str
    variant: str
    dimension: int
    kind: str
    content: str
    tokens: int
    truncated: int


def check_parquet() -> None:
    """Raise `MissingExtraError` without pyarrow."""
    _import_arrow()


def _import_arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("a folder of parts", "parquet") from None
    return pyarrow, pyarrow.parquet


def write_part(
    folder: Path, shard: Shard, source: Source, job: Job, columns: Columns, *, tokens: int, truncated: int
) -> PartInfo:
    """Write what was made of a shard.

    Args:
        folder: Of the parts.
        shard: Which rows.
        source: Their input.
        job: What was made of them.
        columns: Name to n texts, (n,) numbers, or (n, D) float32 vectors.
        tokens: See `PartInfo`.
        truncated: See there.

    Raises:
        RelsdkError: The file system refused.
    """
    arrow, parquet = _import_arrow()
    info = PartInfo(
        version=PART_VERSION,
        hash=shard.hash,
        source=source.digest,
        rows=(shard.start, shard.stop, shard.total),
        model=job.model,
        fingerprint=job.fingerprint,
        variant=job.variant,
        dimension=job.dimension,
        kind=job.kind,
        content=_content_sha256(columns),
        tokens=tokens,
        truncated=truncated,
    )
    metadata = {_KEY: json.dumps(asdict(info), sort_keys=True, ensure_ascii=False).encode()}
    table = arrow.table({name: _to_arrow(arrow, values) for name, values in columns.items()})
    content = arrow.BufferOutputStream()
    # Vectors hardly shrink, and no two are equal.
    parquet.write_table(
        table.replace_schema_metadata(metadata), content, compression="none", use_dictionary=False
    )
    path = folder / shard.file_name
    try:
        with replaced_file(path) as stream:
            stream.write(memoryview(content.getvalue()))
    except OSError as error:
        reason = error.strerror or error
        raise RelsdkError(f"cannot write {path}: {reason}; check space and permissions there") from error
    return info


def _to_arrow(arrow: Any, values: Sequence[str] | NDArray[Any]) -> Any:
    if not isinstance(values, np.ndarray):
        return arrow.array(values, arrow.string())
    if values.ndim == 1:
        return arrow.array(values)
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), values.shape[1])


def _content_sha256(columns: Columns) -> str:
    """Return the hex SHA-256 of the names, types and values of columns."""
    digest = hashlib.sha256()
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes())
        else:
            text = json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))
            digest.update(f"{name} {len(values)}\n{text}\n".encode())
    return digest.hexdigest()


def part_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """Return what has the name of a part in a folder; Spark's and other programs' parts have others.

    Raises:
        InputError: There is no such folder, or it cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"{os.fspath(folder)} cannot be read ({error.strerror or error}); name a folder of parts"
        ) from None
    return [Path(folder, name) for name in names if _NAME.fullmatch(name)]


def read_part_info(path: Path) -> PartInfo:
    """Read what a part says of itself; its content is not looked at.

    Raises:
        InputError: It is no part of relsdk, or cannot be read.
    """
    _, parquet = _import_arrow()
    with _reading(path) as stream:
        return _info(path, parquet.read_schema(stream))


def read_part(path: Path) -> tuple[PartInfo, dict[str, list[str] | NDArray[Any]]]:
    """Read a part and verify it.

    Returns:
        What it says of itself, and its columns: texts as a list, numbers (n,), vectors (n, D) float32.

    Raises:
        InputError: It is no part of relsdk, cannot be read, or its content is not what was written.
    """
    _, parquet = _import_arrow()
    with _reading(path) as stream:
        table = parquet.read_table(stream)
        info = _info(path, table.schema)
        columns = {name: _from_arrow(table.column(name).combine_chunks()) for name in table.column_names}
    if info.rows[1] - info.rows[0] != table.num_rows or _content_sha256(columns) != info.content:
        raise InputError(f"{path} is damaged: its content is not what was written; make it again")
    return info, columns


def read_part_ids(path: Path) -> list[str]:
    """Read the ids of a part alone; what they say is not verified.

    Raises:
        InputError: It is no part of relsdk, or cannot be read.
    """
    _, parquet = _import_arrow()
    with _reading(path) as stream:
        ids: list[str] = parquet.read_table(stream, columns=["id"]).column("id").to_pylist()
        return ids


def _from_arrow(values: Any) -> list[str] | NDArray[Any]:
    kind = str(values.type)
    if kind == "string":
        texts: list[str] = values.to_pylist()
        return texts
    if not kind.startswith("fixed_size_list"):
        numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return numbers
    vectors: NDArray[Any] = values.flatten().to_numpy().reshape(len(values), values.type.list_size)
    return vectors


def _info(path: Path, schema: Any) -> PartInfo:
    text = (schema.metadata or {}).get(_KEY)
    remedy = "name a folder that relsdk encode or score wrote"
    if text is None:
        raise InputError(f"{path} is no part of relsdk: it does not say what it was made of; {remedy}")
    info = convert_json(json.loads(text), PartInfo, where=str(path), error=InputError, remedy=remedy)
    if info.version != PART_VERSION:
        raise InputError(f"{path} is of version {info.version}, and {PART_VERSION} is read; make it again")
    return info


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a part for pyarrow, which takes a path `a:b` for a URI, and refuses names that are not UTF-8."""
    arrow, _ = _import_arrow()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for
            raise InputError(f"{path} is no regular file; remove it, and make the part again")
        # No file object of Python: pyarrow's threads may drop that while the interpreter ends, and abort.
        with arrow.memory_map(os.fsencode(path)) as stream:
            yield stream
    except InputError:  # is a ValueError, as pyarrow's errors are
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not readable as a part ({reason:.300}); make it again") from None
