"""What a server refused, as relsdk's own errors.

A server names a class; which classes there are is written here, so that it can name no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from relsdk.errors import (
    BundleError,
    CalibrationError,
    EncoderMismatchError,
    IndexFolderError,
    InputError,
    LockedError,
    RelsdkError,
    ServerError,
    TruncationError,
)

__all__ = ["error_of", "wrong_answer"]

_CLASSES: dict[str, type[RelsdkError]] = {
    kind.__name__: kind
    for kind in (
        BundleError,
        CalibrationError,
        EncoderMismatchError,
        IndexFolderError,
        InputError,
        LockedError,
        TruncationError,
    )
}
# Of a "RequestError": the caller asked for what is not there, or too much.
_CALLERS = ("invalid_request", "not_found", "too_large", "input_failed", "too_long")
# Of answers that are not relsdk's: of a gateway, or of another server.
_CODES = {401: "unauthorized", 403: "forbidden", 429: "overloaded", 502: "unavailable", 503: "unavailable"}
_REMEDIES = {
    "overloaded": "send less at once, allow more time (timeout=, max_retries=), or give the server more CPUs",
    "unauthorized": "pass the key as key=, or set RELSDK_KEY",
    "forbidden": "use a key that may write",
}


class _Error(msgspec.Struct):
    message: str
    type: str
    code: str


class _ErrorBody(msgspec.Struct):
    error: _Error


def error_of(
    url: str,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    times: str,
    clean: Callable[[str], str],
) -> RelsdkError:
    """Return the error for an answer that is none of success.

    Args:
        url: The address.
        status: Of HTTP.
        headers: Names in lower case.
        content: The body.
        times: How often it was tried, for the message.
        clean: Makes a text of a stranger's fit for a message.
    """
    try:
        error = msgspec.json.decode(content, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        shown = clean(content[:200].decode("utf-8", "replace")).strip()
        said = f": {shown}" if shown else ""
        message = f"{url} answered {status}{times}, not as a relsdk server does{said}; is the address right?"
        return ServerError(message, status=status, code=_CODES.get(status, "wrong_answer"))
    message, code = clean(error.message), clean(error.code)
    kind = _CLASSES.get(error.type, InputError if code in _CALLERS else None)
    if kind is not None:
        return kind(message)
    remedy = f"; {_REMEDIES[code]}" if code in _REMEDIES else ""
    request = clean(headers.get("x-request-id", ""))
    told = f" (request {request})" if request else ""
    return ServerError(f"{url} answered {status}{times}: {message}{told}{remedy}", status=status, code=code)


def wrong_answer(url: str, status: int, what: str) -> ServerError:
    """Return the error for an answer of success that says nothing usable."""
    message = f"the answer of {url} is wrong: {what}; is it a relsdk server of this version?"
    return ServerError(message, status=status, code="wrong_answer")
