"""The table of `bench/results/export_time.json`: how long each step of an export takes."""

from __future__ import annotations

from typing import Any


def export_table(found: dict[str, Any]) -> str:
    """Return seconds of CPU by step, and what they were measured on."""
    machine = found["machine"]
    lines = ["| step | CPU seconds |", "|---|---|"]
    lines += [f"| {step} | {row['cpu_seconds']:.1f} |" for step, row in found["steps"].items()]
    lines.append(f"| in total | {found['total']['cpu_seconds']:.1f} |")
    note = f"{machine['cpu']}, {machine['date']}, one CPU (`make export-time`)"
    if found["loaded"]:
        note += f"; other work had a share of it, so that the clock said {found['total']['seconds']:.0f} s"
    return "\n".join([*lines, "", f"{note}."]) + "\n"
