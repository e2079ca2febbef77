"""Monotone maps from a score to the probability of each relevance level.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import CalibrationError, InputError, RelsdkError
from relsdk.levels import NUM_LEVELS, cumulative_to_probabilities
from relsdk.typed_json import convert_json

__all__ = [
    "FLOOR",
    "Calibration",
    "CumulativeLink",
    "Float",
    "Int",
    "Isotonic",
    "LogLinearPool",
    "PriorShift",
    "SplineLink",
    "Temperature",
    "Transform",
    "apply_floor",
    "as_logits",
    "as_scores",
    "calibration_from_dict",
    "expected_levels",
    "method_name",
    "sigmoid",
    "split_outputs",
]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
# A level never seen near a score still gets this probability, so that one surprise costs a finite log loss.
FLOOR = 1e-4
_PRIOR_SHIFT = "prior_shift"
_POOL = "log_linear_pool"
_BIAS_CORRECTED = "bias_corrected_temperature"
# Bounds of what is read, far beyond every fit: within them no probability overflows.
_Number = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]
_Slope = Annotated[float, msgspec.Meta(ge=0, le=1e100)]
_Scale = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
_Bias = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Transform = Literal["identity", "log_distance"]
_Curve = Annotated[tuple[_Number, ...], msgspec.Meta(min_length=1)]
_Knots = Annotated[tuple[_Number, ...], msgspec.Meta(min_length=2)]
_Shares = Annotated[tuple[_Share, ...], msgspec.Meta(min_length=1)]
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

    Bundles of former versions have it; `SplineLink` took its place.

    Attributes:
        slope: Of the curves.
        cuts: Where they cross one half, times the slope.
        transform: x is the score itself ("identity"), or -log(1.001 - score) ("log_distance"): cosines of
            good pairs crowd towards 1, and there a step means more than below.

    Raises:
        InputError: The cuts fall.
    """

    slope: _Slope
    cuts: tuple[_Number, _Number, _Number]
    transform: Transform = "identity"

    def __post_init__(self) -> None:
        if not self.cuts[0] <= self.cuts[1] <= self.cuts[2]:
            raise InputError(f"the cuts {self.cuts} must not fall")

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        x = TRANSFORMS[self.transform](as_scores(outputs))  # (N,)
        logits = self.slope * x[:, None] - np.asarray(self.cuts)  # (N, L-1)
        return apply_floor(cumulative_to_probabilities(sigmoid(logits)))

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
    """P(level >= k) interpolated between the points of an isotonic regression, one row for each k.

    Bundles of former versions have it; `SplineLink` took its place.

    Attributes:
        scores: Of the points, rising.
        values: P(level >= k) there, not falling.

    Raises:
        InputError: A row falls, or the rows are not of one shape.
    """

    scores: tuple[_Curve, _Curve, _Curve]
    values: tuple[_Shares, _Shares, _Shares]

    def __post_init__(self) -> None:
        for scores, values in zip(self.scores, self.values, strict=True):
            if len(scores) != len(values):
                raise InputError(f"a curve has {len(scores)} scores and {len(values)} values")
            if (np.diff(scores) <= 0).any() or (np.diff(values) < 0).any():
                raise InputError("the scores of a curve must rise, and its values must not fall")

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        wanted = as_scores(outputs)
        curves = zip(self.scores, self.values, strict=True)
        cumulative = np.stack([np.interp(wanted, x, y) for x, y in curves], axis=1)  # (N, L-1)
        # The curves are fitted one by one and may cross; P(level >= k) cannot rise with k.
        return apply_floor(cumulative_to_probabilities(np.minimum.accumulate(cumulative, axis=1)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "isotonic",
            "scores": [list(row) for row in self.scores],
            "values": [list(row) for row in self.values],
        }


@dataclass(frozen=True, slots=True)
class SplineLink:
    """P(level >= k) = sigmoid(f(x) - cuts[k-1]), with a monotone linear spline f; cuts non-decreasing.

    With one piece it is a cumulative link. Scores crowd where a model is sure, and there a little means much.

    Attributes:
        knots: x of the spline's knots, rising.
        values: f there, not falling. Beyond the outermost knots f goes on as in the outermost piece.
        cuts: f where P(level >= k) is one half.
        transform: x is the score, or the level that a head expects ("identity"), or of a score its
            -log(1.001 - score) ("log_distance").

    Raises:
        InputError: Knots, values or cuts fall, there are not as many values as knots, or two knots lie so
            close that f has no slope between them.
    """

    knots: _Knots
    values: _Knots
    cuts: tuple[_Number, _Number, _Number]
    transform: Transform = "identity"

    def __post_init__(self) -> None:
        if len(self.knots) != len(self.values):
            raise InputError(f"the spline has {len(self.knots)} knots and {len(self.values)} values")
        widths, rises = np.diff(self.knots), np.diff(self.values)
        if (widths <= 0).any() or (rises < 0).any():
            raise InputError("the knots of a spline must rise, and its values must not fall")
        with np.errstate(over="ignore"):
            if not np.isfinite(rises / widths).all():
                raise InputError("knots of the spline lie too close together")
        if not self.cuts[0] <= self.cuts[1] <= self.cuts[2]:
            raise InputError(f"the cuts {self.cuts} must not fall")

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3): scores (N,), (N, 4) logits, or (N, 3) of an ordinal head -> (N, L)."""
        x = TRANSFORMS[self.transform](expected_levels(outputs))  # (N,)
        knots, values = np.asarray(self.knots), np.asarray(self.values)
        slopes = np.diff(values) / np.diff(knots)
        below, above = np.minimum(x - knots[0], 0.0), np.maximum(x - knots[-1], 0.0)
        f = np.interp(x, knots, values) + slopes[0] * below + slopes[-1] * above
        return apply_floor(cumulative_to_probabilities(sigmoid(f[:, None] - np.asarray(self.cuts))))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "spline_link",
            "transform": self.transform,
            "knots": list(self.knots),
            "values": list(self.values),
            "cuts": list(self.cuts),
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

    Raises:
        InputError: There are biases, but not one for each logit.
    """

    temperature: _Scale = 1.0
    ordinal: bool = False
    biases: tuple[_Bias, ...] = ()

    def __post_init__(self) -> None:
        if self.biases and len(self.biases) != NUM_LEVELS - self.ordinal:
            raise InputError(f"{len(self.biases)} biases; {NUM_LEVELS - self.ordinal} are needed, or none")

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3): (N, 4) logits, or (N, 3) of an ordinal head -> (N, L)."""
        logits = as_logits(outputs, NUM_LEVELS - self.ordinal) / self.temperature
        if self.biases:
            logits = logits + np.asarray(self.biases)
        if self.ordinal:
            at_least = np.minimum.accumulate(sigmoid(logits), axis=1)  # (N, L-1)
            return apply_floor(cumulative_to_probabilities(at_least))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return apply_floor(odds / odds.sum(axis=1, keepdims=True))

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
        head_outputs, cosines = split_outputs(outputs)
        a, b = self.weights
        logs = a * np.log(self.scorer.probabilities(head_outputs)) + b * np.log(
            self.encoder.probabilities(cosines)
        )
        odds = np.exp(logs - logs.max(axis=1, keepdims=True))  # (N, L)
        return apply_floor(odds / odds.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": _POOL,
            "scorer": self.scorer.to_dict(),
            "encoder": self.encoder.to_dict(),
            "weights": list(self.weights),
        }


@dataclass(frozen=True, slots=True)
class PriorShift:
    """A calibration for a population in which levels are more or less frequent (Saerens et al. 2002).

    P(level) is proportional to the calibration's own, times the level's ratio.

    Attributes:
        calibration: As it was fitted on labelled pairs.
        ratios: Of each level, its share in the population over its share among the labelled pairs.
    """

    calibration: Calibration
    ratios: tuple[float, float, float, float]

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3): what the calibration takes -> (N, L)."""
        weighted = self.calibration.probabilities(outputs) * np.asarray(self.ratios)  # (N, L)
        return apply_floor(weighted / weighted.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": _PRIOR_SHIFT,
            "calibration": self.calibration.to_dict(),
            "ratios": list(self.ratios),
        }


