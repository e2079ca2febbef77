"""Tables of `bench/results/serve.json`: the server's targets, its routes, and other servers beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Results = dict[str, Any]
# What, the target, what was measured, whether it is met.
Row = tuple[str, str, str, bool]

_NAMES = {"tower": "two-layer query tower", "encoder": "twelve-layer encoder"}
_ADDED_P50_MS, _ADDED_P99_MS = 0.4, 1.5
# Share of the library's texts a second.
_SHARES = {
    "encoder, 1 a request": 0.9,
    "encoder, 32 a request": 0.9,
    "tower, 32 a request": 0.9,
    "tower, 1 a request": 0.7,
}
_MORE_MB, _P99_RATIO, _HEALTH_MS, _MEMORY_GROWTH, _RECOVERY_S, _SOAK_GROWTH = 60, 3.0, 50, 10.0, 2.0, 5.0


def serve_parts(serve: Results) -> dict[str, str]:
    """Return the generated parts by name."""
    results = {name: stage["result"] for name, stage in serve["stages"].items()}
    return {
        "serve-targets": f"{_targets_table(results)}\n{_conditions(serve, peers=False)}\n",
        "serve-routes": _routes_table(results["routes"]),
        "serve-peers": f"{_peers_table(results['peers'])}\n{_conditions(serve, peers=True)}\n",
    }


def _targets_table(results: Results) -> str:
    rows = [
        *_added(results["added"]),
        *_throughput(results["throughput"]),
        *_memory(results["memory"]),
        *(row for name, found in results["overload"].items() for row in _overload(name, found)),
        *_soak(results["soak"]),
    ]
    lines = ["| one CPU for the server, another for the client | target | measured | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(cells)} | {'met' if met else '**missed**'} |" for *cells, met in rows]
    return "\n".join(lines) + "\n"


def _added(found: Results) -> Iterator[Row]:
    for name, label in _NAMES.items():
        turns = found[name]["by turns"]
        over, noise = turns["HTTP"], turns["library, again"]
        for point, limit in (("p50", _ADDED_P50_MS), ("p99", _ADDED_P99_MS)):
            more, again = over[f"added_{point}_ms"], noise[f"added_{point}_ms"]
            evicted = found[name]["caches evicted"]["HTTP"][f"added_{point}_ms"]
            shown = (
                f"{more:.2f} ms over {turns['library'][f'{point}_ms']:.2f} (a second library process: "
                f"{again:+.2f}; caches evicted before each call: {evicted:.2f})"
            )
            yield (
                f"HTTP adds to `encode_query`, {label}, {point}",
                f"at most {limit} ms",
                shown,
                more <= limit,
            )


def _throughput(found: Results) -> Iterator[Row]:
    for case, share in _SHARES.items():
        one = found[case]
        name, count = case.split(", ")
        shown = (
            f"{one['ratio']:.0%} ({one['server_texts_a_second']:,.0f} and "
            f"{one['library_texts_a_second']:,.0f} texts/s)"
        )
        what = f"16 clients, {count}, {_NAMES[name]}: share of the library's texts/s"
        yield what, f"at least {share:.0%}", shown, one["ratio"] >= share


def _memory(found: Results) -> Iterator[Row]:
    for name, label in _NAMES.items():
        more = found[name]["server_over_library"]["resident_mb"]
        shown = f"{more:.0f} MB ({found[name]['server']['resident_mb']:.0f} in all)"
        yield (
            f"resident beyond the library's process, {label}",
            f"at most {_MORE_MB} MB",
            shown,
            more <= _MORE_MB,
        )


def _overload(name: str, found: Results) -> Iterator[Row]:
    over, what = (
        found["overload"],
        f"{found['factor']:.0f} x what it bears, {found['seconds']:.0f} s, {_NAMES[name]}",
    )
    statuses = ", ".join(f"{count:,} x {status}" for status, count in over["statuses"].items())
    yield f"{what}: answers", "200 and 429", statuses, set(over["statuses"]) <= {"200", "429"}
    ratio = found["p99_ratio"] or float("inf")
    shown = (
        f"{ratio:.1f} x ({over['accepted'].get('p99_ms', 0):.0f} and "
        f"{found['moderate']['accepted'].get('p99_ms', 0):.0f} ms)"
    )
    yield (
        f"{what}: p99 of the accepted, over that at 0.8 x",
        f"at most {_P99_RATIO:.0f} x",
        shown,
        ratio <= _P99_RATIO,
    )
    health = over["health"].values()
    slowest = max(one["max_ms"] for one in health)
    fine = all(set(one["statuses"]) == {"200"} for one in health)
    shown = f"{slowest:.0f} ms (p99 {max(one['p99_ms'] for one in health):.0f})" + (
        "" if fine else ", not all 200"
    )
    yield (
        f"{what}: slowest /livez and /readyz",
        f"at most {_HEALTH_MS} ms",
        shown,
        fine and slowest <= _HEALTH_MS,
    )
    memory = found["resident_mb"]
    grown = 100 * (memory["peak"] / memory["before"] - 1)
    yield (
        f"{what}: resident memory grows",
        f"at most {_MEMORY_GROWTH:.0f} %",
        f"{grown:.1f} %",
        grown <= _MEMORY_GROWTH,
    )
    seconds = found["recovery_s"]
    yield (
        f"{what}: as before after",
        f"at most {_RECOVERY_S:.0f} s",
        f"{seconds:.1f} s",
        seconds <= _RECOVERY_S,
    )


def _soak(found: Results) -> Iterator[Row]:
    grown = found["growth"]
    count = sum(found["statuses"].values())
    worst = max(grown[key]["percent"] for key in ("resident_mb", "anonymous_mb"))
    what = f"{found['seconds'] / 60:.0f} minutes of every route, {count:,} requests"
    yield f"{what}: memory grows", f"at most {_SOAK_GROWTH:.0f} %", f"{worst:.1f} %", worst <= _SOAK_GROWTH
    shown = ", ".join(
        f"{grown[key]['start']:.0f} to {grown[key]['end']:.0f} {key}" for key in ("threads", "files")
    )
    same = all(grown[key]["end"] <= grown[key]["start"] for key in ("threads", "files"))
    yield f"{what}: threads and files", "no more", shown, same


def _routes_table(found: Results) -> str:
    lines = [
        "| by turns | library, p50 ms | HTTP, p50 ms | adds, p50 / p99 ms | with caches evicted, ms |",
        "|---|---|---|---|---|",
    ]
    for name, cases in found.items():
        turns, evicted = (cases[case] for case in ("by turns", "caches evicted"))
        adds = [
            f"{one['HTTP']['added_p50_ms']:.2f} / {one['HTTP']['added_p99_ms']:.2f}"
            for one in (turns, evicted)
        ]
        times = [f"{turns[who]['p50_ms']:.2f}" for who in ("library", "HTTP")]
        lines.append(f"| {name} | {' | '.join([*times, *adds])} |")
    return "\n".join(lines) + "\n"


def _peers_table(found: Results) -> str:
    lines = [
        "| the same weights | one query, p50 / p99 ms | 16 clients: texts/s | p50 / p99 ms | cosine |",
        "|---|---|---|---|---|",
    ]
    for name, one in found["contenders"].items():
        times = [
            f"{one[key]['p50_ms']:.1f} / {one[key]['p99_ms']:.1f}" for key in ("single", "at_16_clients")
        ]
        cells = [name, times[0], f"{one['texts_a_second']:,.0f}", times[1], f"{one['cosine_to_encoder']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _conditions(serve: Results, *, peers: bool) -> str:
    """Say where and when, whether the machine had other work, and which peers there are."""
    stages = {name: one for name, one in serve["stages"].items() if (name == "peers") == peers}
    days = sorted({stage["date"] for stage in stages.values()})
    loaded = [f"`{name}`" for name, one in stages.items() if one["loaded"]]
    others = f"other work had a share of the CPUs in {', '.join(loaded)}" if loaded else "nothing else ran"
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    text = f"{serve['machine']['cpu']}, {when}, `make bench-serve`; {others}."
    if not peers:
        return text
    found = serve["stages"]["peers"]["result"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    absent = ", ".join(f"{name} ({reason})" for name, reason in found["absent"].items())
    return f"{text} {versions}." + (f" Not here: {absent}." if absent else "")
