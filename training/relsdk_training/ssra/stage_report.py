"""The records of an SSRA run's stages, counted and sampled in one pass."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk_training.data.text import normal_form
from relsdk_training.ssra.pair_records import level_of, read_records

__all__ = ["stage_report"]

Record = Mapping[str, Any]

_SCRIPTS = {
    "han": re.compile(
        "[\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
        "\U00020000-\U0003ffff]"
    ),
    "latin": re.compile(
        "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"
    ),
    "digit": re.compile(r"\d"),
}


def stage_report(records: Iterable[Record], *, examples: int = 3, seed: int = 0) -> dict[str, Any]:
    """Count what a stage made, in one pass; memory grows by one 8-byte hash for each distinct query.

    A record's level is the wanted one, or the predicted one where none was wanted. A query is what is left of
    the text after folding width, case and spaces; records without one count as records only.

    Args:
        records: As `read_records` yields them.
        examples: How many kept and how many dropped records to show for each level.
        seed: Of the choice of examples.

    Returns:
        Counts and shares, ready for JSON. All shares are in [0, 1], and null where there is nothing to take a
        share of. Lists over levels go from 0 to 3.

        * "total", "kept", "without_level": numbers of records.
        * "levels": for each level {"level", "total", "kept", "kept_share"}; totals and "without_level" sum to
          "total".
        * "sources": for each source the numbers of its records of each level.
        * "dropped_because": numbers of records; with "kept" they sum to "total".
        * "queries": number of records with a query.
        * "duplicate_rate": among records with a query that are not labelled, the share whose query was in an
          earlier record of any source.
        * "echo_share": the share of queries that equal their document's title.
        * "query_length": {"mean", "p50", "p95"} in characters.
        * "scripts": the shares of queries with any "han", "latin" or "digit" character.
        * "agreement": for each wanted level the share of scored records that were predicted so.
        * "confusion": 4x4 numbers of scored records, wanted (rows) by predicted (columns).
        * "examples": for each level {"kept": records, "dropped": records}.

    Raises:
        InputError: `examples` is negative.
    """
    levels, queries, chosen = _LevelTally(), _QueryTally(), _Sample(examples, seed)
    for record in records:
        levels.add(record)
        queries.add(record)
        chosen.add(record)
    samples = chosen.by_level()
    return {
        **levels.to_dict(),
        **queries.to_dict(),
        "examples": [samples[level] for level in range(NUM_LEVELS)],
    }


def _sample_records(
    stage_folder: Path, per_level: int, seed: int
) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """Choose records of a stage at random, in one pass.

    Args:
        stage_folder: `RUN/stages/NAME`.
        per_level: How many kept and how many dropped records to choose for each level; where there are fewer,
            all are chosen.
        seed: The same seed and records give the same choice; what one level gets does not depend on the
            others.

    Returns:
        For each level 0-3 {"kept": records, "dropped": records}, in the stage's order. Records without a
        level (neither wanted nor scored) are in none.

    Raises:
        InputError: `per_level` is negative, or the stage is damaged.
    """
    sample = _Sample(per_level, seed)
    for record in read_records(stage_folder):
        sample.add(record)
    return sample.by_level()


class _LevelTally:
    """Counts records by level, source and fate."""

    def __init__(self) -> None:
        self.levels: Counter[tuple[int | None, bool]] = Counter()  # (level, kept)
        self.sources: dict[str, list[int]] = {}
        self.dropped: Counter[str] = Counter()
        self.confusion = [[0] * NUM_LEVELS for _ in range(NUM_LEVELS)]

    def add(self, record: Record) -> None:
        level, wanted, predicted = level_of(record), record["wanted"], record["predicted"]
        self.levels[level, record["kept"]] += 1
        by_level = self.sources.setdefault(record["source"], [0] * NUM_LEVELS)
        if level is not None:
            by_level[level] += 1
        if not record["kept"]:
            self.dropped[record["dropped_because"]] += 1
        if wanted is not None and predicted is not None:
            self.confusion[wanted][predicted] += 1

    def to_dict(self) -> dict[str, Any]:
        kept = [self.levels[level, True] for level in range(NUM_LEVELS)]
        total = [kept[level] + self.levels[level, False] for level in range(NUM_LEVELS)]
        return {
            "total": sum(self.levels.values()),
            "kept": sum(number for (_, is_kept), number in self.levels.items() if is_kept),
            "without_level": self.levels[None, True] + self.levels[None, False],
            "levels": [
                {
                    "level": level,
                    "total": total[level],
                    "kept": kept[level],
                    "kept_share": _share(kept[level], total[level]),
                }
                for level in range(NUM_LEVELS)
            ],
            "sources": self.sources,
            "dropped_because": dict(sorted(self.dropped.items())),
            "agreement": [_share(row[level], sum(row)) for level, row in enumerate(self.confusion)],
            "confusion": self.confusion,
        }


class _QueryTally:
    """Measures the texts of queries."""

    def __init__(self) -> None:
        self.hashes: set[bytes] = set()
        self.new = self.duplicates = self.echoes = 0
        self.lengths: Counter[int] = Counter()
        self.scripts: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        query = record["query"]
        normal = normal_form(query)
        if not normal:
            return
        key = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if record["source"] != "labelled":
            self.new += 1
            self.duplicates += key in self.hashes
        self.hashes.add(key)
        self.echoes += normal == normal_form(record["document"]["title"])
        self.lengths[len(query)] += 1
        self.scripts.update(name for name, pattern in _SCRIPTS.items() if pattern.search(query))

    def to_dict(self) -> dict[str, Any]:
        queries = self.lengths.total()
        characters = sum(length * number for length, number in self.lengths.items())
        return {
            "queries": queries,
            "duplicate_rate": _share(self.duplicates, self.new),
            "echo_share": _share(self.echoes, queries),
            "query_length": {
                "mean": _share(characters, queries),
                "p50": _percentile(self.lengths, 50),
                "p95": _percentile(self.lengths, 95),
            },
            "scripts": {name: _share(self.scripts[name], queries) for name in _SCRIPTS},
        }


class _Sample:
    """A reservoir (Vitter's algorithm R) for each level, of kept and of dropped records."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 0:
            raise InputError(f"{size} examples were asked for; allowed are 0 and more")
        self.size = size
        self.seed = seed
        self.counts: Counter[tuple[int, bool]] = Counter()
        self.cells: dict[tuple[int, bool], list[tuple[int, dict[str, Any]]]] = {}
        self.random: dict[tuple[int, bool], random.Random] = {}

    def add(self, record: Record) -> None:
        level = level_of(record)
        if level is None:
            return
        cell = level, bool(record["kept"])
        number = self.counts[cell]
        self.counts[cell] += 1
        chosen = self.cells.setdefault(cell, [])
        if len(chosen) < self.size:
            chosen.append((number, dict(record)))
            return
        if cell not in self.random:  # a text seeds the same way in every process
            self.random[cell] = random.Random(f"{self.seed} {cell}")
        at = self.random[cell].randrange(number + 1)
        if at < self.size:
            chosen[at] = number, dict(record)

    def by_level(self) -> dict[int, dict[str, list[dict[str, Any]]]]:
        return {
            level: {
                fate: [
                    record for _, record in sorted(self.cells.get((level, kept), []), key=lambda one: one[0])
                ]
                for fate, kept in (("kept", True), ("dropped", False))
            }
            for level in range(NUM_LEVELS)
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentile(lengths: Counter[int], percent: int) -> int | None:
    """The smallest length that `percent` of all texts do not exceed; none without texts."""
    rank = -(-lengths.total() * percent // 100)  # rounded up
    for length in sorted(lengths):
        rank -= lengths[length]
        if rank <= 0:
            return length
    return None
