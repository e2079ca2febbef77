"""The interface of a model that gives a pair of query and document a number.

Shape letters: N pairs, C outputs of a head.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, CalibrationKey, Variant
from relsdk.calibration import Calibration
from relsdk.errors import InputError
from relsdk.models.steps import Flow
from relsdk.records import Document
from relsdk.runtime.verification import Verification

__all__ = ["Pair", "PairModel", "PairOutputs", "check_pairs"]

Pair = tuple[str, str | Document]


@dataclass(frozen=True, slots=True, eq=False)
class PairOutputs:
    """The outputs of a model for N pairs.

    Attributes:
        scores: (N,) float32, higher is better: what documents are ordered by.
        calibrated: What a calibration turns into level probabilities: the scores, or logits (N, C).
    """

    scores: NDArray[np.float32]
    calibrated: NDArray[np.float32]


class PairModel(Protocol):
    """An open bundle that gives pairs a number."""

    @property
    def bundle(self) -> Bundle:
        """The model folder."""

    @property
    def variant(self) -> Variant:
        """The ONNX file that runs."""

    @property
    def calibration_key(self) -> CalibrationKey:
        """The name of this model's calibration inside the variant."""

    @property
    def dimension(self) -> int | None:
        """Of an encoder's vectors; a cross-encoder has none."""

    @property
    def calibration(self) -> Calibration:
        """The map to level probabilities; raises `CalibrationError` when there is none."""

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibration` exists."""

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Judge N pairs, in their order."""

    def flow(self, pairs: Sequence[Pair], **options: Any) -> Flow[PairOutputs]:
        """Yield the steps of `outputs`."""

    def verify(self) -> Verification:
        """Check hashes and golden outputs."""

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """Run golden inputs, each alone or in one call."""


def check_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return N pairs; text of two characters is none.

    Raises:
        InputError: One is no pair, or its query no text.
    """
    result = list(pairs)
    for position, pair in enumerate(result):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"pair {position} is {reprlib.repr(pair)}; (query, document) is needed")
    return result
