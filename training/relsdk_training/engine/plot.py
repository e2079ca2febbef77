"""The curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, MissingExtraError, TrainingError
from relsdk.files.atomic import output_file
from relsdk.files.folders import check_file_target
from relsdk_training.engine._log import read_log

__all__ = ["plot_run"]

_ENDINGS = (".png", ".pdf", ".svg")
_STEP_CURVES = ("loss", "accuracy", "embedding_std", "temperature", "gradient_norm", "learning_rate")
_DEV_CURVES = ("mean_ap", "ndcg_at_10", "log_likelihood", "level_accuracy")


def plot_run(run: Path, target: Path) -> Path:
    """Draw what the log of a run holds.

    Args:
        run: A run's folder.
        target: The .png, .pdf or .svg to write.

    Returns:
        `target`.

    Raises:
        InputError: The folder has no log, the log no step, or the target's folder is not there, or its ending
            names another format.
        MissingExtraError: matplotlib is not installed.
        TrainingError: The picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("relsdk train plot", "train") from error
    path = run / "log.jsonl"
    if not path.is_file():
        raise InputError(f"{run} has no log.jsonl; name the run.output of a training run")
    lines = list(read_log(path))
    steps = [line for line in lines if line["kind"] == "step"]
    dev = [line for line in lines if line["kind"] == "dev"]
    if not steps:
        raise InputError(f"{path} has no step yet")
    check_file_target(target, overwrite=True, endings=_ENDINGS)
    curves = [(name, _curve(steps, name)) for name in _STEP_CURVES]
    curves += [(f"dev {name}", _curve(dev, name)) for name in _DEV_CURVES]
    curves = [(name, points) for name, points in curves if points]
    figure = Figure(figsize=(12, 3 * ((len(curves) + 2) // 3)), layout="constrained")
    axes = figure.subplots((len(curves) + 2) // 3, 3, squeeze=False).ravel()
    for axis, (name, points) in zip(axes, curves, strict=False):
        axis.plot(*zip(*points, strict=True))
        axis.set_title(name)
        axis.set_xlabel("step")
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    try:
        with output_file(target) as stream:
            figure.savefig(stream, format=target.suffix.lower().removeprefix(".") or "png", dpi=100)
    except OSError as error:
        raise TrainingError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return the steps and values of those lines that have a value."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]
