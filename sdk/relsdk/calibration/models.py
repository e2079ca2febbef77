"""The models: monotone maps from a score to the probability of each relevance level.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import CalibrationError, InputError
from relsdk.levels import NUM_LEVELS, cumulative_to_probabilities

__all__ = [
    "Calibration",
    "CumulativeLink",
    "Float",
    "Int",
    "Isotonic",
    "LogLinearPool",
    "Temperature",
    "as_logits",
    "as_scores",
    "calibration_from_dict",
    "method_name",
    "sigmoid",
    "split_outputs",
]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
# A level never seen near a score still gets this probability, so that one surprise costs a finite log loss.
_FLOOR = 1e-4
_BIAS_CORRECTED = "bias_corrected_temperature"
TRANSFORMS: dict[str, Callable[[Float], Float]] = {
    "identity": lambda scores: scores,
    "log_distance": lambda scores: np.asarray(-np.log(1.001 - np.minimum(scores, 1.0))),
}


class Calibration(Protocol):
    """A map from what a model gives for a pair to level probabilities."""

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score (N,), or each row of logits (N, C): (N, L)."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""


@dataclass(frozen=True, slots=True)
class CumulativeLink:
    """P(level >= k) = sigmoid(slope * x - cuts[k-1]); slope >= 0, cuts non-decreasing.

    Attributes:
        slope: Of the curves.
        cuts: Where they cross one half, times the slope.
        transform: x is the score itself ("identity"), or -log(1.001 - score) ("log_distance"): cosines of
            good pairs crowd towards 1, and there a step means more than below.
    """

    slope: float
    cuts: tuple[float, float, float]
    transform: str = "identity"

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        x = TRANSFORMS[self.transform](as_scores(outputs))  # (N,)
        logits = self.slope * x[:, None] - np.asarray(self.cuts)  # (N, L-1)
        return _floored(cumulative_to_probabilities(sigmoid(logits)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "cumulative_link",
            "transform": self.transform,
            "slope": self.slope,
            "cuts": list(self.cuts),
        }


@dataclass(frozen=True, slots=True)
class Isotonic:
    """P(level >= k) interpolated between the points of an isotonic regression, one row for each k."""

    scores: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        wanted = as_scores(outputs)
        curves = zip(self.scores, self.values, strict=True)
        cumulative = np.stack([np.interp(wanted, x, y) for x, y in curves], axis=1)  # (N, L-1)
        # The curves are fitted one by one and may cross; P(level >= k) cannot rise with k.
        return _floored(cumulative_to_probabilities(np.minimum.accumulate(cumulative, axis=1)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "isotonic",
            "scores": [list(row) for row in self.scores],
            "values": [list(row) for row in self.values],
        }


@dataclass(frozen=True, slots=True)
class Temperature:
    """A head's own probabilities with all logits divided by one number (Guo et al. 2017).

    With biases it is bias-corrected temperature scaling (Alexandari et al. 2020): levels may be more or less
    frequent among the pairs of the calibration than the head learned.

    Attributes:
        temperature: Above 0; 1 leaves the head as it is, more makes it less sure.
        ordinal: Three logits of P(level >= 1..3), made non-increasing by their running minimum, instead of
            four of P(level = 0..3).
        biases: Added to the divided logits, one each; none by default.
    """

    temperature: float = 1.0
    ordinal: bool = False
    biases: tuple[float, ...] = ()

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3): (N, 4) logits, or (N, 3) of an ordinal head -> (N, L)."""
        logits = as_logits(outputs, NUM_LEVELS - self.ordinal) / self.temperature
        if self.biases:
            logits = logits + np.asarray(self.biases)
        if self.ordinal:
            at_least = np.minimum.accumulate(sigmoid(logits), axis=1)  # (N, L-1)
            return _floored(cumulative_to_probabilities(at_least))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return _floored(odds / odds.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        scaled = {"temperature": self.temperature, "ordinal": self.ordinal}
        if not self.biases:
            return {"method": "temperature", **scaled}
        return {"method": _BIAS_CORRECTED, **scaled, "biases": list(self.biases)}


@dataclass(frozen=True, slots=True)
class LogLinearPool:
    """P(level) is proportional to P_scorer(level)^a * P_encoder(level)^b (Genest & Zidek 1986).

    Attributes:
        scorer: Of a cross-encoder's outputs.
        encoder: Of an encoder's cosine.
        weights: a and b, above 0.
    """

    scorer: Calibration
    encoder: Calibration
    weights: tuple[float, float]

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3): (N, C + 1), a head's C outputs and the cosine -> (N, L)."""
        judged, cosines = split_outputs(outputs)
        a, b = self.weights
        logs = a * np.log(self.scorer.probabilities(judged)) + b * np.log(self.encoder.probabilities(cosines))
        odds = np.exp(logs - logs.max(axis=1, keepdims=True))  # (N, L)
        return _floored(odds / odds.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "log_linear_pool",
            "scorer": self.scorer.to_dict(),
            "encoder": self.encoder.to_dict(),
            "weights": list(self.weights),
        }


