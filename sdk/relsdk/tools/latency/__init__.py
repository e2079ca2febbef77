"""Can this model serve these queries within a budget? Latencies, and what to change if not."""

from relsdk.tools.latency.measure import KS, Benchmark, Plan, run_benchmark
from relsdk.tools.latency.records import Facts, Latency, Parts
from relsdk.tools.latency.verdict import Verdict, judge

__all__ = ["KS", "Benchmark", "Facts", "Latency", "Parts", "Plan", "Verdict", "judge", "run_benchmark"]
