"""An SSRA run as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, MissingExtraError
from relsdk.files.folders import write_file_atomically
from relsdk.levels import NUM_LEVELS
from relsdk_training.ssra.records import has_records, read_records
from relsdk_training.ssra.report import stage_report
from relsdk_training.ssra.stage_runner import FinishedStage, read_stages

__all__ = ["write_html"]

_LEVELS = range(NUM_LEVELS)
_MEASURES = ("mean_ap", "ndcg_at_10")
_RIGHT = ' class="number"'
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .3em .8em; text-align: left; vertical-align: top; }}
td.number {{ text-align: right; white-space: nowrap; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_html(run: Path, output: Path) -> Path:
    """Write what a run made as one static page: pictures inside, no script, nothing from outside.

    It shows the levels before and after, wanted against predicted levels of each stage, the measures
    before and after with their intervals, a table of stages, and random examples of each level.

    Args:
        run: A run's folder.
        output: The HTML file; one that is there is replaced in one step.

    Returns:
        `output`.

    Raises:
        InputError: The run is missing, has no finished stage or is damaged.
        MissingExtraError: matplotlib is not installed.
        RelsdkError: The file cannot be written.
    """
    _figure(1, 1)  # a missing matplotlib is said before the work
    stages = read_stages(run)
    reports = {
        stage.name: stage_report(read_records(stage.folder)) for stage in stages if has_records(stage.folder)
    }
    parts = [
        _histogram(reports),
        *(_confusion(name, report) for name, report in reports.items() if _is_scored(name, report)),
        *(_bars(stage) for stage in stages if "bars" in stage.report),
        _stage_table(stages, reports),
        *(_examples(name, report) for name, report in reports.items()),
    ]
    title = _text(f"SSRA run {run.resolve().name}")
    write_file_atomically(output, _PAGE.format(title=title, body="\n".join(filter(None, parts))))
    return output


def _histogram(reports: dict[str, dict[str, Any]]) -> str:
    """The levels of the balanced training set: labelled pairs, then all."""
    balanced = [report for name, report in reports.items() if _is_balance(name)]
    if not balanced:
        return "<h2>Levels</h2>\n<p>No balanced training set yet.</p>"
    report = balanced[-1]
    before = report["sources"].get("labelled", [0] * NUM_LEVELS)
    after = [row["total"] for row in report["levels"]]

    def draw(axes: Sequence[Any]) -> None:
        for shift, values, name in ((-0.2, before, "before"), (0.2, after, "after")):
            bars = axes[0].bar([level + shift for level in _LEVELS], values, width=0.4, label=name)
            axes[0].bar_label(bars)
        axes[0].set(xticks=list(_LEVELS), xlabel="level", ylabel="pairs")
        axes[0].legend()

    words = "Pairs of each level: the labelled ones before, the balanced training set after."
    return f"<h2>Levels</h2>\n<p>{words}</p>\n" + _picture(draw, words, width=6.4)


def _is_balance(name: str) -> bool:
    return name.endswith("-balance")


def _is_scored(name: str, report: dict[str, Any]) -> bool:
    return not _is_balance(name) and any(map(any, report["confusion"]))


def _confusion(name: str, report: dict[str, Any]) -> str:
    counts = report["confusion"]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]

    def draw(axes: Sequence[Any]) -> None:
        axes[0].imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for wanted in _LEVELS:
            for predicted in _LEVELS:
                colour = "white" if shares[wanted][predicted] > 0.5 else "black"
                axes[0].text(
                    predicted, wanted, str(counts[wanted][predicted]), ha="center", va="center", color=colour
                )
        axes[0].set(xticks=list(_LEVELS), yticks=list(_LEVELS), xlabel="predicted", ylabel="wanted")

    agreement = ", ".join(f"{level}: {_percent(share)}" for level, share in enumerate(report["agreement"]))
    return (
        f"<h2>Wanted and predicted levels, {_text(name)}</h2>\n"
        f"<p>Records predicted as wanted, for each level: {agreement}.</p>\n"
        + _picture(draw, f"{name}: wanted (rows) and predicted (columns) levels", width=4.0)
    )


def _bars(stage: FinishedStage) -> str:
    """The measures of models with their intervals; the names are in the table, as pictures lack fonts."""
    try:
        bars = [
            (str(bar["name"]), {name: _interval(bar, name) for name in _MEASURES})
            for bar in stage.report["bars"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{stage.folder / 'stage.json'}: every one of 'bars' needs a name, {' and '.join(_MEASURES)}, "
            f"each with its _interval [low, high] or null ({error!r}); delete the folder and run again"
        ) from error
    numbers = list(range(1, len(bars) + 1))

    def draw(axes: Sequence[Any]) -> None:
        for axis, measure in zip(axes, _MEASURES, strict=True):
            for number, (_, measures) in zip(numbers, bars, strict=True):
                if found := measures[measure]:
                    height, low, high = found
                    axis.bar(number, height, width=0.6, color="C0")
                    axis.vlines(number, low, high, color="black")
            axis.set(title=measure, xticks=numbers)

    rows = [
        [
            str(number),
            name,
            *("{:.4f} [{:.4f}, {:.4f}]".format(*found) if found else "–" for found in measures.values()),
        ]
        for number, (name, measures) in zip(numbers, bars, strict=True)
    ]
    return (
        "<h2>Measures on dev</h2>\n"
        + _picture(draw, "AP and nDCG with their intervals", axes=2, width=9.0)
        + _table(["bar", "model", *_MEASURES], rows, numbers={0, 2, 3})
    )


def _interval(bar: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    if bar[name] is None:
        return None
    low, high = bar[f"{name}_interval"]
    return float(bar[name]), float(low), float(high)


def _stage_table(stages: Sequence[FinishedStage], reports: dict[str, dict[str, Any]]) -> str:
    header = ["stage", "records", "kept", *(f"kept of {level}" for level in _LEVELS), "duplicates", "seconds"]
    rows = []
    for stage in stages:
        cells = ["–"] * (NUM_LEVELS + 3)
        if report := reports.get(stage.name):
            shares = [_percent(row["kept_share"]) for row in report["levels"]]
            cells = [str(report["total"]), str(report["kept"]), *shares, _percent(report["duplicate_rate"])]
        dev = stage.report.get("dev")
        measures = [_measure(dev.get(name) if isinstance(dev, dict) else None) for name in _MEASURES]
        rows.append([stage.name, *cells, f"{stage.seconds:.1f}", *measures])
    header += [f"dev {name}" for name in _MEASURES]
    return "<h2>Stages</h2>\n" + _table(header, rows, numbers=set(range(1, len(header))))


def _examples(name: str, report: dict[str, Any]) -> str:
    rows = [
        [
            str(level),
            "kept" if record["kept"] else record["dropped_because"],
            "–" if record["predicted"] is None else str(record["predicted"]),
            " ".join(f"{p:.2f}" for p in record["probabilities"]),
            record["judge"]["verdict"] if record["judge"] else "",
            record["query"],
            record["document"]["title"],
            _clip(record["document"]["text"]),
        ]
        for level, samples in enumerate(report["examples"])
        for record in samples["kept"] + samples["dropped"]
    ]
    if not rows:
        return ""
    header = ["level", "fate", "predicted", "probabilities", "judge", "query", "title", "text"]
    return f"<h2>Examples, {_text(name)}</h2>\n" + _table(header, rows, numbers={0, 2, 3})


def _clip(text: str, characters: int = 200) -> str:
    return text if len(text) <= characters else text[:characters] + "…"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _measure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def _text(text: str) -> str:
    """Text as HTML: nothing in it is markup, and characters that HTML forbids are replaced."""
    return escape(_CONTROL.sub("\ufffd", text))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: set[int]) -> str:
    lines = ["<table>", "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in header) + "</tr>"]
    for row in rows:
        cells = (
            f"<td{_RIGHT if column in numbers else ''}>{_text(cell)}</td>" for column, cell in enumerate(row)
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("relsdk synth report", "train") from error
    return Figure(figsize=(width, height), layout="constrained")


def _picture(draw: Callable[[Sequence[Any]], None], words: str, *, width: float, axes: int = 1) -> str:
    """A picture inside the page, as PNG; `words` stand for it where it is not seen."""
    figure = _figure(width, 3.6)
    draw(figure.subplots(1, axes, squeeze=False)[0])
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    data = base64.b64encode(png.getvalue()).decode("ascii")
    return f'<img alt="{_text(words)}" src="data:image/png;base64,{data}">\n'
