"""`relsdk eval --judge`: a judge's grades beside people's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relsdk.cli.output import counted, echo, echo_table, percent
from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.levels import parse_level
from relsdk.records import LabelledPair
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


def evaluate_judge(grades: str, pairs: str | None, reading: Mapping[str, Any]) -> JudgeReport:
    """Compare a file of grades with a file of labelled pairs, or with its own `human_label`s.

    Raises:
        InputError: A file is bad, no pair is in both, or no grade has a `human_label`.
    """
    graded = list(read_pairs(grades))
    if pairs is not None:
        return judge_report(graded, read_pairs(pairs, **reading))
    human = [
        LabelledPair(pair.query, pair.document, parse_level(label))
        for pair in graded
        if (label := pair.document.metadata.get("human_label")) is not None
    ]
    if not human:
        raise InputError(f"{grades}: no row has a human_label; name the PAIRS that people labelled, too")
    return judge_report(graded, human)


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
