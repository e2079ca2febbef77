"""An SSRA run as Markdown, with its pictures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from relsdk.errors import InputError, MissingExtraError, TrainingError
from relsdk.files.atomic import output_file
from relsdk.files.folders import check_file_target, write_file_atomically
from relsdk.levels import NUM_LEVELS
from relsdk_training.ssra.markdown import markdown_table, markdown_text, opinions_section
from relsdk_training.ssra.pair_records import has_records, read_records
from relsdk_training.ssra.stage_report import stage_report
from relsdk_training.ssra.stage_runner import FinishedStage, read_stages

__all__ = ["write_report"]

_LEVELS = range(NUM_LEVELS)
_MEASURES = ("mean_ap", "ndcg_at_10")
_LONGEST_TEXT = 200
Draw = Callable[[Sequence[Any]], None]


def write_report(run: Path, output: Path) -> Path:
    """Write what a run made: pictures, a table of stages, what was dropped and why, examples of each level.

    Args:
        run: A run's folder.
        output: The Markdown file; one that is there is replaced. Pictures stand beside it, and their names
            begin with its own.

    Returns:
        `output`.

    Raises:
        InputError: The run is missing, has no finished stage or is damaged, or the target's folder is not
            there.
        MissingExtraError: matplotlib is not installed.
        TrainingError: A file cannot be written.
    """
    figures = _Figures(output)  # a missing matplotlib is said before the work
    stages = read_stages(run)
    check_file_target(output, overwrite=True, endings=(".md", ".markdown", ".txt"))
    reports = {
        stage.name: stage_report(read_records(stage.folder)) for stage in stages if has_records(stage.folder)
    }
    parts = [
        f"# SSRA run {markdown_text(run.resolve().name)}",
        _levels(reports, figures),
        _opinions(stages),
        *(
            _confusion(name, report, figures)
            for name, report in reports.items()
            if not _is_balance(name) and any(map(any, report["confusion"]))
        ),
        *(_measures(stage, figures) for stage in stages if "bars" in stage.report),
        _stage_table(stages, reports),
        _losses(reports),
        *(_examples(name, report) for name, report in reports.items()),
    ]
    write_file_atomically(output, "\n\n".join(filter(None, parts)) + "\n")
    return output


class _Figures:
    """Draws the pictures of one report."""

    def __init__(self, output: Path) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("relsdk synth report", "train") from error
        self._figure: Any = Figure
        self._output = output

    def save(self, name: str, words: str, draw: Draw, *, width: float, axes: int = 1) -> str:
        """Draw a picture; return the Markdown that shows it, and `words` where it is not seen."""
        figure = self._figure(figsize=(width, 3.6), layout="constrained")
        draw(figure.subplots(1, axes, squeeze=False)[0])
        target = self._output.with_name(f"{self._output.stem}-{name}.png")
        try:
            with output_file(target) as stream:
                figure.savefig(stream, format="png", dpi=100)
        except OSError as error:
            raise TrainingError(f"cannot write {target}: {error.strerror or error}") from error
        return f"![{markdown_text(words)}]({quote(target.name)})"


def _levels(reports: Mapping[str, dict[str, Any]], figures: _Figures) -> str:
    """The levels of the balanced training set: labelled pairs, then all."""
    balanced = [report for name, report in reports.items() if _is_balance(name)]
    if not balanced:
        return "## Levels\n\nNo balanced training set yet."
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
    rows = [[markdown_text(name), *map(str, of)] for name, of in report["sources"].items()]
    table = markdown_table(["source", *map(str, _LEVELS)], rows, numbers=set(range(1, NUM_LEVELS + 1)))
    return f"## Levels\n\n{words}\n\n{figures.save('levels', words, draw, width=6.4)}\n\n{table}"


def _opinions(stages: Sequence[FinishedStage]) -> str:
    """What a language model's grades are worth, where people graded the same pairs."""
    told = [stage.report["opinions"] for stage in stages if "opinions" in stage.report]
    return opinions_section(told[-1]) if told else ""


