"""Numbers of other committed results, measured at larger sizes, beside what the rates give for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness.machine import ROOT
from bench.scale.growth import (
    graph_seconds,
    open_bytes_per_document,
    peak_bytes_per_document,
    per_document,
    search_growth,
)
from bench.scale.records import Rates

__all__ = ["compare"]

_RESULTS = ROOT / "bench/results"


def compare(rates: Rates, results: Path = _RESULTS) -> list[dict[str, Any]]:
    """Return what was measured elsewhere at a larger size beside what these rates give for it.

    Each is {what, file, measured, predicted, unit}: other machines and dimensions, so they only say whether
    the curves have the right shape. A file that is not there is left out.
    """
    found = []
    for name, function in (("index", _index), ("million", _million)):
        path = results / f"{name}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            found += [{**one, "file": f"bench/results/{name}.json"} for one in function(rates, content)]
    return found


def _index(rates: Rates, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Growth of a graph's cost a document, and memory, at 128 dimensions."""
    stages = {name: stage["result"] for name, stage in content["stages"].items()}
    compact, build, search = stages["million-compact"], stages["build"]["relsdk"], stages["million-search"]
    documents = sum(segment["documents"] for segment in compact["segments"])
    few = content["sizes"]["small"]["documents"]
    measured = compact["cpu_s"] / documents / (build["cpu_s"] / few)
    rest = rates.rest_s_per_document
    predicted = (graph_seconds(rates, documents) / documents + rest) / (
        graph_seconds(rates, few) / few + rest
    )
    dimension = content["sizes"]["large"]["dimension"]
    # A graph holds the vectors, too: what is beside them does not depend on their dimension.
    other = 4.0 * dimension - 4.0 * rates.dimension
    graph = per_document(rates)["graph"] + other
    return [
        {
            "what": f"a build of {documents:,} costs so many times one of {few:,}, a document",
            "measured": measured,
            "predicted": predicted,
            "unit": "x",
        },
        {
            "what": f"memory of a process that searches {documents:,} x {dimension}, without mapped files",
            "measured": search["compacted"]["anonymous_mb"],
            "predicted": documents * (open_bytes_per_document(rates) + other) / 1e6,
            "unit": "MB",
        },
        {
            "what": "most such memory while it is built, to the size of the graph",
            "measured": compact["peak_anonymous_mb"] * 1e6 / (documents * graph),
            "predicted": peak_bytes_per_document(rates) / per_document(rates)["graph"],
            "unit": "x",
        },
    ]


def _million(rates: Rates, content: dict[str, Any]) -> list[dict[str, Any]]:
    """A search of a million vectors of as many dimensions, at the default effort."""
    wanted = (f"1,000,000 x {rates.dimension}, ef 256", "relsdk Index, documents from the file")
    return [
        {
            "what": f"search of 1,000,000 x {rates.dimension}, ef_search 256, p50",
            "measured": row["p50_ms"],
            "predicted": search_growth(rates).at(1_000_000),
            "unit": "ms",
        }
        for row in content["rows"]
        if (row["case"], row["contender"]) == wanted
    ]
