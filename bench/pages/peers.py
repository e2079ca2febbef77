"""Tables of `bench/results/suites.json` and `million.json`: relsdk beside its peers, and what it aims at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.serving.encode_bulk import SPEED_UP, TEXTS
from bench.serving.engines import BATCH
from bench.serving.peers import DYNAMIC, PEERS, TOWER

Results = dict[str, Any]
ResultRow = dict[str, Any]
Case = tuple[str, str]  # suite, how the case's name begins
# A case, a field of its rows, how it is shown.
Cell = tuple[Case, str, str]

_QUERY = ("encode_query", "16 tokens")
_BULK = ("encode_bulk", "")
_THREADS = ("encode_bulk", f"{TEXTS // 2:,} texts, threads")
_CALLERS = ("concurrency", "4 callers")
_SCORE = ("score", "50 candidates")
_START = ("cold_start", "process start to first vector")
_MEMORY = ("memory", "")
_SEARCH = ("index_search", "100,000 x 128, ef 256")
_FILTERED = ("filtered_search", "1.0% of 100,000 x 128")
_BUILD = ("index_build", "100,000 x 128")
_DIMENSIONS = (64, 128, 384)
_SPEED: dict[str, Cell] = {
    "one query, p50 ms": (_QUERY, "p50_ms", "{:.2f}"),
    "texts/s in bulk": (_BULK, "throughput", "{:,.0f}"),
    "resident MB": (_MEMORY, "memory.resident_mb", "{:,.0f}"),
}
ENCODERS: dict[str, Cell] = {
    "one query of 8 tokens, p50 ms": (("encode_query", "8 tokens"), "p50_ms", "{:.2f}"),
    "one query of 16 tokens, p50 ms": (_QUERY, "p50_ms", "{:.2f}"),
    "the same with caches evicted": (("encode_query", "16 tokens, cold caches"), "p50_ms", "{:.2f}"),
    "texts of mixed length, texts/s": (_BULK, "throughput", "{:,.0f}"),
    "the same by two threads, times as fast": (_THREADS, f"quality.{SPEED_UP}", "{:.2f}"),
    "queries/s of 4 callers": (_CALLERS, "throughput", "{:,.0f}"),
    "a cross-encoder scores 50 candidates, p50 ms": (_SCORE, "p50_ms", "{:,.0f}"),
    "alone or in a batch: a coordinate moves by": (_BULK, "quality.alone_vs_batch", "{:.0e}"),
    "cosine to fp32": (_QUERY, "quality.cosine_to_fp32", "{:.4f}"),
    "process start to first vector, s": (_START, "p50_s", "{:.2f}"),
    "resident after calls of mixed shapes, MB": (_MEMORY, "memory.resident_mb", "{:,.0f}"),
}
INDEXES: dict[str, Cell] = {
    "search 100,000 x 128, p50 ms": (_SEARCH, "p50_ms", "{:.3f}"),
    "recall@10": (_SEARCH, "quality.recall_at_10", "{:.3f}"),
    "filtered to 1 %, used before, p50 ms": (_FILTERED, "p50_ms", "{:.3f}"),
    "filtered to 1 %, recall@10": (_FILTERED, "quality.recall_at_10", "{:.3f}"),
    "build 100,000 x 128, s": (_BUILD, "p50_s", "{:.1f}"),
}
MILLION: dict[str, Cell] = {
    label: ((f"million_{dimension}", f"1,000,000 x {dimension}, ef 64"), field, "{:.3f}")
    for dimension in _DIMENSIONS
    for label, field in (
        (f"search 1,000,000 x {dimension}, ef_search 64, p50 ms", "p50_ms"),
        (f"{dimension} dimensions, recall@10", "quality.recall_at_10"),
    )
}
# Time of relsdk int8 over that of a peer, at most.
_QUERY_TARGETS = {DYNAMIC: 0.60, "CTranslate2 int8": 0.80, "sentence-transformers": 0.12}
# Times as fast as a peer, at least.
_BULK_TARGETS = {"CTranslate2 int8": 1.4, "sentence-transformers": 5.0}
_SCORE_PEERS = ("CTranslate2 int8", "onnxruntime dynamic int8", "relsdk int8, onnxruntime")
_SCORE_TARGET = 1.4
_OVERHEAD_MS = 0.20
_OTHERS = 0.6  # a load average beyond the threads that were measured


def peers_parts(suites: Results, million: Results) -> dict[str, str]:
    """Return the generated parts by name."""
    return {
        "speed": speed_table(suites),
        "peers": _peers(suites, million),
        "encoder-targets": targets_table(suites),
    }


def speed_table(suites: Results) -> str:
    """Return README's rows: relsdk, of each column the best peer by name, and what many start with."""
    rows = suites["rows"]
    lines = [f"| same weights, one thread | {' | '.join(_SPEED)} |", "|---" * (len(_SPEED) + 1) + "|"]
    for name in (TOWER, "relsdk int8"):
        lines.append(_line(name, [_shown(rows, cell, name) for cell in _SPEED.values()]))
    best = [_best(rows, cell) for cell in _SPEED.values()]
    if len({name for name, _ in best}) == 1:
        lines.append(_line(best[0][0], [value for _, value in best]))
    else:
        lines.append(_line("best other", [f"{value} ({name.removesuffix(' int8')})" for name, value in best]))
    name = "sentence-transformers"
    lines.append(_line(name, [_shown(rows, cell, name) for cell in _SPEED.values()]))
    shown = {suite for (suite, _), *_ in _SPEED.values()}
    return "\n".join(lines) + f"\n\n{_where(suites['header'], shown)}, run alternately (`make suites`).\n"