def _is_balance(name: str) -> bool:
    return name.endswith("-balance")


def _confusion(name: str, report: Mapping[str, Any], figures: _Figures) -> str:
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
    words = f"{name}: wanted (rows) and predicted (columns) levels"
    return (
        f"## Wanted and predicted levels, {markdown_text(name)}\n\n"
        f"Records predicted as wanted, for each level: {agreement}.\n\n"
        + figures.save(f"{name}-levels", words, draw, width=4.0)
    )


def _measures(stage: FinishedStage, figures: _Figures) -> str:
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
                if interval := measures[measure]:
                    height, low, high = interval
                    axis.bar(number, height, width=0.6, color="C0")
                    axis.vlines(number, low, high, color="black")
            axis.set(title=measure, xticks=numbers)

    rows = [
        [
            str(number),
            markdown_text(name),
            *("{:.4f} [{:.4f}, {:.4f}]".format(*interval) if interval else "–" for interval in of.values()),
        ]
        for number, (name, of) in zip(numbers, bars, strict=True)
    ]
    picture = figures.save("measures", "AP and nDCG with their intervals", draw, axes=2, width=9.0)
    table = markdown_table(["bar", "model", *_MEASURES], rows, numbers={0, 2, 3})
    return f"## Measures on dev\n\n{picture}\n\n{table}"


def _interval(bar: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    if bar[name] is None:
        return None
    low, high = bar[f"{name}_interval"]
    return float(bar[name]), float(low), float(high)


def _stage_table(stages: Sequence[FinishedStage], reports: Mapping[str, dict[str, Any]]) -> str:
    header = ["stage", "records", "kept", *(f"kept of {level}" for level in _LEVELS), "duplicates", "seconds"]
    rows = []
    for stage in stages:
        cells = ["–"] * (NUM_LEVELS + 3)
        if report := reports.get(stage.name):
            shares = [_percent(row["kept_share"]) for row in report["levels"]]
            cells = [str(report["total"]), str(report["kept"]), *shares, _percent(report["duplicate_rate"])]
        dev = stage.report.get("dev")
        measures = [_measure(dev.get(name) if isinstance(dev, dict) else None) for name in _MEASURES]
        rows.append([markdown_text(stage.name), *cells, f"{stage.seconds:.1f}", *measures])
    header += [f"dev {name}" for name in _MEASURES]
    return "## Stages\n\n" + markdown_table(header, rows, numbers=set(range(1, len(header))))


def _losses(reports: Mapping[str, dict[str, Any]]) -> str:
    """How many records each filter dropped."""
    reasons = sorted({reason for report in reports.values() for reason in report["dropped_because"]})
    if not reasons:
        return ""
    rows = [
        [markdown_text(name), *(str(report["dropped_because"].get(reason, 0)) for reason in reasons)]
        for name, report in reports.items()
        if report["dropped_because"]
    ]
    return "## Dropped, and why\n\n" + markdown_table(
        ["stage", *map(markdown_text, reasons)], rows, numbers=set(range(1, len(reasons) + 1))
    )


def _examples(name: str, report: Mapping[str, Any]) -> str:
    rows = [
        [
            str(level),
            "kept" if record["kept"] else markdown_text(record["dropped_because"]),
            "–" if record["predicted"] is None else str(record["predicted"]),
            " ".join(f"{p:.2f}" for p in record["probabilities"]),
            markdown_text(record["judge"]["verdict"]) if record["judge"] else "",
            markdown_text(record["query"]),
            markdown_text(record["document"]["title"]),
            markdown_text(_clip(record["document"]["text"])),
        ]
        for level, samples in enumerate(report["examples"])
        for record in samples["kept"] + samples["dropped"]
    ]
    if not rows:
        return ""
    header = ["level", "fate", "predicted", "probabilities", "judge", "query", "title", "text"]
    return f"## Examples, {markdown_text(name)}\n\n" + markdown_table(header, rows, numbers={0, 2, 3})


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _measure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"
