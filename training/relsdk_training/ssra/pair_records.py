"""The records of pairs: the level that was wanted and predicted, and why a pair was dropped.

A record is an object of JSON with the keys of `new_record`. Imports nothing heavy: reports read records, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS, RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.ssra._shards import json_object, shard_paths

__all__ = [
    "Record",
    "distinct",
    "document_of",
    "drop",
    "has_records",
    "kept_pairs",
    "key_of",
    "labelled_key",
    "level_of",
    "new_record",
    "pair_key",
    "read_records",
    "sample",
]

Record = dict[str, Any]
_T = TypeVar("_T")

_SHARDS = "records"
_SURROGATE = re.compile("[\ud800-\udfff]")


def new_record(document: Mapping[str, Any], query: str, *, wanted: int | None, source: str) -> Record:
    """Return a record that has no level from a model yet.

    Args:
        document: With `id`, `title` and `text`.
        query: The query.
        wanted: The level that it was written for, or that its label is; None for an existing query.
        source: "labelled", "annotated", "synthesised" by this run's query model, or "written" elsewhere.

    Returns:
        Besides these: `predicted` (a level, or None) and `probabilities` (of levels 0-3, or none) by the
        score model, `judge` (its `verdict`, or None), `kept`, `dropped_because`, `round` (0 is none) and
        `model` (hash of the query model, or None).
    """
    return {
        "query": query,
        "document": {key: document[key] for key in ("id", "title", "text")},
        "wanted": wanted,
        "predicted": None,
        "probabilities": [],
        "judge": None,
        "kept": True,
        "dropped_because": None,
        "round": 0,
        "model": None,
        "source": source,
    }


def drop(record: Record, reason: str) -> None:
    """Say that a record is not used, and why."""
    record["kept"], record["dropped_because"] = False, reason


def has_records(stage_folder: Path) -> bool:
    """Whether a stage made records."""
    return any(stage_folder.glob(f"{_SHARDS}-*.jsonl"))


def read_records(stage_folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a stage's records, shard by shard; only one is in memory at a time.

    Args:
        stage_folder: `RUN/stages/NAME`. A stage that makes no pairs has no shards and yields nothing.

    Yields:
        Records as the stage wrote them.

    Raises:
        InputError: The folder or a shard is missing, or a line is damaged, which is named.
    """
    if not stage_folder.is_dir():
        raise InputError(f"there is no stage folder {stage_folder}; check the path")
    if not has_records(stage_folder):
        return
    for path in shard_paths(stage_folder, _SHARDS):
        with path.open("rb") as lines:
            for at, line in enumerate(lines, start=1):
                try:
                    yield _record(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{path}:{at}: damaged record ({error}); delete the stage's folder and run it again"
                    ) from error


def kept_pairs(stage_folder: Path) -> Iterator[LabelledPair]:
    """Yield the pairs that a stage kept."""
    return (_pair_of(record) for record in read_records(stage_folder) if record["kept"])


def distinct(items: Iterable[_T], key: Callable[[_T], object]) -> Iterator[_T]:
    """Yield the first of the items with the same key; memory grows by a hash for each.

    Args:
        items: N items.
        key: Makes a JSON value of one.
    """
    digests: set[bytes] = set()
    for item in items:
        digest = hashlib.blake2b(json.dumps(key(item)).encode(), digest_size=16).digest()
        if digest not in digests:
            digests.add(digest)
            yield item


def sample(items: Iterable[_T], most: int, seed: int) -> list[_T]:
    """Return all items, or a random few in their order; no more than that is in memory (reservoir sampling).

    Args:
        items: N items.
        most: How many are returned at most, 0 or more.
        seed: Of the choice; each subset of that size is equally likely.
    """
    chance = random.Random(seed)
    chosen: list[tuple[int, _T]] = []
    for number, item in enumerate(items):
        at = number if number < most else chance.randrange(number + 1)
        if at < len(chosen):
            chosen[at] = number, item
        elif at < most:
            chosen.append((number, item))
    return [item for _, item in sorted(chosen, key=lambda one: one[0])]


def level_of(record: Mapping[str, Any]) -> int | None:
    """Return the wanted level, or of an existing query the predicted one; None before it is scored."""
    level: int | None = record["predicted"] if record["wanted"] is None else record["wanted"]
    return level


def _pair_of(record: Mapping[str, Any]) -> LabelledPair:
    """Return a record that has a level as a labelled pair.

    Raises:
        InputError: It has none.
    """
    level = level_of(record)
    if level is None:
        raise InputError(f"the record of {record['query']!r} has no level, so it is no labelled pair")
    return LabelledPair(record["query"], Document(**record["document"]), RelevanceLevel(level))


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return what makes two records the same pair; see `pair_key`."""
    return pair_key(record["query"], document_of(record["document"]))


def pair_key(query: str, document: str) -> tuple[str, str]:
    """Return what the same pairs have in common: the query but for case and width, the document's text."""
    return normal_form(query), document


def labelled_key(pair: LabelledPair) -> tuple[str, str]:
    """Return what makes two labelled pairs the same; see `pair_key`."""
    return pair_key(pair.query, document_text(pair.document))


def document_of(document: Mapping[str, Any]) -> str:
    """Return the text that a record's document is scored by."""
    return document_text(Document(document["id"], document["title"], document["text"]))


def _record(line: bytes) -> dict[str, Any]:
    record = json_object(line)
    for name, is_right in _FIELDS.items():
        if name not in record:
            raise ValueError(f"no {name!r}")
        if not is_right(record[name]):
            raise ValueError(f"{name!r} is {str(record[name])[:60]!r}")
    if record["kept"] != (record["dropped_because"] is None):
        raise ValueError("either 'kept' or 'dropped_because' is wrong")
    return record


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_document(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(value.get(name)) for name in ("id", "title", "text"))


def _is_level(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < NUM_LEVELS)


def _are_probabilities(value: object) -> bool:
    if not isinstance(value, list) or not all(_is_number(p) and 0 <= p <= 1 for p in value):
        return False
    return not value or (len(value) == NUM_LEVELS and abs(sum(value) - 1) < 0.01)  # they may be rounded


def _is_judgement(value: object) -> bool:
    return value is None or (isinstance(value, dict) and _is_text(value.get("verdict")))


_FIELDS: dict[str, Callable[[object], bool]] = {
    "query": _is_text,
    "document": _is_document,
    "wanted": _is_level,
    "predicted": _is_level,
    "probabilities": _are_probabilities,
    "judge": _is_judgement,
    "kept": lambda value: isinstance(value, bool),
    "dropped_because": lambda value: value is None or _is_text(value),
    "source": _is_text,
}
