"""Every error that relsdk raises on purpose, each a `RelsdkError`.

A message says what was got, what is allowed and what to do; the command line prints it on one line and exits
with code 2.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CalibrationError",
    "EncoderMismatchError",
    "IndexFolderError",
    "InputError",
    "LockedError",
    "MissingExtraError",
    "QualityError",
    "RelsdkError",
    "TrainingError",
    "TruncationError",
]


class RelsdkError(Exception):
    """Something went wrong that the caller can act on."""


class InputError(RelsdkError, ValueError):
    """An argument or an input file is wrong: the message names the place and the remedy."""


class TruncationError(InputError):
    """A text is longer than the model's limit and the caller asked for an error."""


class BundleError(RelsdkError):
    """A model folder is missing, damaged, foreign or of an unknown version."""


class CalibrationError(RelsdkError):
    """Levels were asked of a model that has no calibration, or the labels cannot support one."""


class IndexFolderError(RelsdkError):
    """An index folder is missing, damaged or of an unknown version."""


class EncoderMismatchError(RelsdkError):
    """An index was built by another encoder than the one that queries it."""


class LockedError(RelsdkError):
    """Another process is writing to the same folder."""


class QualityError(RelsdkError):
    """An exported model does not reproduce its checkpoint within the budget."""


class MissingExtraError(RelsdkError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What was asked for, in the user's words.
        extra: The relsdk extra that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages not installed here; run: pip install 'relsdk[{extra}]'")
        self.extra = extra


class TrainingError(RelsdkError):
    """Training cannot go on: numbers that are not finite, or a disk that is full."""
