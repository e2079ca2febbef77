"""The name of a calibration inside a bundle."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CalibrationKey"]

_PAIR = "pair"


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """The name of a calibration of an ONNX file.

    An encoder has one for each dimension of its vectors, and a scorer one of its own and one for each encoder
    that it is pooled with. `relsdk.json` has them as "384", "pair" and "pair+FINGERPRINT@384".

    Attributes:
        dimension: Of the encoder's vectors; None for a scorer alone.
        pooled_with: Fingerprint of the encoder that a scorer is pooled with; empty without one.
    """

    dimension: int | None = None
    pooled_with: str = ""

    def __str__(self) -> str:
        if self.pooled_with:
            return f"{_PAIR}+{self.pooled_with}@{self.dimension}"
        return _PAIR if self.dimension is None else str(self.dimension)
