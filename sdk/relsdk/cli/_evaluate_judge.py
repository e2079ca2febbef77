"""`relsdk eval --judge`: a judge's grades beside people's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relsdk.cli.output import counted, echo, echo_table, percent
from relsdk.formats import read_pairs
from relsdk.tools.judge_agreement import JudgeReport, judge_report

__all__ = ["echo_judge_report", "evaluate_judge"]

_NAMES = {
    "accuracy": "accuracy",
    "qwk": "QWK",
    "ap_1": "AP>=1",
    "ap_2": "AP>=2",
    "ap_3": "AP=3",
    "higher": "graded higher",
    "lower": "graded lower",
}


def evaluate_judge(grades: str, pairs: str, reading: Mapping[str, Any]) -> JudgeReport:
    """Compare a file of grades with a file of labelled pairs; see `judge_report`."""
    return judge_report(read_pairs(grades), read_pairs(pairs, **reading))


def echo_judge_report(report: JudgeReport) -> None:
    """Print the measures, the confusion, and what the judge may be used for."""
    pairs, numbers = counted(report.pairs, "pair"), f"queries: {report.queries:,}; grades: {report.grades:,}"
    echo(f"{pairs} graded by both the judge and people ({numbers})")
    echo()
    rows = []
    for name, label in _NAMES.items():
        value, interval = report.measures[name], report.intervals[name]
        cells = [_figure(name, end) for end in (value, *(interval or (None, None)))]
        rows.append([label, cells[0], f"{cells[1]} to {cells[2]}" if interval else "-"])
    echo_table(["", "value", "95 % of queries"], rows, right=(1, 2))
    echo()
    rows = [
        [str(opinion), f"{sum(counts):,}", *map(str, counts), *map(percent, shares)]
        for opinion, (counts, shares) in enumerate(zip(report.counts, report.probabilities(), strict=True))
    ]
    levels = range(len(rows))
    header = ["opinion", "pairs", *(f"people {level}" for level in levels)]
    header += [f"P({level}) %" for level in levels]
    echo_table(header, rows, right=range(1, len(header)))
    echo()
    for use in report.uses():
        echo(f"- {use}")


def _figure(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if name == "qwk" else percent(value)
