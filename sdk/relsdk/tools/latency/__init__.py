"""Can this model serve these queries within a budget? Latencies, and what to change if not."""

from relsdk.tools.latency.latencies import Facts, Latency, Parts
from relsdk.tools.latency.measure import KS, Benchmark, Plan, run_benchmark
from relsdk.tools.latency.verdict import Verdict, decide

__all__ = ["KS", "Benchmark", "Facts", "Latency", "Parts", "Plan", "Verdict", "decide", "run_benchmark"]
