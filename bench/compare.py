"""`relsdk bench compare` without an installed command: `python -m bench.compare BEFORE AFTER`."""

from bench.report import run
from relsdk.cli.bench_results import compare

if __name__ == "__main__":
    run(compare)
