"""The table of `bench/results/index_int8.json`: 8-bit vectors beside the whole ones."""

from __future__ import annotations

from typing import Any


def int8_table(found: dict[str, Any]) -> str:
    """Return milliseconds and recall of each share of allowed documents, for each dimension."""
    lines = [
        "| exact search | fp32 / 8 bits, MB | allowed | fp32, CPU ms | 8 bits, CPU ms | recall@10 |",
        "|---|---|---|---|---|---|",
    ]
    for one in found["indexes"]:
        read = " / ".join(f"{one['bytes_searched'][way] / 1e6:.0f}" for way in ("fp32", "int8"))
        name = f"{one['documents']:,} x {one['dimension']}"
        for row in one["searches"]:
            times = " | ".join(f"{row['cpu_ms'][way]:.2f}" for way in ("fp32", "int8"))
            recall = f"{row['recall_at_10']['int8']:.3f}"
            lines.append(f"| {name} | {read} | {row['allowed']:.0%} | {times} | {recall} |")
    return "\n".join(lines) + "\n"
