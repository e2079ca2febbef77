"""Can this model serve these queries within a budget? Latencies, and what to change if not."""

from relsdk.benchmark.measure import KS, Benchmark, Plan, run_benchmark
from relsdk.benchmark.records import Facts, Latency, Parts
from relsdk.benchmark.verdict import Verdict, judge

__all__ = ["KS", "Benchmark", "Facts", "Latency", "Parts", "Plan", "Verdict", "judge", "run_benchmark"]
