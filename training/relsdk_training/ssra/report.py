"""What the stages of an SSRA run made: their records, counted and sampled in one pass."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS

__all__ = ["Stage", "read_json", "read_records", "read_stages", "sample_records", "stage_report"]

Record = Mapping[str, Any]

_SHARDS = "records-*.jsonl"
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
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Stage:
    """A finished stage of a run.

    Args:
        name: Its folder's name, such as "04-annotate".
        folder: Where it is.
        seconds: How long it took.
        report: What it said about itself.
    """

    name: str
    folder: Path
    seconds: float
    report: dict[str, Any]

    @property
    def has_records(self) -> bool:
        """Whether the stage made pairs."""
        return any(self.folder.glob(_SHARDS))


def read_stages(run: Path) -> list[Stage]:
    """Return the finished stages of a run, in order.

    Args:
        run: A run's folder.

    Raises:
        InputError: The folder is missing or holds no finished stage, or a `stage.json` is damaged.
    """
    remedy = "name the run.output of a run that was started with: relsdk train ssra CONFIG.toml"
    if not run.is_dir():
        raise InputError(f"there is no run folder {run}; {remedy}")
    paths = sorted(run.glob("stages/*/stage.json"))
    if not paths:
        raise InputError(f"{run} has no finished stage; {remedy}")
    stages = []
    for path in paths:
        value = read_json(path)
        seconds, report = value.get("seconds"), value.get("report")
        if not _is_number(seconds) or not isinstance(report, dict):
            raise InputError(
                f"{path}: 'seconds' must be a number and 'report' an object; "
                "delete the stage's folder and run it again"
            )
        stages.append(Stage(path.parent.name, path.parent, float(seconds), report))
    return stages


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a run holds.

    Raises:
        InputError: The file cannot be read or holds no JSON object.
    """
    try:
        return _json_object(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run the stage again") from error


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
    for number, path in enumerate(sorted(stage_folder.glob(_SHARDS))):
        if path.name != f"records-{number:05d}.jsonl":
            raise InputError(
                f"{stage_folder} has {path.name} where records-{number:05d}.jsonl should be; "
                "delete the folder and run the stage again"
            )
        with path.open("rb") as lines:
            for at, line in enumerate(lines, start=1):
                try:
                    yield _record(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{path}:{at}: damaged record ({error}); delete the stage's folder and run it again"
                    ) from error


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
        * "duplicate_rate": among annotated and synthesised records with a query, the share whose query was
          in an earlier record of any source.
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


def sample_records(
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
        level, wanted, predicted = _level(record), record["wanted"], record["predicted"]
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
        self.seen: set[bytes] = set()
        self.made = self.duplicates = self.echoes = 0
        self.lengths: Counter[int] = Counter()
        self.scripts: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        query = record["query"]
        normal = _normal(query)
        if not normal:
            return
        key = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if record["source"] != "labelled":
            self.made += 1
            self.duplicates += key in self.seen
        self.seen.add(key)
        self.echoes += normal == _normal(record["document"]["title"])
        self.lengths[len(query)] += 1
        self.scripts.update(name for name, pattern in _SCRIPTS.items() if pattern.search(query))

    def to_dict(self) -> dict[str, Any]:
        queries = self.lengths.total()
        characters = sum(length * number for length, number in self.lengths.items())
        return {
            "queries": queries,
            "duplicate_rate": _share(self.duplicates, self.made),
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
        self.seen: Counter[tuple[int, bool]] = Counter()
        self.cells: dict[tuple[int, bool], list[tuple[int, dict[str, Any]]]] = {}
        self.random: dict[tuple[int, bool], random.Random] = {}

    def add(self, record: Record) -> None:
        level = _level(record)
        if level is None:
            return
        cell = level, bool(record["kept"])
        number = self.seen[cell]
        self.seen[cell] += 1
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


def _level(record: Record) -> int | None:
    """The level a record was made for; none if it was made for none and was never scored."""
    level: int | None = record["predicted"] if record["wanted"] is None else record["wanted"]
    return level


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


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


def _json_object(text: bytes) -> dict[str, Any]:
    value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object should be")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _record(line: bytes) -> dict[str, Any]:
    record = _json_object(line)
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