def _best(rows: list[ResultRow], cell: Cell) -> tuple[str, str]:
    """Return the peer of the same weights that is best at something, and how its value is shown."""
    case, field, form = cell
    found = {
        name: value
        for name, row in _rows_of(rows, case).items()
        if name in PEERS and PEERS[name].same_weights and (value := _value(row, field)) is not None
    }
    name = (max if field == "throughput" else min)(found, key=lambda name: found[name])
    return name, form.format(found[name])


def _peers(suites: Results, million: Results) -> str:
    """Beside the peers: encoders, then indexes; a cell is empty where a library does not do it."""
    header = suites["header"]
    versions = ", ".join(
        f"{name} {version}" for name, version in header["peers"].items() if not version.startswith("absent")
    )
    encoders, indexes = ({suite for (suite, _), *_ in lines.values()} for lines in (ENCODERS, INDEXES))
    return (
        f"{peers_table(suites['rows'], ENCODERS)}\n"
        f"{_where(header, encoders)}, one thread but where two are named, by turns"
        f"{_shared(header, encoders)}; {versions}.\n"
        "fastembed's and OpenVINO's int8 file is relsdk's. Dynamic int8 is what onnxruntime makes of "
        "relsdk's fp32 file, whose operators are fused, and for fastembed of the graph as torch writes it. "
        "Around CTranslate2, OpenVINO and onnxruntime is the program that a user would write: it sorts by "
        f"length, {BATCH} texts in a batch.\n"
        f"\n{peers_table(suites['rows'], INDEXES)}\n"
        f"{_where(header, indexes)}, one thread, by turns{_shared(header, indexes)}.\n"
        f"\n{peers_table(million['rows'], MILLION)}\n"
        f"{_where(million['header'])}, one thread, by turns (`make million`).\n"
    )


def peers_table(rows: list[ResultRow], lines: dict[str, Cell]) -> str:
    """Return a column for each contender, relsdk's first, and a line for each figure that somebody has."""
    cases = {label: _rows_of(rows, case) for label, (case, *_) in lines.items()}
    names = list(
        dict.fromkeys(
            _engine(name)
            for found in cases.values()
            for name, row in found.items()
            if row["role"] != "yardstick" and not name.startswith("bare")
        )
    )
    names.sort(key=lambda name: not name.startswith("relsdk"))
    table = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for label, cell in lines.items():
        shown = [_shown(rows, cell, name) for name in names]
        if any(shown):  # that suite was run
            table.append(_line(label, shown))
    return "\n".join(table) + "\n"


