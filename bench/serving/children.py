"""Measurements in a process of their own: `python -m bench.serving.children ROLE REQUEST.json`.

ROLE "start" encodes one text and says so at once; "soak" encodes many of mixed shape and reports memory.
Only the encoder that is asked for is imported.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.serving.peers import AbsentError, Encoder, open_encoder
from bench.serving.weights import Models

READY = "ready"
_BLOCK = 20  # points of the curve of memory are a multiple of it


def main() -> None:
    """Do what the arguments say."""
    role, request = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        encoder = open_encoder(request["name"], Models.from_dict(request["models"]), request["threads"])
    except AbsentError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    if role == "start":
        vector = encoder.encode(["红烧肉怎么做"])[0]
        print(READY, flush=True)
        print(json.dumps({"vector": vector.tolist(), "resident_mb": resident_mb()}), flush=True)
    else:
        print(json.dumps(soak(encoder, request["texts"], request["calls"])), flush=True)


def soak(encoder: Encoder, texts: list[str], calls: int) -> dict[str, Any]:
    """Make many calls, of 1 to 4 texts each, and note the resident memory as it goes.

    Returns:
        `seconds` of each call, and the memory curve: `calls` and `mb`.
    """
    seconds, curve = [], {"calls": [0], "mb": [resident_mb()]}
    step = max(1, calls // _BLOCK // 5)
    for number, inputs in enumerate(mixed_shapes(texts, calls), start=1):
        started = time.perf_counter()
        encoder.encode(inputs)
        seconds.append(time.perf_counter() - started)
        if number % step == 0:
            curve["calls"].append(number)
            curve["mb"].append(resident_mb())
    return {"seconds": seconds, **curve}


def mixed_shapes(texts: list[str], calls: int) -> Iterator[list[str]]:
    """Yield the inputs of each call: seeded, the same for every encoder; mostly one text."""
    chooser = random.Random(0)
    for _ in range(calls):
        count = chooser.choice((1, 1, 1, 1, 1, 2, 3, 4))
        yield [chooser.choice(texts) for _ in range(count)]


def resident_mb() -> float:
    """Return this process's resident memory in MB (10^6 bytes)."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return round(pages * resource.getpagesize() / 1e6, 2)
    except (ImportError, OSError):
        import psutil

        return round(psutil.Process().memory_info().rss / 1e6, 2)


if __name__ == "__main__":
    main()
