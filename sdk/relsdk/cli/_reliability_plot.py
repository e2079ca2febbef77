"""Reliability diagrams of levels: how often what had a probability was so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, MissingExtraError
from relsdk.files.atomic import output_file
from relsdk.files.folders import check_file_target
from relsdk.metrics import ReliabilityBin
from relsdk.tools.evaluation import Evaluation

__all__ = ["check_plot", "plot_reliability"]

_ENDINGS = (".png", ".pdf", ".svg")
_PANELS = ("most probable level", "P(level >= 1)", "P(level >= 2)", "P(level = 3)")


def check_plot(target: Path) -> Any:
    """Return matplotlib's Figure, if the picture can be written.

    Raises:
        InputError: It cannot, or its ending names no format that is drawn.
        MissingExtraError: matplotlib is not installed.
    """
    check_file_target(target, overwrite=True, endings=_ENDINGS)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("relsdk eval --plot", "bench") from error
    return Figure


def plot_reliability(evaluations: Sequence[Evaluation], target: Path) -> None:
    """Draw a row of four diagrams for each evaluation: the most probable level, and P(level >= 1, 2, 3).

    A point is the share of a bin over its mean probability, with its 95 % interval between queries; the
    number of its pairs stands at the foot.

    Raises:
        InputError: An evaluation has no levels, or the picture cannot be written, or not in this format.
        MissingExtraError: matplotlib is not installed.
    """
    for item in evaluations:
        if not item.reliability:
            raise InputError(
                f"{item.variant} has no levels to plot; fit them with relsdk calibrate, or leave out --plot"
            )
    rows = len(evaluations)
    figure = check_plot(target)(figsize=(16, 4.4 * rows), layout="constrained")
    for axes, item in zip(figure.subplots(rows, 4, squeeze=False), evaluations, strict=True):
        for axis, panel, curve in zip(axes, _PANELS, item.reliability, strict=True):
            _draw(axis, curve)
            axis.set_title(f"{panel}, {item.variant}")
    try:
        with output_file(target) as stream:
            figure.savefig(stream, format=target.suffix.lower().removeprefix(".") or "png", dpi=100)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _draw(axis: Any, curve: Sequence[ReliabilityBin]) -> None:
    at = [one.confidence for one in curve]
    shares = [one.share for one in curve]
    ends = [[one.share - one.low for one in curve], [one.high - one.share for one in curve]]
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    # A share of 0 or 1 by rounding lies a hair outside its interval, and a bar has no negative length.
    axis.errorbar(
        at, shares, [[max(end, 0.0) for end in side] for side in ends], fmt="o-", capsize=3, markersize=4
    )
    for one in curve:
        axis.text(one.confidence, -0.09, f"{one.pairs:,}", rotation=90, ha="center", va="center", fontsize=7)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.15, 1.02), xlabel="probability; at the foot: pairs", ylabel="share")
