"""The benchmark suites beside peers: `python -m bench.suites --output bench/results/suites.json`.

One function a suite, `run(settings) -> rows`, a row as `bench.interleave.measure` makes it.
"""

# name -> function; the order they run in.
SUITES = {
    "encode_query": "bench.suites.encode_query:run",
    "encode_bulk": "bench.suites.encode_bulk:run",
    "concurrency": "bench.suites.concurrency:run",
    "index_build": "bench.suites.index_build:run",
    "index_search": "bench.suites.index_search:run",
    "filtered_search": "bench.suites.filtered_search:run",
    "score": "bench.suites.score:run",
    "search": "bench.suites.search:run",
    "cold_start": "bench.suites.cold_start:run",
    "memory": "bench.suites.memory:run",
    "million_64": "bench.suites.index_search:million_64",
    "million_128": "bench.suites.index_search:million_128",
    "million_384": "bench.suites.index_search:million_384",
}
# Each takes an hour or more, so it runs where it is asked for.
ON_REQUEST = tuple(name for name in SUITES if name.startswith("million_"))
