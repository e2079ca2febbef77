"""Many requests at a time: throughput beside the library, overload and recovery, and a soak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.http_server.api import embed_queries, get, post
from bench.http_server.load import Lane, Outcome, constant, poisson, run_load
from bench.http_server.mix import mixed
from bench.http_server.processes import Server, cpu_seconds, resident_mb
from bench.http_server.run import CLIENTS, Run, latency, short

# Texts of a request.
_COUNTS = (1, 32)
# What the open loop sends, in shares of what the server bears.
_MODERATE = 0.8
FACTORS = {"encoder": 10.0, "tower": 3.0}
_PROBES = ("/livez", "/readyz")
_PROBES_A_SECOND = 10.0
# Of the soak: share of the capacity, and when growth is counted from.
_SOAKING, _SETTLED = 0.4, 0.1
_SEED = 0


def throughput(run: Run) -> dict[str, Any]:
    """Run blocks of the library and of clients by turns; one text a request, and 32."""
    found = {}
    for name, model in (("tower", run.folders.tower), ("encoder", run.folders.encoder)):
        with run.library(model) as library, run.server("--model", model) as server:
            for count in _COUNTS:
                blocks = _blocks(run, server, library, count)
                found[f"{name}, {count} a request"] = {**blocks, "clients": CLIENTS}
    return found


def _blocks(run: Run, server: Server, library: Any, count: int) -> dict[str, Any]:
    seconds, rates, answers = run.sizes.block_s, {"library": [], "server": []}, list[Outcome]()
    used = 0.0
    for number in range(-1, run.sizes.rounds):
        first = run.take(round(20_000 * seconds / count) + 1, count)
        for who in ("library", "server") if number % 2 else ("server", "library"):
            if who == "library":
                block = library.ask("block", first=first, count=count, seconds=seconds)
                rate = block["texts"] / block["seconds"]
            else:
                before = cpu_seconds(server.pid)
                outcome = closed_loop(run, server, first, count, seconds)
                rate = count * _answered(outcome)
                if number >= 0:
                    answers.append(outcome)
                    used += (cpu_seconds(server.pid) - before) / max(outcome.ended)
            if number >= 0:  # the first round warms up
                rates[who].append(rate)
    ratios = [server / library for server, library in zip(rates["server"], rates["library"], strict=True)]
    return {
        **{f"{who}_texts_a_second": short(median(some)) for who, some in rates.items()},
        "ratio": short(median(ratios)),
        "ratios": [short(ratio) for ratio in ratios],
        "server_cpus": short(used / run.sizes.rounds),
        "statuses": _counts(*answers),
        "requests": latency(np.concatenate([one.seconds(200) for one in answers])),
    }


def closed_loop(run: Run, server: Server, first: int, count: int, seconds: float) -> Outcome:
    """Let 16 clients send one request after the other."""
    (outcome,) = run_load(server.address, [Lane("texts", run.embed(first, count), clients=CLIENTS)], seconds)
    return outcome


def _answered(outcome: Outcome) -> float:
    """Return requests a second that were answered with 200."""
    return outcome.status.count(200) / max(outcome.ended)


def overload(run: Run) -> dict[str, Any]:
    """Send what the server bears, then many times as much, then again what it bears."""
    return {
        name: _overload(run, model, FACTORS[name])
        for name, model in (("encoder", run.folders.encoder), ("tower", run.folders.tower))
    }


def _overload(run: Run, model: Path, factor: float) -> dict[str, Any]:
    sizes = run.sizes
    with run.server("--model", model) as server:
        capacity = _capacity(run, server)
        moderate = _open_loop(run, server, _MODERATE * capacity, sizes.load_s)
        memory = [resident_mb(server.pid)]
        many = _open_loop(
            run, server, factor * capacity, sizes.load_s, lambda _: memory.append(resident_mb(server.pid))
        )
        after = _open_loop(run, server, _MODERATE * capacity, sizes.recovery_s)
        limit = 3 * float(np.percentile(moderate[0].seconds(200), 99)) if 200 in moderate[0].status else 0.0
        found = {
            "capacity_a_second": short(capacity),
            "factor": factor,
            "seconds": sizes.load_s,
            "moderate": _summary(moderate),
            "overload": _summary(many),
            "after": _summary(after),
            "recovery_s": short(_recovery(after[0], limit)),
            "resident_mb": {"before": memory[0], "peak": max(memory), "after": resident_mb(server.pid)},
        }
    p99 = found["overload"]["accepted"].get("p99_ms", 0.0), found["moderate"]["accepted"].get("p99_ms", 0.0)
    return {**found, "p99_ratio": short(p99[0] / p99[1]) if p99[1] else None}


def _capacity(run: Run, server: Server) -> float:
    """Return requests a second of single texts, the median of three blocks after one to warm up."""
    seconds, rates = run.sizes.block_s, []
    for _ in range(4):
        outcome = closed_loop(run, server, run.take(round(20_000 * seconds)), 1, seconds)
        rates.append(_answered(outcome))
    return median(rates[1:])


def _open_loop(
    run: Run, server: Server, rate: float, seconds: float, observe: Callable[[float], object] | None = None
) -> list[Outcome]:
    """Send single texts at random times, and look at the health meanwhile: outcomes of these lanes."""
    arrivals = poisson(rate, seconds, _SEED)
    lanes = [Lane("texts", run.embed(run.take(len(arrivals))), arrivals=arrivals)]
    lanes += [
        Lane(path, lambda _, path=path: get(path), arrivals=constant(_PROBES_A_SECOND, seconds))
        for path in _PROBES
    ]
    return run_load(server.address, lanes, seconds, observe=observe)


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    texts, *probes = outcomes
    return {
        "sent": len(texts.status),
        "statuses": _counts(texts),
        "accepted": latency(texts.seconds(200)),
        "refused": latency(texts.seconds(429)),
        "sent_late": latency(texts.late_s()),
        "health": {
            path: {"statuses": _counts(probe), **latency(probe.seconds())}
            for path, probe in zip(_PROBES, probes, strict=True)
        },
    }


def _recovery(outcome: Outcome, limit: float) -> float:
    """Return when the last request was sent that was refused, or took longer than a limit; 0.0 for none."""
    slow = outcome.seconds() > limit
    bad = slow | (np.array(outcome.status) != 200)
    return float(np.array(outcome.due)[bad].max()) if bad.any() else 0.0


def soak(run: Run) -> dict[str, Any]:
    """Send a mix of everything for an hour, and look at memory, files and threads."""
    folders, sizes = run.folders, run.sizes
    arguments = ["--model", folders.encoder, "--index", folders.index, "--scorer", folders.scorer]
    with run.server(*arguments) as server:
        _fill_caches(run, server)
        first, message = run.take(round(2000 * sizes.soak_s) + 1), mixed(run)
        (outcome,) = run_load(
            server.address,
            [Lane("mix", lambda number: message(first + number), clients=4)],
            min(sizes.block_s, sizes.soak_s),
        )
        rate, first_statuses = _SOAKING * _answered(outcome), _counts(outcome)
        views: list[dict[str, Any]] = []
        first += len(outcome.ended)
        (outcome,) = run_load(
            server.address,
            [
                Lane(
                    "mix",
                    lambda number: message(first + number),
                    arrivals=poisson(rate, sizes.soak_s, _SEED),
                )
            ],
            sizes.soak_s,
            every_s=max(sizes.soak_s / 360, 0.1),
            observe=lambda now: views.append({"at_s": short(now), **server.view()}),
        )
        views.append({"at_s": sizes.soak_s, **server.view()})
    return {
        "seconds": sizes.soak_s,
        "requests_a_second": short(rate),
        "first_statuses": first_statuses,
        "statuses": _counts(outcome),
        **latency(outcome.seconds(200)),
        "growth": growth(views),
        "series": {key: [view[key] for view in views[:: max(1, len(views) // 60)]] for key in views[0]},
    }


def _fill_caches(run: Run, server: Server) -> None:
    """Send new texts to encoder and scorer, as long as their caches (10,000 texts each) grow."""
    first = run.take(1_000_000)

    def rerank(number: int) -> bytes:
        texts = run.texts.some(first // 20 + 20_000 + number, 20)
        return post("/v1/rerank", {"query": texts[0], "documents": texts})

    lanes = [
        Lane("encoder", lambda number: embed_queries(run.texts.some(first // 32 + number, 32)), clients=2),
        Lane("scorer", rerank, clients=2),
    ]
    run_load(server.address, lanes, run.sizes.fill_s)


def growth(views: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the last tenth of the views with the second one: medians, and the change in percent."""
    tenth = max(1, round(len(views) * _SETTLED))
    found = {}
    for key in ("resident_mb", "anonymous_mb", "threads", "files"):
        start = median(view[key] for view in views[tenth : 2 * tenth] or views[-1:])
        end = median(view[key] for view in views[-tenth:])
        found[key] = {
            "start": short(start),
            "end": short(end),
            "percent": short(100 * (end / start - 1) if start else 0.0),
        }
    return found


def _counts(*outcomes: Outcome) -> dict[str, int]:
    count = sum((Counter(outcome.status) for outcome in outcomes), Counter[int]())
    return {str(status): count[status] for status in sorted(count)}