def split_outputs(outputs: ArrayLike) -> tuple[Float, Float]:
    """Split (N, C + 1) into a head's outputs, (N, C) logits or (N,) scores, and cosines (N,)."""
    values = np.asarray(outputs, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise InputError(f"outputs of shape {values.shape}; a head's finite outputs and a cosine are needed")
    return (values[:, 0] if values.shape[1] == 2 else values[:, :-1]), values[:, -1]


def calibration_from_dict(content: Mapping[str, Any]) -> Calibration:
    """Read what `to_dict` wrote.

    Raises:
        CalibrationError: The content is damaged or of an unknown method.
    """
    try:
        if content["method"] == "cumulative_link":
            low, middle, high = (float(cut) for cut in content["cuts"])
            transform = content["transform"]
            if transform not in TRANSFORMS:
                raise ValueError(f"transform {transform!r}")
            return CumulativeLink(float(content["slope"]), (low, middle, high), transform)
        if content["method"] == "isotonic":
            return Isotonic(_rows(content["scores"]), _rows(content["values"]))
        if content["method"] in ("temperature", _BIAS_CORRECTED):
            return _temperature(content)
        if content["method"] == "log_linear_pool":
            scorer, encoder = (calibration_from_dict(content[name]) for name in ("scorer", "encoder"))
            a, b = (float(weight) for weight in content["weights"])
            if not (a > 0 and b > 0):
                raise ValueError(f"weights {a}, {b}")
            return LogLinearPool(scorer, encoder, (a, b))
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"the bundle's calibration is damaged ({error}); run: relsdk calibrate"
        ) from error
    raise CalibrationError(f"unknown calibration method {content['method']!r}; run: relsdk calibrate")


def _temperature(content: Mapping[str, Any]) -> Temperature:
    temperature, ordinal = float(content["temperature"]), bool(content["ordinal"])
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}")
    if content["method"] == "temperature":
        return Temperature(temperature, ordinal)
    biases = tuple(float(bias) for bias in content["biases"])
    if len(biases) != NUM_LEVELS - ordinal or not np.isfinite(biases).all():
        raise ValueError(f"biases {biases}")
    return Temperature(temperature, ordinal, biases)


def method_name(calibration: Calibration) -> str:
    """Return the name under which `fit_calibration` reports a model's loss."""
    content = calibration.to_dict()
    suffix = "" if content.get("transform", "identity") == "identity" else f"_{content['transform']}"
    return f"{content['method']}{suffix}"


def as_scores(scores: ArrayLike) -> Float:
    """Return scores as (N,) float64; raises `InputError` when one is not finite."""
    values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError("scores must be a list of finite numbers")
    return values


def as_logits(logits: ArrayLike, columns: int) -> Float:
    """Return logits as (N, columns) float64; raises `InputError` for another shape or what is not finite."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != columns or not np.isfinite(values).all():
        raise InputError(f"logits of shape {values.shape}; finite numbers in {columns} columns are needed")
    return values


def sigmoid(logits: Float) -> Float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float64)


def _floored(probabilities: Float) -> Float:
    lifted = probabilities * (1 - NUM_LEVELS * _FLOOR) + _FLOOR
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True), dtype=np.float64)


def _rows(content: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    rows = tuple(tuple(float(value) for value in row) for row in content)
    if len(rows) != NUM_LEVELS - 1 or not all(rows):
        raise ValueError("three curves are needed")
    return rows
