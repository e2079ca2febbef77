"""Results of the benchmark suites as data: read them, compare two of them, report them.

Nothing here measures; the suites that do are the project's own (`bench/`).
"""

from relsdk.bench_results.compare import Change, compare_results
from relsdk.bench_results.figures import draw_figures
from relsdk.bench_results.records import Results, Row, read_results
from relsdk.bench_results.report import markdown_report

__all__ = ["Change", "Results", "Row", "compare_results", "draw_figures", "markdown_report", "read_results"]
