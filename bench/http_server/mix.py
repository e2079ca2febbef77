"""The mix of a soak: every route that reads, of all sizes, and requests that are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

from bench.http_server.api import embed_queries, get, post
from bench.http_server.models import read_titles
from bench.http_server.run import Run

# Of each kind, how often it comes.
_SHARES = {
    "query": 50,
    "base64": 10,
    "batch": 4,
    "documents": 2,
    "search": 15,
    "hybrid": 5,
    "rerank": 2,
    "health": 5,
    "metrics": 2,
    "info": 2,
    "models": 1,
    "wrong JSON": 1,
    "wrong field": 1,
}


def mixed(run: Run) -> Callable[[int], bytes]:
    """Return a message of a number: the kind is drawn by the number, the texts are new each time."""
    names = read_titles(run.folders.titles, 400)
    kinds, weights = list(_SHARES), list(_SHARES.values())

    def message(number: int) -> bytes:
        chance = random.Random(number)
        (kind,) = chance.choices(kinds, weights)
        text = run.texts.one(number)
        some = [f"{text} {title}" for title in chance.sample(names, min(8, len(names)))]
        return _MAKERS[kind](run, text, some)

    return message


_MAKERS: dict[str, Callable[[Run, str, list[str]], bytes]] = {
    "query": lambda run, text, some: embed_queries([text]),
    "base64": lambda run, text, some: embed_queries([text], "base64"),
    "batch": lambda run, text, some: embed_queries([f"{one} {at}" for at in range(4) for one in some]),
    "documents": lambda run, text, some: post("/v1/embeddings", {"input": some, "input_type": "document"}),
    "search": lambda run, text, some: post("/v1/search", {"query": text}),
    "hybrid": lambda run, text, some: post("/v1/search", {"query": text, "mode": "hybrid", "k": 20}),
    "rerank": lambda run, text, some: post("/v1/rerank", {"query": text, "documents": some}),
    "health": lambda run, text, some: get("/readyz"),
    "metrics": lambda run, text, some: get("/metrics"),
    "info": lambda run, text, some: get("/info"),
    "models": lambda run, text, some: get("/v1/models"),
    "wrong JSON": lambda run, text, some: post("/v1/embeddings", text)[:-1] + b"!",
    "wrong field": lambda run, text, some: post("/v1/search", {"query": text, "kk": 3}),
}
