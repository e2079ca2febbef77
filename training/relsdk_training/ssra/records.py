"""The records of a run: a pair, the level that was wanted and found, and why it was dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from relsdk.levels import RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_training.data import document_text
from relsdk_training.ssra.report import read_records
from relsdk_training.ssra.synthesis import document_of

__all__ = ["distinct_pairs", "kept_pairs", "key_of", "labelled_record", "level_of", "pair_of"]


def kept_pairs(stage: Path) -> Iterator[LabelledPair]:
    """Yield the pairs that a stage kept."""
    return (pair_of(record) for record in read_records(stage) if record["kept"])


def distinct_pairs(pairs: Iterable[LabelledPair]) -> list[LabelledPair]:
    """Return the first of the pairs of each query and document text."""
    found: dict[tuple[str, str], LabelledPair] = {}
    for pair in pairs:
        found.setdefault((pair.query, document_text(pair.document)), pair)
    return list(found.values())


def level_of(record: Mapping[str, Any]) -> int:
    """Return the level of a record: the wanted one, or of an existing query the predicted one."""
    return int(record["predicted"] if record["wanted"] is None else record["wanted"])


def pair_of(record: Mapping[str, Any]) -> LabelledPair:
    """Return a record as a labelled pair."""
    return LabelledPair(record["query"], Document(**record["document"]), RelevanceLevel(level_of(record)))


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return what makes two records the same pair: query and document text."""
    return record["query"], document_of(record["document"])


def labelled_record(pair: LabelledPair) -> dict[str, Any]:
    """Return a labelled pair as a record."""
    level = int(pair.level)
    return {
        "query": pair.query,
        "document": {"id": pair.document.id, "title": pair.document.title, "text": pair.document.text},
        "wanted": level,
        "predicted": level,
        "probabilities": [],
        "judge": None,
        "kept": True,
        "dropped_because": None,
        "round": 0,
        "model": None,
        "source": "labelled",
    }
