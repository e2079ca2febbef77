"""`relsdk eval --judge`: a judge's grades beside people's labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relsdk.cli.output import counted, echo, echo_table, percent
from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.levels import RelevanceLevel, parse_level
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
# Fields that relsdk judge writes, and that people's labels have not.
_OF_A_JUDGE = ("probabilities", "human_label")


def evaluate_judge(grades: str, pairs: str | None, reading: Mapping[str, Any]) -> JudgeReport:
    """Compare a file of grades with a file of labelled pairs, or with its own `human_label`s.

    Raises:
        InputError: A file is bad, no pair is in both, no grade has a `human_label`, or PAIRS are of a judge.
    """
    graded = list(read_pairs(grades))
    if pairs is not None:
        return judge_report(graded, _of_people(pairs, read_pairs(pairs, **reading)))
    human = [
        LabelledPair(pair.query, pair.document, _human_level(grades, label))
        for pair in graded
        if (label := pair.document.metadata.get("human_label")) is not None
    ]
    if not human:
        raise InputError(f"{grades}: no row has a human_label; name the PAIRS that people labelled, too")
    return judge_report(graded, human)


def _of_people(path: str, pairs: Iterable[LabelledPair]) -> Iterator[LabelledPair]:
    """Yield labelled pairs, unless a judge labelled them."""
    for pair in pairs:
        if name := next((one for one in _OF_A_JUDGE if one in pair.document.metadata), None):
            raise InputError(
                f"{path} has {name!r} in a row: its labels are a judge's; people's labels come second: "
                "relsdk eval --judge GRADES PAIRS"
            )
        yield pair


def _human_level(path: str, label: object) -> RelevanceLevel:
    try:
        return parse_level(label)
    except InputError as error:
        raise InputError(f"{path}: human_label: {error}") from None


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
