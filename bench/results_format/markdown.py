"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results_format.records import Results, Row

__all__ = ["markdown_report"]

_TITLES = {
    "encode_query": "Encode one query",
    "encode_bulk": "Encode in bulk",
    "index_build": "Build an index",
    "index_search": "Search an index",
    "million_64": "Search a million vectors of 64 dimensions",
    "million_128": "Search a million vectors of 128 dimensions",
    "million_384": "Search a million vectors of 384 dimensions",
    "filtered_search": "Search with a filter",
    "score": "Score candidates with a cross-encoder",
    "search": "Whole queries: text in, documents out",
    "cold_start": "Process start to first vector",
    "memory": "Resident memory over calls of mixed shapes",
    "soak": "Resident memory over many calls",
    "concurrency": "Several threads calling",
}


def markdown_report(results: Sequence[Results], figures: Sequence[Path] = ()) -> str:
    """Return the report of one or more result files.

    Args:
        results: The files, in the order to show them.
        figures: Pictures to show first, referred to by name: they stand beside the report.

    Returns:
        Markdown, ending with a newline.
    """
    parts = ["# Benchmarks"]
    parts += [f"![{figure.stem.replace('_', ' ')}]({figure.name})" for figure in figures]
    for found in results:
        parts.append(f"## {found.path.name}")
        parts.append(_header(found.header))
        if found.warnings:
            parts.append("\n".join(f"- **Warning**: {text}" for text in found.warnings))
        for suite in found.suites():
            rows = [row for row in found.rows if row.suite == suite]
            parts += [f"### {_TITLES.get(suite, suite)}", _table(rows)]
            machine = _machine_line(rows)
            if machine:
                parts.append(machine)
    return "\n\n".join(parts) + "\n"


def _header(header: Mapping[str, Any]) -> str:
    machine = header.get("machine") or {}
    model = header.get("model") or {}
    versions = machine.get("versions") or {}
    lines = [
        f"- {machine.get('cpu', 'unknown CPU')}, {machine.get('cpus', '?')} CPUs, "
        f"{machine.get('system', 'unknown system')}; threads: {header.get('threads', '?')}",
        f"- commit {machine.get('commit', 'unknown')}, {machine.get('date', 'no date')}: "
        f"`{machine.get('command', '')}`",
        f"- model {model.get('name', 'unknown')}, fingerprint {model.get('fingerprint', 'unknown')}",
        "- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    peers = header.get("peers") or {}
    lines.append("- peers: " + (", ".join(f"{name} {state}" for name, state in peers.items()) or "none"))
    protocol = header.get("protocol") or {}
    if protocol:
        lines.append("- protocol: " + "; ".join(f"{name}: {value}" for name, value in protocol.items()))
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> str:
    """Return one table a suite; columns that no row fills are left out."""
    columns: dict[str, list[str]] = {"case": [], "contender": []}
    shown = [row for row in rows if row.role != "yardstick"]
    quality = list(dict.fromkeys(name for row in shown for name in row.quality))
    optional = ["ratio to first", *quality, "resident MB", "around the session's run, ms"]
    for name in ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "throughput", *optional):
        columns[name] = []
    for row in shown:
        columns["case"].append(row.case)
        columns["contender"].append(f"**{row.contender}**" if row.role == "ours" else row.contender)
        for name in ("p50", "p90", "p95", "p99"):
            columns[f"{name} ms"].append(_number(getattr(row, f"{name}_ms")))
        unit = f" {row.throughput_unit}/s" if row.throughput_unit else "/s"
        columns["throughput"].append(f"{_number(row.throughput)}{unit}" if row.throughput else "")
        columns["ratio to first"].append(_ratio(row))
        for name in quality:
            columns[name].append(_number(row.quality[name]) if name in row.quality else "")
        columns["resident MB"].append(_number(row.memory.resident_mb if row.memory else None))
        columns["around the session's run, ms"].append(_number(row.overhead_ms.get("median")))
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["| " + " | ".join(kept) + " |", "|" + "---|" * len(kept)]
    lines += ["| " + " | ".join(cells) + " |" for cells in zip(*kept.values(), strict=True)]
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    if not row.ratio:
        return ""
    text = f"{row.ratio.median:.2f} ({row.ratio.low:.2f}-{row.ratio.high:.2f})"
    return f"{text}, within the noise" if row.drowned else text


def _machine_line(rows: Sequence[Row]) -> str:
    """Say how noisy the suite's cases were."""
    floors = {row.case: row.noise.floor for row in rows if row.noise}
    if not floors:
        return ""
    worst = max(floors, key=lambda case: floors[case])
    return (
        f"Two identical contenders differed by at most {floors[worst]:.1%} ({worst}); "
        "smaller differences mean nothing."
    )


def _number(value: float | None) -> str:
    """Write a number with four digits that matter."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
