"""The threshold that keeps a wanted precision, from the promises of what grades the hits."""

from __future__ import annotations

from collections.abc import Sequence

from relsdk.calibration import HybridLink, Promise
from relsdk.errors import CalibrationError
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import PairModel
from relsdk.models.pooled_scorer import PooledScorer

__all__ = ["least_share", "promises_of_hybrid", "promises_of_model"]

Promises = tuple[Sequence[Promise], str]  # and the command that makes some, up to what is to be promised


def promises_of_model(model: PairModel | Embedder) -> Promises:
    """Return the promises of a model's calibration."""
    stored = model.variant.promises.get(str(model.calibration_key), ())
    if isinstance(model, PooledScorer):
        command = model.bundle.calibrate_command(model.embedder.dimension, model.embedder.bundle)
    else:
        command = model.bundle.calibrate_command(model.dimension)
    return [Promise(**content) for content in stored], command


def promises_of_hybrid(link: HybridLink, embedder: Embedder, index: Index) -> Promises:
    """Return the promises of an index's hybrid model."""
    return link.promises, f"relsdk calibrate {embedder.bundle.path} PAIRS --index {index.path}"


def least_share(promises: Promises, level: int, precision: float) -> float:
    """Return the lowest P(level >= `level`) of hits that keep a precision.

    Raises:
        CalibrationError: Nothing as high is promised; the message says what is, and the command to run.
    """
    made, command = promises
    found = [one for one in made if one.level == level and one.precision >= precision]
    if found:
        return min(one.threshold for one in found)
    told = ", ".join(f"{one.precision:g} for level >= {one.level}" for one in made) or "none"
    raise CalibrationError(
        f"no precision of {precision:g} for level >= {level} is promised (promised are: {told}); "
        f"run: {command} --target-precision {precision:g} --level {level}"
    )
