"""Tables of `bench/results/scale.json`: what was measured, and how far it goes by the simulation."""

from __future__ import annotations

from typing import Any

from bench.scale.growth import graph_seconds
from bench.scale.records import Rates, assumption_texts

Results = dict[str, Any]

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def scale_parts(scale: Results | None) -> dict[str, str]:
    """Return the generated parts by name; none where nothing was simulated yet."""
    stages = {} if scale is None else scale["stages"]
    if scale is None or not {"rates", "simulation"} <= stages.keys():
        return {}
    rates, result = Rates.from_dict(stages["rates"]["result"]), stages["simulation"]["result"]
    return {
        "scale-rates": f"{_rates_table(rates)}\n{_conditions(scale)}\n",
        "scale-steps": _steps_tables(result["collections"]),
        "scale-storage": _storage_table(result["collections"]),
        "scale-queries": _queries_table(result["collections"]),
        "scale-limits": _limits_table(result),
        "scale-others": _others_table(result["beside_other_results"]),
        "scale-assumptions": _assumptions_table(result["assumptions"], result["premises"]),
    }


def _rates_table(rates: Rates) -> str:
    small, large = rates.builds
    graphs = " / ".join(
        f"{graph_seconds(rates, one.documents) / one.documents * 1e3:.2f}" for one in rates.builds
    )
    searches = " / ".join(f"{one.search_ms:.2f}" for one in rates.builds)
    sizes = f"{small.documents:,} / {large.documents:,} documents"
    rows = {
        f"encode documents of {rates.tokens_per_text:.0f} tokens, int8": (
            f"{rates.tokens_per_s / rates.tokens_per_text:,.0f} texts/s, {rates.tokens_per_s:,.0f} tokens/s"
        ),
        f"encode one query, {rates.query_model}": f"{rates.query_ms:.2f} ms",
        "check and count the input": f"{rates.plan_rows_per_s:,.0f} rows/s",
        "pass over rows that are another worker's": f"{rates.skip_rows_per_s:,.0f} rows/s",
        "write parts / verify them": (
            f"{rates.write_bytes_per_s / 1e6:,.0f} / {rates.verify_bytes_per_s / 1e6:,.0f} MB/s"
        ),
        f"graph, {sizes}": f"{graphs} ms a document",
        "documents, words and fields of an index": f"{rates.rest_s_per_document * 1e3:.2f} ms a document",
        f"search by the graph, {sizes}": f"{searches} ms",
        "exact search": f"{rates.exact_bytes_per_s / 1e9:.1f} GB of vectors/s",
        "load a store: what the loader checks": f"{rates.loader_documents_per_s:,.0f} documents/s",
    }
    lines = [f"| one core, {rates.dimension} dimensions | measured |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows.items())]) + "\n"


def _conditions(scale: Results) -> str:
    stage = scale["stages"]["rates"]
    others = "other work had a share of the CPUs" if stage["loaded"] else "nothing else ran"
    toy = "**Toy sizes: these numbers mean nothing.** " if stage["toy"] else ""
    return f"{toy}{stage['cpu']}, {stage['date']}, `make bench-scale`; {others}."


def _steps_tables(collections: list[Results]) -> str:
    """Return a table for each number of documents: a row a step, a column a number of cores."""
    return "\n".join(_steps_table(one) for one in collections)


def _steps_table(collection: Results) -> str:
    names = list(dict.fromkeys(step["name"] for step in collection["steps"]))
    found: dict[str, list[Results]] = {name: [] for name in names}
    for step in collection["steps"]:
        found[step["name"]].append(step)
    widths = _widths(collection)
    columns = [f"{width:,} core{'s' * (width > 1)}" for width in widths]
    lines = [
        f"| {collection['documents']:,} documents | {' | '.join(columns)} | written | $, {columns[-1]} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for name, steps in found.items():
        cells = [_hours(step["hours"]) for step in steps]
        written, cost = steps[-1]["bytes_written"], steps[-1]["cost"]
        lines.append(f"| {name} | {' | '.join(cells)} | {_bytes(written)} | {_dollars(cost)} |")
    slowest = [_slowest(collection, at) for at in range(len(widths))]
    lines.append(f"| longest step until a store answers | {' | '.join(slowest)} | | |")
    return "\n".join(lines) + "\n"


def _widths(collection: Results) -> list[int]:
    """Return the numbers of cores, from the step that uses all of them."""
    return [step["cores"] for step in collection["steps"] if step["name"] == "encode into parts"]


def _slowest(collection: Results, at: int) -> str:
    each = len(collection["steps"]) // len(_widths(collection))
    steps = collection["steps"][at * each : (at + 1) * each]
    path = [step for step in steps if step["name"].startswith(("plan", "encode into", "load"))]
    name: str = max(path, key=lambda step: step["hours"])["name"]
    return name.split(":")[0]


def _storage_table(collections: list[Results]) -> str:
    columns = [f"{one['documents']:,} documents | dollars a month" for one in collections]
    lines = [f"| kept | {' | '.join(columns)} |", "|---" * (2 * len(columns) + 1) + "|"]
    for kind in collections[0]["storage"]:
        cells = []
        for one in collections:
            kept = one["storage"][kind]
            cells += [_bytes(kept["bytes"]), _dollars(kept["cost"])]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _queries_table(collections: list[Results]) -> str:
    lines = [
        "| search | graphs | CPU ms a query | cores | memory | machines | dollars a month |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in collections:
        for way, found in one["queries"].items():
            cells = (
                f"{one['documents']:,}, {way}",
                f"{found['graphs']:,}" if way != "exact" else "",
                f"{found['cpu_ms']:,.1f}",
                f"{found['cores']:,.1f}",
                _bytes(found["memory_bytes"]),
                f"{found['machines']:,}" if found["fits"] else "does not fit",
                _dollars(found["cost"]) if found["fits"] else "",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _limits_table(result: Results) -> str:
    columns = [f"{one['documents']:,}" for one in result["collections"]]
    lines = [
        f"| limit | reached at, documents | {' | '.join(columns)} | because | then |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for limit in result["limits"]:
        name = f"**{limit['name']}**" if limit["name"] == result["first_limit"] else limit["name"]
        reached = "never" if limit["documents"] is None else _rounded(limit["documents"])
        beyond = ["beyond" if limit["name"] in one["exceeded"] else "" for one in result["collections"]]
        optional = " (only who asks for it)" if limit["optional"] else ""
        cells = [name + optional, reached, *beyond, limit["arithmetic"], limit["remedy"]]
        lines.append(f"| {' | '.join(cells)} |")
    workers = _rounded(result["most_workers"])
    return "\n".join(lines) + (
        f"\n\nThe first that everybody meets is in bold. With {workers} workers on one input file, each "
        "passes over it as long as it encodes.\n"
    )


def _others_table(rows: list[Results]) -> str:
    lines = ["| measured elsewhere, at a larger size | there | by these rates | from |", "|---|---|---|---|"]
    for row in rows:
        values = (f"{row[key]:,.2f} {row['unit']}" for key in ("measured", "predicted"))
        lines.append(f"| {row['what']} | {' | '.join(values)} | `{row['file']}` |")
    return "\n".join(lines) + "\n"


def _assumptions_table(assumed: Results, premises: Results) -> str:
    lines = ["| assumed | value | option |", "|---|---|---|"]
    for name, text in assumption_texts().items():
        value = assumed[name]
        shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
        lines.append(f"| {text} | {shown} | `--{name.replace('_', '-')}` |")
    return "\n".join([*lines, "", *(f"- {text}" for text in premises.values())]) + "\n"


def _hours(hours: float) -> str:
    if hours < 1.0:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def _bytes(size: float) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return "" if not size else f"{size:.0f} B"


def _dollars(cost: float) -> str:
    return f"{cost:,.2f}" if cost < 100 else f"{cost:,.0f}"


def _rounded(count: float) -> str:
    """Write a number with two digits that matter."""
    for unit, name in ((1e12, "million million"), (1e6, "million")):
        if count >= unit:
            return f"{float(f'{count / unit:.2g}'):,g} {name}"
    return f"{float(f'{count:.2g}'):,.0f}"
