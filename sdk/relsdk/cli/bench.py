"""`relsdk bench`: latency of a user's own model and queries, and results of the benchmark suites.

A subcommand is imported when it is called: the suites' pictures need packages that a server has not.
"""

from __future__ import annotations

import click

from relsdk.cli import LazyGroup

__all__ = ["bench"]

# name -> (module, attribute, one line of help)
_COMMANDS = {
    "run": ("relsdk.cli.bench_run", "run", "Can your model serve your queries within a budget?"),
    "report": ("relsdk.cli.bench_results", "report", "Write results of the suites as Markdown and PNG."),
    "compare": ("relsdk.cli.bench_results", "compare", "Tell regressions from noise between two results."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def bench() -> None:
    """Measure latency: of your own model and queries, or read what the suites measured."""
