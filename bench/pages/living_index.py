"""Tables of `bench/results/index.json`: targets, filters, and a living index beside its peers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Results = dict[str, Any]
# What, the target, what was measured, whether it is met.
Row = tuple[str, str, str, bool]

_USUAL = "equality 1 %"
# Of filters that leave so much: milliseconds of the first use, recall.
_FILTER_TARGETS = {"1 %": (5.0, 1.0), "10 %": (25.0, 0.98)}
_PEER_COLUMNS = (
    "100,000 x 128, one CPU",
    "holds",
    "build, s",
    "search, ms",
    "recall@10",
    "add 1,000, ms",
    "delete 1,000, ms",
    "upsert 1,000, ms",
    "search with 10 % dead, ms",
    "recall@10",
    "filter 1 %: fresh / first / again, ms",
    "disk MB",
    "memory MB",
    "a change outlives kill -9",
)


def living_index_parts(index: Results) -> dict[str, str]:
    """Return the generated parts by name."""
    results = {name: stage["result"] for name, stage in index["stages"].items()}
    million = _conditions(index, million=True)
    peers = {name: version for name, version in index["contenders"]["present"].items() if name != "relsdk"}
    versions = ", ".join(f"{name} {version}" for name, version in peers.items())
    return {
        "index-targets": f"{_targets_table(results)}\n{million}\n",
        "index-filters": _filters_table(results),
        "index-peers": f"{_peers_table(results)}\n{_conditions(index, million=False)} {versions}.\n",
    }


def filter_uses(index: Results) -> tuple[float, float, float]:
    """Return milliseconds of a search of the million with a filter: fresh, at its first use, and again."""
    found = index["stages"]["million-filters"]["result"]["compacted"][_USUAL]
    return found["fresh"]["p50_ms"], found["first"]["p50_ms"], found["again"]["p50_ms"]


def _targets_table(results: Results) -> str:
    rows = [*_changes(results), *_searches(results), *_filters(results), *_hybrid(results)]
    lines = ["| 1,000,000 documents x 128 | target | measured | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(cells)} | {'met' if met else '**missed**'} |" for *cells, met in rows]
    return "\n".join(lines) + "\n"


def _changes(results: Results) -> Iterator[Row]:
    add, delete, compact = (results[f"million-{name}"] for name in ("add", "delete", "compact"))
    for what, target, found in (
        ("add 1,000 documents, vectors given", 500, add),
        ("delete 1,000 ids", 50, delete),
    ):
        each = [1e3 * seconds for seconds in found["each_wall_s"]]
        median = 1e3 * found["wall_s"]
        shown = f"{median:.0f} ms ({min(each):.0f} to {max(each):.0f}), CPU {1e3 * found['cpu_s']:.0f} ms"
        yield what, f"at most {target} ms", shown, median <= target
    rest = compact["rest_to_graph"]
    shown = f"{rest:.1%} ({compact['wall_s']:.0f} s, of these the graph {compact['graph_wall_s']:.0f} s)"
    yield "compact: what is not the building of the graph", "at most 10 % of it", shown, rest <= 0.1


def _searches(results: Results) -> Iterator[Row]:
    found = results["million-search"]
    dead, clean, ratio = found["dead"], found["compacted"], found["ratio"]
    less = clean["recall_at_10"] - dead["recall_at_10"]
    shown = f"{ratio:.2f} x ({dead['p50_ms']:.2f} and {clean['p50_ms']:.2f} ms)"
    what = "search of 3 graphs and a tail with 10 % dead, over one clean graph"
    yield what, "at most 1.5 x", shown, ratio <= 1.5
    shown = f"{less:.4f} ({dead['recall_at_10']:.4f} and {clean['recall_at_10']:.4f})"
    yield "its recall@10 is lower by", "at most 0.005", shown, less <= 0.005


def _filters(results: Results) -> Iterator[Row]:
    for share, (limit, least) in _FILTER_TARGETS.items():
        found = results["million-filters"]["compacted"]
        some = [one for name, one in found.items() if name.endswith(f" {share}")]
        for key, process in (("first", "in a warm process"), ("fresh", "in a fresh process")):
            times = [one[key]["p50_ms"] for one in some]
            cpu = max(one[key]["cpu_p50_ms"] for one in some)
            what = f"search with a filter that leaves {share}, its first use {process}"
            shown = f"{min(times):.1f} to {max(times):.1f} ms, CPU up to {cpu:.1f} ms"
            yield what, f"at most {limit:.0f} ms", shown, max(times) <= limit
        recall = min(one["again"]["recall_at_10"] for one in some)
        yield (
            f"recall@10 with a filter that leaves {share}",
            f"at least {least}",
            f"{recall:.3f}",
            recall >= least,
        )


def _hybrid(results: Results) -> Iterator[Row]:
    for titles, limit, found in (
        ("100,000 titles", 1, results["hybrid"]),
        ("1,000,000 titles", 4, results["million-hybrid"]["compacted"]),
        ("1,000,000 titles, 3 graphs and a tail with 10 % dead", 4, results["million-hybrid"]["dead"]),
    ):
        more, cpu = found["hybrid_over_dense_ms"], found["hybrid_over_dense_cpu_ms"]
        shown = f"{more:.2f} ms, CPU {cpu:.2f} ms"
        yield f"hybrid beyond dense, {titles}", f"at most {limit} ms", shown, more <= limit


def _filters_table(results: Results) -> str:
    """Fresh, first and later uses of each filter: a million documents, and the peers that filter."""
    columns = {"relsdk, 1,000,000": results["million-filters"]["compacted"]}
    columns |= {f"{name}, 100,000": found for name, found in results["filters"].items()}
    lines = [
        f"| fresh / first / again, ms; recall@10 | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in results["million-filters"]["compacted"]:
        cells = []
        for found in columns.values():
            one = found.get(name)
            cells.append("not there" if one is None else f"{_uses(one)}; {one['again']['recall_at_10']:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _peers_table(results: Results) -> str:
    lines = [f"| {' | '.join(_PEER_COLUMNS)} |", "|---" * len(_PEER_COLUMNS) + "|"]
    for name, build in results["build"].items():
        change, found = results["changes"][name], results["search"][name]
        filtered = results["filters"].get(name)
        add = _milliseconds(change["add"])
        if "add_on_disk" in change:
            add = f"{_milliseconds(change['add_on_disk'])} (in memory {add})"
        cells = [
            name,
            build["holds"],
            f"{build['wall_s']:.0f}" + (" (in memory)" if build["built_in_memory"] else ""),
            f"{found['p50_ms']:.2f}",
            f"{found['recall_at_10']:.3f}",
            add,
            _milliseconds(change["delete"]),
            _milliseconds(change["upsert"]),
            f"{change['search']['p50_ms']:.2f}",
            f"{change['search']['recall_at_10']:.3f}",
            "no filters" if filtered is None else _uses(filtered[_USUAL]),
            f"{build['disk_mb']:.0f}",
            f"{found['resident_mb']:.0f}",
            "yes" if change["kept_after_kill"] else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _uses(found: Results) -> str:
    return " / ".join(f"{found[key]['p50_ms']:.1f}" for key in ("fresh", "first", "again"))


def _milliseconds(found: Results) -> str:
    value = 1e3 * found["wall_s"]
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _conditions(index: Results, *, million: bool) -> str:
    """Say where and when, and whether the machine had other work."""
    stages = {name: one for name, one in index["stages"].items() if name.startswith("million-") == million}
    days = sorted({stage["date"] for stage in stages.values()})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    loaded = {name: one["load_average"]["before"] for name, one in stages.items() if one["loaded"]}
    names = ", ".join(f"`{name}` (load average {load:.0f})" for name, load in loaded.items())
    others = (
        f"other work had a share of the CPUs, and makes times by the clock too long, in {names}"
        if loaded
        else "nothing else ran"
    )
    return f"{index['machine']['cpu']}, {when}, `make bench-index`; {others}."
