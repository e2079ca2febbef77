"""Results as pictures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.results_format.records import Results, Row
from relsdk.errors import MissingExtraError, RelsdkError
from relsdk.files.atomic import replaced_file

__all__ = ["draw_figures"]

_COLUMNS = 3
Axis = Any


def draw_figures(results: Sequence[Results], folder: Path) -> list[Path]:
    """Draw what the results hold data for.

    `latency_distributions.png` (share of calls against milliseconds), `recall_against_qps.png`,
    `latency_against_length.png`, `memory_over_time.png`; one panel a case.

    Args:
        results: The files; their rows are drawn together.
        folder: Where the pictures go; it must exist.

    Returns:
        The files written, in this order; a picture without data is not drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RelsdkError: A picture cannot be written.
    """
    _figure_class()  # a missing package is said before the work
    rows = [row for found in results for row in found.rows if row.role != "yardstick"]
    drawn = []
    for name, panels, draw in (
        ("latency_distributions", _distribution_panels(rows), _draw_distribution),
        ("recall_against_qps", _recall_panels(rows), _draw_recall),
        ("latency_against_length", _length_panels(rows), _draw_length),
        ("memory_over_time", _memory_panels(rows), _draw_memory),
    ):
        if panels:
            drawn.append(_save(panels, draw, folder / f"{name}.png"))
    return drawn


def _save(panels: dict[str, list[Row]], draw: Callable[[Axis, list[Row]], None], target: Path) -> Path:
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure_class()(figsize=(5 * columns, 3.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        draw(axis, rows)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    try:
        with replaced_file(target) as stream:
            figure.savefig(stream, format="png", dpi=110)
    except OSError as error:
        raise RelsdkError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _distribution_panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return _grouped([row for row in rows if row.quantiles_ms], lambda row: f"{row.suite}: {row.case}")


def _draw_distribution(axis: Axis, rows: list[Row]) -> None:
    for row in rows:
        points = sorted((float(share), value) for share, value in row.quantiles_ms.items())
        axis.plot([value for _, value in points], [share for share, _ in points], label=row.contender)
    _log_scale(axis, "x")
    axis.set_xlabel("ms")
    axis.set_ylabel("% of calls")


def _recall_panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found = [row for row in rows if row.suite == "index_search" or row.suite.startswith("million_")]
    return _grouped([row for row in found if "recall_at_10" in row.quality and row.throughput > 0], _size)


def _draw_recall(axis: Axis, rows: list[Row]) -> None:
    for name, group in _grouped(rows, lambda row: row.contender).items():
        points = sorted((row.quality["recall_at_10"], row.throughput) for row in group)
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    _log_scale(axis, "y")
    axis.set_xlabel("recall@10")
    axis.set_ylabel("queries / s")


def _length_panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found = [row for row in rows if row.suite == "encode_query" and "tokens" in row.parameters]
    return _grouped(found, lambda row: "cold caches" if row.parameters.get("cold") else "warm")


def _draw_length(axis: Axis, rows: list[Row]) -> None:
    for name, group in _grouped(rows, lambda row: row.contender).items():
        points = sorted((row.parameters["tokens"], row.p50_ms) for row in group)
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    _log_scale(axis, "y")
    axis.set_xlabel("tokens of the query")
    axis.set_ylabel("p50 ms")


def _memory_panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return _grouped([row for row in rows if row.memory and row.memory.series], lambda row: row.case)


def _draw_memory(axis: Axis, rows: list[Row]) -> None:
    for row in rows:
        if row.memory and row.memory.series:
            axis.plot(row.memory.series.calls, row.memory.series.mb, label=row.contender)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("calls")
    axis.set_ylabel("resident MB")


def _log_scale(axis: Axis, direction: str) -> None:
    """Label 1, 2 and 5 of each decade: panels often span less than one."""
    getattr(axis, f"set_{direction}scale")("log", subs=[2, 5])
    line = getattr(axis, f"{direction}axis")
    line.set_major_formatter("{x:g}")
    line.set_minor_formatter("{x:g}")
    axis.tick_params(axis=direction, which="both", labelsize=7)


def _grouped(rows: Sequence[Row], name: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(row)
    return found


def _size(row: Row) -> str:
    return f"{row.parameters.get('documents', 0):,} x {row.parameters.get('dimension', '?')}"


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing benchmark results", "bench") from error
    return Figure
