"""One request at a time: what HTTP adds to a call of the library; and what a server holds in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from bench.http_server.api import embed_queries, post
from bench.http_server.library import Library
from bench.http_server.load import Caller
from bench.http_server.models import read_titles
from bench.http_server.run import Run, latency, short

# A number of a request -> seconds.
Call = Callable[[int], float]
LIBRARY, AGAIN = "library", "library, again"
_K = 10
# A rerank takes so many times as long as a query, and has so many times fewer calls.
_SLOWER = 10


def added(run: Run) -> dict[str, Any]:
    """Time `encode_query` and the same text over HTTP by turns, the two-layer tower and the encoder."""
    found = {}
    for name, model in (("tower", run.folders.tower), ("encoder", run.folders.encoder)):
        with ExitStack() as stack:
            library, again = (stack.enter_context(run.library(model)) for _ in range(2))
            server = stack.enter_context(run.server("--model", model))
            caller = stack.enter_context(Caller(server.address))
            contenders = {
                LIBRARY: _encode(library),
                AGAIN: _encode(again),
                "HTTP": _post(caller, lambda number: embed_queries([run.texts.one(number)])),
            }
            found[name] = _cases(run, contenders, again)
    return found


def routes(run: Run) -> dict[str, Any]:
    """Time `Searcher.search` beside /v1/search, and `RelevanceScorer.rank` beside /v1/rerank, by turns."""
    folders, names = run.folders, read_titles(run.folders.titles, run.sizes.documents)
    more = {"index": folders.index, "scorer": folders.scorer}
    with ExitStack() as stack:
        library, again = (stack.enter_context(run.library(folders.encoder, **more)) for _ in range(2))
        server = stack.enter_context(
            run.server("--model", folders.encoder, "--index", folders.index, "--scorer", folders.scorer)
        )
        caller = stack.enter_context(Caller(server.address))
        found: dict[str, Any] = {}
        for mode in ("dense", "lexical", "hybrid"):
            contenders: dict[str, Call] = {
                LIBRARY: _search(library, mode),
                AGAIN: _search(again, mode),
                "HTTP": _post(caller, _search_message(run, mode)),
            }
            found[f"search, {mode}"] = _cases(run, contenders, again)
        contenders = {
            LIBRARY: _rerank(library, names),
            AGAIN: _rerank(again, names),
            "HTTP": _post(
                caller,
                lambda number: post(
                    "/v1/rerank",
                    {"model": folders.scorer.name, "query": run.texts.one(number), "documents": names},
                ),
            ),
        }
        calls = max(run.sizes.calls // _SLOWER, 2)
        found[f"rerank of {len(names)}"] = _cases(run, contenders, again, calls)
    return found


def memory(run: Run) -> dict[str, Any]:
    """Read what a process holds after the same work, library and server one after the other."""
    found = {}
    for name, model in (("tower", run.folders.tower), ("encoder", run.folders.encoder)):
        views: dict[str, list[dict[str, Any]]] = {LIBRARY: [], "server": []}
        for _ in range(run.sizes.repeats):
            first = run.take(run.sizes.work)
            with run.library(model) as library:
                library.ask("work", first=first, requests=run.sizes.work, count=1)
                views[LIBRARY].append(library.ask("kernel_view"))
            with run.server("--model", model) as server, Caller(server.address) as caller:
                for number in range(first, first + run.sizes.work):
                    _checked(caller.call(embed_queries([run.texts.one(number)])))
                views["server"].append(server.view())
        medians = {who: _medians(some) for who, some in views.items()}
        more = {
            key: short(medians["server"][key] - medians[LIBRARY][key])
            for key in ("resident_mb", "proportional_mb", "anonymous_mb")
        }
        found[name] = {**medians, "server_over_library": more}
    return found


def _cases(
    run: Run, contenders: Mapping[str, Call], evicting: Library, calls: int | None = None
) -> dict[str, Any]:
    """Time contenders on the same texts: by turns, and with the caches filled before each call."""
    calls = calls or run.sizes.calls
    for call in contenders.values():
        call(run.take(1))
    return {
        "by turns": _added(by_turns(contenders, run.take(calls), calls)),
        "caches evicted": _added(by_turns(contenders, run.take(calls), calls, lambda: evicting.ask("evict"))),
    }


def by_turns(
    contenders: Mapping[str, Call],
    first: int,
    calls: int,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return seconds of each contender's calls, all on the same texts; the order is drawn each time."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order, chance = list(contenders), random.Random(0)
    for number in range(first, first + calls):
        chance.shuffle(order)
        for name in order:
            before()
            seconds[name].append(contenders[name](number))
    return seconds


def _added(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return percentiles, and what each adds to the library's: its pairs' median, and its p99 less theirs."""
    base = np.array(seconds[LIBRARY])
    found: dict[str, Any] = {name: latency(taken) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        if name == LIBRARY:
            continue
        pairs = (np.array(taken) - base) * 1e3
        found[name]["added_p50_ms"] = short(np.median(pairs))
        found[name]["added_p99_ms"] = short(found[name]["p99_ms"] - found[LIBRARY]["p99_ms"])
    return found


def _encode(library: Library) -> Call:
    return lambda number: float(library.ask("encode", number=number, count=1)["seconds"])


def _search(library: Library, mode: str) -> Call:
    return lambda number: float(library.ask("search", number=number, k=_K, mode=mode)["seconds"])


def _rerank(library: Library, documents: list[str]) -> Call:
    return lambda number: float(library.ask("rerank", number=number, documents=documents)["seconds"])


def _search_message(run: Run, mode: str) -> Callable[[int], bytes]:
    return lambda number: post(
        "/v1/search", {"query": run.texts.one(number), "k": _K, "mode": mode, "scorer": False}
    )


def _post(caller: Caller, message: Callable[[int], bytes]) -> Call:
    return lambda number: _checked(caller.call(message(number)))[0]


def _checked(answer: tuple[float, int, bytes]) -> tuple[float, int, bytes]:
    if answer[1] != 200:
        raise RuntimeError(f"status {answer[1]}: {answer[2][:300]!r}")
    return answer


def _medians(views: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: short(np.median([view[key] for view in views])) for key in views[0]}
