"""The result file of the benchmark suites: one header, one row a contender of a case.

{"format": "relsdk-bench", "version": 1, "header": {...}, "warnings": [...], "rows": [...]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from bench.results_format.statistics import Noise
from relsdk.errors import InputError
from relsdk.typed_json import convert_json, read_json

__all__ = ["FORMAT", "VERSION", "Memory", "Ratio", "Results", "Row", "read_results"]

FORMAT, VERSION = "relsdk-bench", 1
_REMEDY = "name a file that the benchmark suites wrote"
Positive = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time against another contender of the case, with its bootstrap interval."""

    to: str
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """Resident memory after so many calls."""

    calls: tuple[int, ...]
    mb: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process; the rest is of the suite that watches it over many calls."""

    resident_mb: Positive
    peak_mb: float | None = None
    settled_mb: float | None = None
    settled_after_calls: int | None = None
    growth_percent: float | None = None
    series: Series | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender did in one case.

    Attributes:
        suite: Which suite, such as "encode_query".
        case: Which case of it, such as "16 tokens".
        contender: Who ran, such as "relsdk int8".
        role: "ours", "peer", or "yardstick" (fixed arithmetic that shows how fast the machine was).
        p50_ms: Of a call, in milliseconds, as the other percentiles.
        p90_ms: See `p50_ms`.
        p95_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        samples: How many calls.
        throughput: How many items a second.
        throughput_unit: What an item is, such as "texts".
        quality: The figures that belong to the time, by name; recall, for instance.
        parameters: What the case is made of, by name.
        round_medians_ms: The median call of each round, in milliseconds; empty where nothing was interleaved.
        ratio: Time against the case's first contender; None for that one.
        noise: Of the case's two identical contenders; None where there were none.
        drowned: Whether the noise drowns the ratio.
        quantiles_ms: Percentile (as text) to milliseconds.
        memory: None where it was not measured.
        overhead_ms: Time around the session's run: median, low and high.
    """

    suite: str
    case: str
    contender: str
    role: Literal["ours", "peer", "yardstick"]
    p50_ms: Positive
    p90_ms: Positive
    p95_ms: Positive
    p99_ms: Positive
    samples: int = 0
    throughput: float = 0.0
    throughput_unit: str = ""
    quality: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    round_medians_ms: tuple[Positive, ...] = ()
    ratio: Ratio | None = None
    noise: Noise | None = None
    drowned: bool = False
    quantiles_ms: dict[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    overhead_ms: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies a row in a file: suite, case, contender."""
        return self.suite, self.case, self.contender


@dataclass(frozen=True, slots=True)
class _Content:
    format: Literal["relsdk-bench"]
    version: Literal[1]
    header: dict[str, Any]
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]


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
        InputError: The file is missing, not JSON, of another kind or version, or a field is wrong.
    """
    file = Path(path)
    parsed = read_json(file, object, error=InputError, remedy=_REMEDY)
    if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
        raise InputError(f"{file} is no result of the benchmark suites: its format is not {FORMAT!r}")
    if parsed.get("version") != VERSION:
        raise InputError(f"{file} has version {parsed.get('version')!r}; this relsdk reads version {VERSION}")
    content = convert_json(parsed, _Content, where=str(file), error=InputError, remedy=_REMEDY)
    parts = ("machine", "model", "versions", "protocol")
    if not all(isinstance(content.header.get(name, {}), dict) for name in parts):
        raise InputError(f"{file}: in the header, {', '.join(parts)} must be objects")
    seen: set[tuple[str, str, str]] = set()
    for row in content.rows:
        if row.key in seen:
            raise InputError(f"{file} has two rows of {' / '.join(row.key)}; one each is allowed")
        seen.add(row.key)
    return Results(file, content.header, content.rows, content.warnings)