def targets_table(suites: Results) -> str:
    """Return the targets of the twelve-layer encoder, for the peers that ran."""
    lines = ["| relsdk int8, twelve layers, one thread | target | measured | |", "|---|---|---|---|"]
    for *cells, met in _targets(suites["rows"]):
        lines.append(f"| {' | '.join(cells)} | {'met' if met else '**missed**'} |")
    shown, header = {"encode_query", "encode_bulk", "score"}, suites["header"]
    where = f"{_where(header, shown)}, `make suites`{_shared(header, shown)}"
    return "\n".join(lines) + f"\n\n{where}. In brackets: 95 % intervals.\n"


def _targets(rows: list[ResultRow]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield what, the target, what was measured, and whether it is met; for the peers that ran."""
    for tokens in (8, 16):
        found = _rows_of(rows, ("encode_query", f"{tokens} tokens"))
        for peer, limit in _QUERY_TARGETS.items():
            if peer in found:
                share, low, high = (1 / found[peer]["ratio"][key] for key in ("median", "high", "low"))
                what = f"one query of {tokens} tokens: time over that of {peer}"
                yield what, f"at most {limit:.2f}", f"{share:.2f} ({low:.2f} to {high:.2f})", share <= limit
    found = _rows_of(rows, _BULK)
    for peer, limit in _BULK_TARGETS.items():
        if peer in found:
            yield _times(f"texts in bulk: times as fast as {peer}", limit, found[peer])
    found = _rows_of(rows, _SCORE)
    peers = [found[peer] for peer in _SCORE_PEERS if peer in found]
    if peers:
        fastest = min(peers, key=lambda row: row["p50_ms"])
        what = f"a cross-encoder, 50 candidates: times as fast as {fastest['contender']}"
        yield _times(what, _SCORE_TARGET, fastest)
    for tokens in (8, 16):
        name = f"{tokens} tokens"
        warm, cold = (
            _rows_of(rows, ("encode_query", case)).get("relsdk int8", {}).get("overhead_ms")
            for case in (name, f"{name}, cold caches")
        )
        if warm and cold:
            shown = f"{warm['median']:.2f} ms (caches evicted before each call: {cold['median']:.2f})"
            what = f"one query of {tokens} tokens: time around the engine's run"
            yield what, f"at most {_OVERHEAD_MS:.2f} ms", shown, warm["median"] <= _OVERHEAD_MS


def _times(what: str, limit: float, row: ResultRow) -> tuple[str, str, str, bool]:
    ratio = row["ratio"]
    shown = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return what, f"at least {limit:.1f}", shown, ratio["median"] >= limit


def _rows_of(rows: list[ResultRow], case: Case) -> dict[str, ResultRow]:
    """Return a case's rows by contender: the case of this name, else the first of the suite if it is ""."""
    suite, name = case
    names = [row["case"] for row in rows if row["suite"] == suite]
    wanted = name or (names[0] if names else "")
    return {row["contender"]: row for row in rows if (row["suite"], row["case"]) == (suite, wanted)}


def _engine(name: str) -> str:
    """Return a contender's name without its threads."""
    return name.removesuffix(", 1 thread").removesuffix(", 2 threads")


def _shown(rows: list[ResultRow], cell: Cell, name: str) -> str:
    """Return a contender's figure, "" without one."""
    case, field, form = cell
    found = _rows_of(rows, case)
    value = _value(found.get(f"{name}, 2 threads", found.get(name, {})), field)
    return "" if value is None else form.format(value)


def _value(row: ResultRow, field: str) -> float | None:
    """Return a field of a row by its path, None where there is none; `_s` of what is kept in ms."""
    if field == "p50_s":
        return row["p50_ms"] / 1e3 if row else None
    found: Any = row
    for key in field.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _line(label: str, cells: list[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _where(header: Results, suites: set[str] | None = None) -> str:
    """The CPU, and the day, or the first and the last of some suites or of all."""
    dated = header.get("suites", {"all": header["machine"]})
    kept = [found for suite, found in dated.items() if suites is None or suite in suites]
    days = sorted({found["date"] for found in kept})
    return f"{header['machine']['cpu']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"


def _shared(header: Results, suites: set[str]) -> str:
    """Say during which of some suites other work ran."""
    names = [
        suite
        for suite, found in header.get("suites", {}).items()
        if suite in suites and found["load_average"] > header["threads"] + _OTHERS
    ]
    return f"; other work had a share of the CPUs in {', '.join(map('`{}`'.format, names))}" if names else ""
