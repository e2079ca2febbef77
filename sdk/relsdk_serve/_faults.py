"""Errors that only a server has, and the HTTP answer to every error."""

from __future__ import annotations

import errno
import logging
import math
import sqlite3
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from relsdk.errors import (
    BundleError,
    CalibrationError,
    EncoderMismatchError,
    IndexFolderError,
    InputError,
    LockedError,
    RelsdkError,
    StoreError,
    TruncationError,
)
from relsdk_serve._bodies import ErrorAnswer, ErrorDetail, TeiErrorAnswer
from relsdk_serve._engine import InputFailedError, OverloadedError

__all__ = ["CODES", "Fault", "FieldError", "NotFoundError", "RequestError", "fault_of"]

_LOG = logging.getLogger(__name__)
# What an error is called, by its status.
CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "locked",
    413: "too_large",
    415: "unsupported_media_type",
    422: "input_failed",
    429: "overloaded",
    431: "too_large",
    500: "internal",
    503: "unavailable",
    507: "disk_full",
}
_TEI_TYPES = {
    "overloaded": "overloaded",
    "internal": "backend",
    "unavailable": "unhealthy",
    "input_failed": "backend",
}
_RESTART = "; then restart the server"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The second is what a quota, and a file that may not grow, end as.
_FULL_SQLITE = ("database or disk is full", "disk I/O error")


class RequestError(RelsdkError):
    """A request that cannot be answered.

    Args:
        status: Of the answer; its code follows from it.
        message: What is wrong and what to do.
        param: The field that is at fault.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = dict(headers or {})


class NotFoundError(RequestError):
    """There is no such route, model, index or document."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class FieldError(InputError):
    """An error of the library in a field of a request.

    Args:
        message: What is wrong and what to do.
        param: The field.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Fault:
    """The answer to an error.

    Attributes:
        status: HTTP's.
        code: What programs look at.
        message: What people read.
        kind: The class of relsdk's error.
        param: The field that is at fault.
        headers: Of the answer.
    """

    status: int
    code: str
    message: str
    kind: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, *, tei: bool) -> bytes:
        """Return JSON as OpenAI's and Cohere's clients read it, or as those of TEI do."""
        answer: ErrorAnswer | TeiErrorAnswer
        if tei:
            answer = TeiErrorAnswer(
                error=self.message,
                error_type=_TEI_TYPES.get(self.code, "validation"),
                message=self.message,
                type=self.kind,
                code=self.code,
            )
        else:
            detail = ErrorDetail(message=self.message, type=self.kind, code=self.code, param=self.param)
            answer = ErrorAnswer(error=detail, message=self.message)
        return msgspec.json.encode(answer)


def fault_of(error: BaseException, conceal: Callable[[str], str] = str) -> Fault:
    """Return the answer to an error; what is a fault of the server itself is logged, and told without detail.

    Args:
        error: What was raised.
        conceal: Takes folders of this machine out of a message.
    """
    kind = type(error).__name__
    if isinstance(error, RequestError):  # its message is ours, and names no folder
        code = CODES.get(error.status, "invalid_request")
        return Fault(error.status, code, str(error), "RequestError", error.param, error.headers)
    if isinstance(error, OverloadedError):
        return Fault(429, CODES[429], str(error), kind, headers=_retry(error.retry_after))
    message = conceal(str(error))
    if isinstance(error, InputFailedError):
        _LOG.error("input %d: %s", error.row, conceal(str(error.__cause__ or error)))
        told = f"the model cannot run input {error.row}; leave it out, or change it"
        return Fault(422, CODES[422], told, kind, f"input[{error.row}]")
    if isinstance(error, TruncationError):
        return Fault(400, "too_long", message, kind)
    if isinstance(error, InputError | CalibrationError):
        param = getattr(error, "param", None)
        message += _RESTART if _asks_for_restart(error) else ""
        return Fault(400, CODES[400], message, kind if param is None else InputError.__name__, param)
    if isinstance(error, LockedError):
        return Fault(409, CODES[409], message, kind)
    if _is_full_disk(error):
        _LOG.error("the disk is full: %s", error)
        told = "the server's disk is full or refuses to be written; nothing was written"
        return Fault(507, CODES[507], told, "RelsdkError")
    if isinstance(error, EncoderMismatchError):
        _LOG.error("%s", error)
        return Fault(503, CODES[503], message, kind, headers=_retry(5))
    if isinstance(error, IndexFolderError | BundleError | StoreError):
        _LOG.error("%s", error)
        # Not a store's fault: damaged; or of a store, not there, or not whole yet.
        unusable = "an index or a model of the server cannot be used"
        what = "the vector store failed" if kind == "StoreError" else unusable
        return Fault(503, CODES[503], f"{what}; see its log", kind, headers=_retry(5))
    _LOG.error("a request failed: %s", "".join(traceback.format_exception(error)))
    return Fault(500, CODES[500], "an error of the server; see its log", "RelsdkError")


def _asks_for_restart(error: Exception) -> bool:
    """Tell whether what the message says to run changes a bundle: of an index the server sees a change."""
    told = str(error)
    return isinstance(error, CalibrationError) and "relsdk calibrate" in told and " --index " not in told


def _retry(seconds: float) -> dict[str, str]:
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1e3))}


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, sqlite3.OperationalError) and any(said in str(error) for said in _FULL_SQLITE):
            return True
        error = error.__cause__ or error.__context__
    return False
