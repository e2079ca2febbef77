"""Latencies of a model's searches, and advice on what to change for a time budget."""

from relsdk.tools.latency.latencies import Facts, Latency, Parts
from relsdk.tools.latency.measure import KS, Benchmark, Plan, run_benchmark
from relsdk.tools.latency.verdict import Verdict, decide

__all__ = ["KS", "Benchmark", "Facts", "Latency", "Parts", "Plan", "Verdict", "decide", "run_benchmark"]
