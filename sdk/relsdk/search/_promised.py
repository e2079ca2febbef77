"""The promise that keeps a wanted precision, of those of what grades the hits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from relsdk.calibration import HybridLink, Promise
from relsdk.errors import CalibrationError, InputError
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import PairModel
from relsdk.models.pooled_scorer import PooledScorer

__all__ = ["Promises", "choose_promise", "promises_of_hybrid", "promises_of_model"]


class Promises(NamedTuple):
    """What is promised, by what, and the command that promises more, up to what is to be promised."""

    made: Sequence[Promise]
    maker: str
    command: str


def promises_of_model(model: PairModel | Embedder) -> Promises:
    """Return the promises of a model's calibration."""
    if isinstance(model, PooledScorer):
        command = model.bundle.calibrate_command(model.embedder.dimension, model.embedder.bundle)
    else:
        command = model.bundle.calibrate_command(model.dimension)
    return Promises(model.variant.promises_of(model.calibration_key), model.variant.name, command)


def promises_of_hybrid(link: HybridLink, embedder: Embedder, index: Index) -> Promises:
    """Return the promises of an index's hybrid model."""
    command = f"relsdk calibrate {embedder.bundle.path} PAIRS --index {index.path}"
    return Promises(link.promises, "the index", command)


def choose_promise(promises: Promises, level: int, precision: float) -> Promise:
    """Return the promise with the lowest threshold of those of a level that promise as much or more.

    Raises:
        InputError: No promise can be of this precision.
        CalibrationError: Nothing as high is promised; the message says what is, and the command to run.
    """
    if not 0 < precision < 1:
        raise InputError(f"min_precision={precision!r}; promises are of more than 0 and less than 1")
    found = [one for one in promises.made if one.level == level and one.precision >= precision]
    if found:
        return min(found, key=lambda one: one.threshold)
    told = ", ".join(f"{one.precision:g} for level >= {one.level}" for one in promises.made)
    raise CalibrationError(
        f"no precision of {precision:g} for level >= {level} is promised by {promises.maker} "
        f"(promised are: {told or 'none'}); "
        f"run: {promises.command} {Promise.calibrate_options(promises.made, level, precision)}"
    )
