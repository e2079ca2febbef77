"""The table of `bench/results/hybrid.json`: meaning, words, and ways to put both together."""

from __future__ import annotations

from typing import Any

_WAYS = ("dense", "lexical", "hybrid", "reciprocal rank fusion", "standardised sum")


def hybrid_table(hybrid: dict[str, Any]) -> str:
    """Return recall and order on KUAKE-QTR, and first hits of the names, for each encoder and way."""
    lines = [
        "| encoder, int8 | search | recall@10 | recall@100 | mean AP | ECE | names: exact / paraphrase |",
        "|---|---|---|---|---|---|---|",
    ]
    for encoder in ("untrained", "trained"):
        for way in _WAYS:
            pool, names = hybrid[encoder]["kuake_test"][way], hybrid[encoder]["names"][way]
            recalls = f"{100 * pool['recall_at_10']:.2f} | {100 * pool['recall_at_100']:.2f}"
            ece = f"{pool['ece']:.3f}" if "ece" in pool else ""
            first = " / ".join(f"{100 * names[f'hit_at_1_{kind}']:.0f}" for kind in ("exact", "paraphrase"))
            name = f"**{way}**" if way == "hybrid" else way
            cells = [encoder, name, recalls, f"{100 * pool['mean_ap']:.2f}", ece, first]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