def split_outputs(outputs: ArrayLike) -> tuple[Float, Float]:
    """Split (N, C + 1) into a head's outputs, (N, C) logits or (N,) scores, and cosines (N,)."""
    values = np.asarray(outputs, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise InputError(f"outputs of shape {values.shape}; a head's finite outputs and a cosine are needed")
    return (values[:, 0] if values.shape[1] == 2 else values[:, :-1]), values[:, -1]


class _Shift(msgspec.Struct, frozen=True):
    calibration: dict[str, Any]
    ratios: tuple[_Scale, _Scale, _Scale, _Scale]


class _Pool(msgspec.Struct, frozen=True):
    scorer: dict[str, Any]
    encoder: dict[str, Any]
    weights: tuple[_Scale, _Scale]


_METHODS: dict[str, type[CumulativeLink | Isotonic | SplineLink | Temperature]] = {
    "cumulative_link": CumulativeLink,
    "spline_link": SplineLink,
    "isotonic": Isotonic,
    "temperature": Temperature,
    _BIAS_CORRECTED: Temperature,
}


def calibration_from_dict(
    content: Mapping[str, Any],
    *,
    where: str = "the bundle's calibration",
    error: type[RelsdkError] = CalibrationError,
    remedy: str = "run: relsdk calibrate",
    at: str = "",
) -> Calibration:
    """Read what `to_dict` wrote.

    Args:
        content: The JSON form.
        where: Names the file.
        error: The class of what is raised.
        remedy: What to do about damaged content; ends the message.
        at: The path inside the file.

    Raises:
        CalibrationError: Of the class `error`: the method is unknown, a number is missing, not finite or out
            of bounds, or a curve falls.
    """

    def read(part: Any, at: str, inside: str = "") -> Calibration:
        fields = convert_json(part, dict[str, Any], where=where, error=error, remedy=remedy, at=at)
        method = fields.get("method")
        rest = {key: value for key, value in fields.items() if key != "method"}
        # A correction is the outermost, then comes a pool.
        nesting = {"": (_PRIOR_SHIFT, _POOL), _PRIOR_SHIFT: (_POOL,)}.get(inside, ())
        if method == _PRIOR_SHIFT and method in nesting:
            shift = convert_json(rest, _Shift, where=where, error=error, remedy=remedy, at=at)
            return PriorShift(read(shift.calibration, f"{at}.calibration", _PRIOR_SHIFT), shift.ratios)
        if method == _POOL and method in nesting:
            pool = convert_json(rest, _Pool, where=where, error=error, remedy=remedy, at=at)
            return LogLinearPool(
                read(pool.scorer, f"{at}.scorer", _POOL),
                read(pool.encoder, f"{at}.encoder", _POOL),
                pool.weights,
            )
        if not isinstance(method, str) or method not in _METHODS:
            known = [*_METHODS, *reversed(nesting)]
            place = f"{at}.method".lstrip(".")
            got = reprlib.repr(method)
            raise error(f"{where} is damaged: {place} = {got}; known are {', '.join(known)}; {remedy}")
        if method == _BIAS_CORRECTED and "biases" not in rest:
            raise error(f"{where} is damaged: {at or method} has no biases; {remedy}")
        kind = _METHODS[method]
        return convert_json(rest, kind, where=where, error=error, remedy=remedy, at=at)

    return read(content, at)


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


def expected_levels(outputs: ArrayLike) -> Float:
    """Return scores (N,) as they are; of (N, 4) logits, or (N, 3) of an ordinal head, the expected level."""
    values = np.asarray(outputs, dtype=np.float64)
    if values.ndim != 2:
        return as_scores(values)
    head = Temperature(ordinal=values.shape[1] == NUM_LEVELS - 1)
    return np.asarray(head.probabilities(values) @ np.arange(NUM_LEVELS), dtype=np.float64)


def sigmoid(logits: Float) -> Float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float64)


def apply_floor(probabilities: Float) -> Float:
    """Return probabilities (N, L) of which none is 0."""
    lifted = probabilities * (1 - NUM_LEVELS * FLOOR) + FLOOR
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True), dtype=np.float64)
