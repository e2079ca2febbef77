"""Results of the benchmark suites as data: read them, compare two of them, report them.

Nothing here measures; the suites that do are the project's own (`bench/`).
"""

from bench.results_format.compare import Change, compare_results
from bench.results_format.figures import draw_figures
from bench.results_format.markdown import markdown_report
from bench.results_format.records import Results, Row, read_results

__all__ = ["Change", "Results", "Row", "compare_results", "draw_figures", "markdown_report", "read_results"]
