"""The sample world as files: BEIR-style JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from relsdk.files.folders import staged_folder
from relsdk_sample.world import SPLITS, SampleWorld

__all__ = ["write"]


def write(world: SampleWorld, folder: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Write documents.jsonl, queries.jsonl and pairs_{train,dev,test}.jsonl.

    The folder appears complete or not at all. A document is one object with `_id`, `title`, `text` and its
    metadata as further keys; a query has `_id` and `text`; a pair has `query`, `doc_id`, `title`, `text` and
    `label` (0-3).

    Args:
        world: What to write.
        folder: Where; made when it does not exist.
        overwrite: Replace a folder that is not empty.

    Returns:
        The folder.

    Raises:
        InputError: The folder is a file, or not empty and `overwrite` is false.
        RelsdkError: The file system refused.
    """
    target = Path(folder)
    with staged_folder(target, marker="documents.jsonl", overwrite=overwrite) as staging:
        documents = ({"_id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in world.documents)
        _write_lines(staging / "documents.jsonl", documents)
        _write_lines(staging / "queries.jsonl", ({"_id": q.id, "text": q.text} for q in world.queries))
        for name in SPLITS:
            pairs = (
                {
                    "query": pair.query,
                    "doc_id": pair.document.id,
                    "title": pair.document.title,
                    "text": pair.document.text,
                    "label": int(pair.level),
                }
                for pair in world.split(name)
            )
            _write_lines(staging / f"pairs_{name}.jsonl", pairs)
    return target


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; the same bytes on every platform."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
