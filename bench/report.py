"""`relsdk bench report` without an installed command: `python -m bench.report bench/results`."""

import sys

import click

from relsdk.cli.bench_results import report
from relsdk.errors import RelsdkError


def run(command: click.Command) -> None:
    """Run a command as `relsdk` would: a user's mistake is one line and exit code 2."""
    try:
        command()
    except RelsdkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    run(report)
