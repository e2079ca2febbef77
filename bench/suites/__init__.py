"""The benchmark suites beside peers: `python -m bench.suites --output bench/results/suites.json`.

One module a suite; each has `run(settings) -> rows`, a row as `bench.interleave.measure` makes it.
"""

# name -> module; the order they run in.
SUITES = {
    "encode_query": "bench.suites.encode_query",
    "encode_bulk": "bench.suites.encode_bulk",
    "concurrency": "bench.suites.concurrency",
    "index_build": "bench.suites.index_build",
    "index_search": "bench.suites.index_search",
    "filtered_search": "bench.suites.filtered_search",
    "score": "bench.suites.score",
    "search": "bench.suites.search",
    "cold_start": "bench.suites.cold_start",
    "memory": "bench.suites.memory",
}
