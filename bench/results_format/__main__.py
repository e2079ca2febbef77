"""Report and compare results of the benchmark suites.

python -m bench.results_format report bench/results
python -m bench.results_format compare before.json after.json --ours
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from bench.results_format.compare import (
    MIN_FLOOR,
    Change,
    compare_results,
    differences_of_header,
    lost_rows,
)
from bench.results_format.figures import draw_figures
from bench.results_format.markdown import markdown_report
from bench.results_format.records import Results, read_results
from relsdk.cli.output import echo, echo_json, echo_table
from relsdk.errors import InputError, RelsdkError
from relsdk.files.folders import write_file_atomically

__all__ = ["compare", "main", "report"]


@click.group()
def main() -> None:
    """Report results of the benchmark suites, or compare two of them."""


@main.command(epilog="Example: python -m bench.results_format report bench/results")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-report"),
    show_default=True,
    help="Folder for report.md and the pictures; made if it is not there.",
)
@click.option("--no-figures", is_flag=True, help="Markdown only; needs no matplotlib.")
def report(results: tuple[Path, ...], output: Path, no_figures: bool) -> None:
    """Write RESULTS (files of the benchmark suites, or folders of them) as Markdown and PNG.

    Of a folder, only the result files are read.
    """
    found = [item for path in results for item in _read(path)]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {error.strerror or error}") from error
    figures = [] if no_figures else draw_figures(found, output)
    write_file_atomically(output / "report.md", markdown_report(found, figures))
    for path in (output / "report.md", *figures):
        echo(f"wrote {path}")


@main.command(epilog="Example: python -m bench.results_format compare before.json after.json --ours")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--min-floor",
    default=MIN_FLOOR,
    show_default=True,
    help="Changes of less than this share are never called one.",
)
@click.option("--ours", is_flag=True, help="Judge relsdk's own rows only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(before: Path, after: Path, min_floor: float, ours: bool, as_json: bool) -> None:
    """Tell regressions from noise between BEFORE and AFTER, two result files of the same suites.

    A row is a regression when the interval of after / before lies above the noise: what identical contenders
    of the runs differed by. Ends with exit code 1 when one of relsdk's own rows is one, or is not measured
    any more, and 2 when the files cannot be compared.
    """
    old, new = read_results(before), read_results(after)
    roles = {row.key: row.role for row in new.rows}
    changes = compare_results(old, new, min_floor=min_floor)
    judged = [
        change
        for change in changes
        if not ours or roles[change.suite, change.case, change.contender] == "ours"
    ]
    for text in differences_of_header(old, new):
        echo(f"relsdk: warning: {text}", err=True)
    if as_json:
        echo_json([asdict(change) for change in judged])
    else:
        _echo_changes(judged)
        _echo_missing(old, new)
    lost = lost_rows(old, new)
    for key in lost:
        echo(f"relsdk: warning: not measured any more: {' / '.join(key)}", err=True)
    worse = [
        change
        for change in changes
        if change.verdict == "regression" and roles[change.suite, change.case, change.contender] == "ours"
    ]
    if worse or lost:
        sys.exit(1)


def _read(path: Path) -> list[Results]:
    if not path.is_dir():
        return [read_results(path)]
    found = []
    for file in sorted(path.glob("*.json")):
        try:
            found.append(read_results(file))
        except InputError as error:
            echo(f"relsdk: warning: skipped: {error}", err=True)
    if not found:
        raise InputError(f"{path} holds no result of the benchmark suites; make one with: make suites")
    return found


def _echo_changes(changes: list[Change]) -> None:
    rows = []
    for change in changes:
        unit = "ms" if change.measure == "time" else "MB"
        interval = f"{change.ratio.median:.3f} ({change.ratio.low:.3f}-{change.ratio.high:.3f})"
        adjusted = "-" if change.adjusted is None else f"{change.adjusted.median:.3f}"
        verdict = f"{change.verdict}: {change.reason}" if change.reason else change.verdict
        cells = [change.suite, change.case, change.contender]
        cells += [f"{change.before:.4g} {unit}", f"{change.after:.4g} {unit}", interval, adjusted]
        rows.append([*cells, f"{change.floor:.1%}", verdict])
    header = ["suite", "case", "contender", "before", "after", "ratio", "vs yardstick", "noise", "verdict"]
    echo_table(header, rows, right=(3, 4, 5, 6, 7))
    counts = {
        name: sum(c.verdict == name for c in changes) for name in ("regression", "improvement", "noise")
    }
    echo(", ".join(f"{name}: {count}" for name, count in counts.items()))


def _echo_missing(before: Results, after: Results) -> None:
    old, new = {row.key for row in before.rows}, {row.key for row in after.rows}
    for label, keys in (("before", old - new), ("after", new - old)):
        for key in sorted(keys):
            echo(f"only in the file {label}: {' / '.join(key)}", err=True)


if __name__ == "__main__":
    try:
        main()
    except RelsdkError as error:
        echo(f"error: {error}", err=True)
        sys.exit(2)
