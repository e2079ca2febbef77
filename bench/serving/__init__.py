"""The benchmark suites beside peers: `python -m bench.serving --output bench/results/suites.json`.

One function a suite, `run(settings) -> rows`, a row as `bench.harness.interleave.measure` makes it.
"""

# name -> function; the order they run in.
SUITES = {
    "encode_query": "bench.serving.encode_query:run",
    "encode_bulk": "bench.serving.encode_bulk:run",
    "concurrency": "bench.serving.concurrency:run",
    "index_build": "bench.serving.index_build:run",
    "index_search": "bench.serving.index_search:run",
    "filtered_search": "bench.serving.filtered_search:run",
    "score": "bench.serving.score:run",
    "search": "bench.serving.search:run",
    "cold_start": "bench.serving.cold_start:run",
    "memory": "bench.serving.memory:run",
    "soak": "bench.serving.memory:soak",
    "million_64": "bench.serving.index_search:million_64",
    "million_128": "bench.serving.index_search:million_128",
    "million_384": "bench.serving.index_search:million_384",
}
# Those of an hour or so run where they are asked for.
ON_REQUEST = ("soak", *(name for name in SUITES if name.startswith("million_")))
