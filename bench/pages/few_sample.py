"""The table of `bench/results/few_sample.json`: what a simulated annotator's opinions are worth."""

from __future__ import annotations

from statistics import mean
from typing import Any


def few_table(found: dict[str, Any]) -> str:
    """Return test measures of each row, means over the seeds there are, and mean AP seed by seed."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for key, row in found["rows"].items():
        rows.setdefault(key.partition(" / ")[0], []).append(row)
    counts = found["pairs"]
    lines = [
        f"| {counts['labels']} labels, {counts['opinions']:,} opinions, {counts['written']:,} written "
        "queries | mean AP | seed by seed | nDCG@10 | level right |",
        "|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        aps = [100 * run["test"]["mean_ap"] for run in runs]
        ndcg, accuracy = (
            100 * mean(values)
            for values in ([run["test"]["ndcg_at_10"] for run in runs], [run["accuracy"] for run in runs])
        )
        each = ", ".join(f"{ap:.1f}" for ap in aps)
        lines.append(f"| {name} | {mean(aps):.1f} | {each} | {ndcg:.1f} | {accuracy:.0f} % |")
    return "\n".join(lines) + "\n"
