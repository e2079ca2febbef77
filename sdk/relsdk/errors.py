"""Every error that relsdk raises on purpose, each a `RelsdkError`, and its one warning.

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
    "ServerError",
    "StoreError",
    "TrainingError",
    "TruncationError",
    "TruncationWarning",
]


class RelsdkError(Exception):
    """Something went wrong that the caller can act on."""


class InputError(RelsdkError, ValueError):
    """An argument or an input file is wrong: the message names the place and the remedy."""


class TruncationError(InputError):
    """A text is longer than the model's limit and the caller asked for an error."""


class TruncationWarning(UserWarning):
    """Some inputs were longer than the model's limit and were cut."""


class BundleError(RelsdkError):
    """A model folder is missing, damaged, foreign or of an unknown version."""


class CalibrationError(RelsdkError):
    """Levels were asked of a model that has no calibration, or the labels cannot support one."""


class IndexFolderError(RelsdkError):
    """An index folder is missing, damaged or of an unknown version."""


class StoreError(RelsdkError):
    """A vector store did not answer, or refused."""


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
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.feature, self.extra)  # else a pickle would hold the message


class TrainingError(RelsdkError):
    """Training cannot go on: numbers that are not finite, or a disk that is full."""


class ServerError(RelsdkError):
    """A server did not answer, refused, or answered something else than a relsdk server does.

    What it refuses because of the request itself is raised as in the library: `InputError` and the others.

    Args:
        message: For people.
        status: Of HTTP; None without an answer.
        code: "unreachable", "overloaded", "unavailable", "unauthorized", "forbidden", "wrong_answer", or what
            else the server calls it.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
