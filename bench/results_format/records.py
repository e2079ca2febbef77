"""The result file of the benchmark suites: one header, one row a contender of a case.

{"format": "relsdk-bench", "version": 1, "header": {...}, "warnings": [...], "rows": [...]}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.typed_json import read_json

__all__ = ["FORMAT", "VERSION", "Results", "Row", "read_results"]

FORMAT, VERSION = "relsdk-bench", 1
_ROLES = ("ours", "peer", "yardstick")
_PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender did in one case.

    Attributes:
        suite: Which suite, such as "encode_query".
        case: Which case of it, such as "16 tokens".
        contender: Who ran, such as "relsdk int8".
        role: "ours", "peer", or "yardstick" (fixed arithmetic that shows how fast the machine was).
        times: p50, p90, p95 and p99 of a call, in milliseconds, by the names of the file.
        throughput: How many items a second.
        throughput_unit: What an item is, such as "texts".
        quality: The figures that belong to the time, by name; recall, for instance.
        parameters: What the case is made of, by name.
        round_medians_ms: The median call of each round, in milliseconds; empty where nothing was interleaved.
        ratio: "to", "median", "low", "high": time against the case's first contender; empty for that one.
        noise: "low", "high", "floor" of the case's two identical contenders; empty where there were none.
        drowned: Whether the noise drowns the ratio.
        quantiles_ms: Percentile (as text) to milliseconds.
        memory: Resident memory in MB and its growth; empty where it was not measured.
        extra: Everything else.
    """

    suite: str
    case: str
    contender: str
    role: str
    times: Mapping[str, float]
    throughput: float = 0.0
    throughput_unit: str = ""
    quality: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    round_medians_ms: tuple[float, ...] = ()
    ratio: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    drowned: bool = False
    quantiles_ms: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies a row in a file: suite, case, contender."""
        return self.suite, self.case, self.contender


@dataclass(frozen=True, slots=True)
class Results:
    """A result file.

    Attributes:
        path: Where it is.
        header: Machine, versions, commit, threads, model, protocol, peers.
        rows: In the order they were measured.
        warnings: What the run warned of.
    """

    path: Path
    header: Mapping[str, Any]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    def suites(self) -> list[str]:
        """Return the names of the suites, in the order they ran."""
        return list(dict.fromkeys(row.suite for row in self.rows))


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a result file of the suites.

    Raises:
        InputError: The file is missing, not JSON, of another kind or version, or lacks a field.
    """
    file = Path(path)
    content = read_json(file, object, error=InputError, remedy="name a file that the benchmark suites wrote")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{file} is no result of the benchmark suites: its format is not {FORMAT!r}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{file} has version {content.get('version')!r}; this relsdk reads version {VERSION}"
        )
    header, rows, warnings = (content.get(name) for name in ("header", "rows", "warnings"))
    parts = ("machine", "model", "versions", "protocol")
    if isinstance(header, dict) and not all(isinstance(header.get(name, {}), dict) for name in parts):
        raise InputError(f"{file}: in the header, {', '.join(parts)} must be objects")
    if not isinstance(header, dict) or not isinstance(rows, list) or not isinstance(warnings, list):
        raise InputError(f"{file} needs a header (object), rows (array) and warnings (array)")
    found = tuple(_row(file, number, row) for number, row in enumerate(rows))
    seen: set[tuple[str, str, str]] = set()
    for row in found:
        if row.key in seen:
            raise InputError(f"{file} has two rows of {' / '.join(row.key)}; one each is allowed")
        seen.add(row.key)
    return Results(file, header, found, tuple(str(text) for text in warnings))


def _row(file: Path, number: int, content: Any) -> Row:
    place = f"{file}, row {number}"
    if not isinstance(content, dict):
        raise InputError(f"{place} is {type(content).__name__}; an object is needed")
    needed = ("suite", "case", "contender", "role", *_PERCENTILES)
    missing = [name for name in needed if name not in content]
    if missing:
        raise InputError(f"{place} has no {missing[0]!r}; needed are {', '.join(needed)}")
    if content["role"] not in _ROLES:
        raise InputError(f"{place} has the role {content['role']!r}; allowed are {', '.join(_ROLES)}")
    own = {name: content[name] for name in Row.__dataclass_fields__ if name in content and name != "extra"}
    try:
        times = {name: float(content[name]) for name in _PERCENTILES}
        rounds = tuple(float(value) for value in content.get("round_medians_ms") or ())
        throughput = float(content.get("throughput") or 0.0)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place} has a time that is no number: {error}") from error
    mappings = {
        name: content.get(name) or {}
        for name in ("quality", "parameters", "ratio", "noise", "quantiles_ms", "memory")
    }
    wrong = [name for name, value in mappings.items() if not isinstance(value, dict)]
    if wrong:
        raise InputError(f"{place}: {wrong[0]!r} is no object")
    _check_numbers(place, times, rounds, mappings)
    known = {*own, *_PERCENTILES}
    return Row(
        suite=str(content["suite"]),
        case=str(content["case"]),
        contender=str(content["contender"]),
        role=content["role"],
        times=times,
        throughput=throughput,
        throughput_unit=str(content.get("throughput_unit") or ""),
        round_medians_ms=rounds,
        drowned=bool(content.get("drowned")),
        extra={name: value for name, value in content.items() if name not in known},
        **mappings,
    )


def _check_numbers(
    place: str, times: Mapping[str, float], rounds: Sequence[float], parts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise `InputError` for what is no finite number, or not above 0 where nothing else makes sense."""
    if not all(0 < value < math.inf for value in (*times.values(), *rounds)):
        raise InputError(f"{place} has a time that is not above 0: {[*times.values(), *rounds]}")
    wanted = {name: parts[name] for name in ("quality", "noise", "quantiles_ms")}
    wanted["ratio"] = {name: parts["ratio"].get(name) for name in ("median", "low", "high") if parts["ratio"]}
    wanted["memory"] = {name: value for name, value in parts["memory"].items() if name.endswith("_mb")}
    for part, values in wanted.items():
        for name, value in values.items():
            is_number = (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            )
            if not is_number or (name == "resident_mb" and value <= 0):
                raise InputError(f"{place}: {part}.{name} is {value!r}; a number is needed")
