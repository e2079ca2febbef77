"""One request and its retries, without input or output: a generator of attempts, driven by either client.

The model is httpx's own `auth_flow`: whoever drives it sends what is yielded and passes back what came of it.
"""

from __future__ import annotations

import email.utils
import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeVar

from relsdk.client._errors import error_of, wrong_answer
from relsdk.errors import RelsdkError, ServerError

__all__ = ["Answer", "Attempt", "Exchange", "Flow", "Lost", "Outcome", "Request"]

Result = TypeVar("Result")

# Without a word of the server's: seconds before the first retry, doubled for each one after it.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 8.0
# Waits are up to so much longer than the server asks, or those it refused would all come back at once.
_SPREAD = 0.25
# The server, or a gateway before it, did not do what was asked.
_REFUSED = (429, 503)
# The gateway does not know whether the server did.
_UNKNOWN = (502, 504)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the server.

    Attributes:
        method: Of HTTP.
        path: Below the server's address, percent-encoded, from "/" on.
        body: JSON, or None.
        repeatable: Whether doing it twice leaves the server as doing it once: it is sent again when nobody
            knows whether the server did it.
    """

    method: str
    path: str
    body: bytes | None = None
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server, or a gateway before it, answered: status, headers (names in lower case), body."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """There was no answer.

    Attributes:
        reason: For people.
        sent: Whether the server may have got the request.
    """

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the driver does next: wait so many seconds, then send, for so many seconds at most."""

    request: Request
    wait: float
    timeout: float


Outcome = Answer | Lost
Flow = Generator[Attempt, Outcome, Result]


class Exchange:
    """Sends requests to one address until they are answered.

    Args:
        url: The address, without a slash at the end.
        key: Taken out of every message.
        timeout: Seconds for a request, its retries and the waits between them.
        max_retries: How often it is sent again.
        clock: What `timeout` is measured with: seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout: float,
        max_retries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.clock = clock
        self._key = key
        self._timeout = timeout
        self._max_retries = max_retries

    def send(self, request: Request, *, max_retries: int | None = None) -> Flow[Answer]:
        """Yield attempts; return the answer if it is one of success (2xx).

        Raises:
            RelsdkError: Any other, or none; see `relsdk.client._errors`.
        """
        most = self._max_retries if max_retries is None else max_retries
        end = self.clock() + self._timeout
        wait, tries = 0.0, 0
        while True:
            outcome = yield Attempt(request, wait, max(end - self.clock() - wait, 1e-3))
            tries += 1
            if isinstance(outcome, Answer) and 200 <= outcome.status < 300:
                return outcome
            wait = _wait(outcome, tries) if _may_be_sent_again(outcome, request) else math.inf
            left = end - self.clock()
            if tries > most or wait >= left:
                raise self._error(outcome, request, tries, None if wait < left else wait)

    def wrong(self, answer: Answer, what: str) -> ServerError:
        """Return the error for an answer that no relsdk server of this version gives."""
        return wrong_answer(self.url, answer.status, self._clean(what))

    def _error(self, outcome: Outcome, request: Request, tries: int, too_long: float | None) -> RelsdkError:
        """Say what the last attempt came to, and why there is no further one."""
        times = "" if tries == 1 else f" after {tries} tries"
        limit = f"timeout={self._timeout:g}"
        if too_long is not None and math.isfinite(too_long):
            times += f" (the next one, in {too_long:.1f} s, would be beyond {limit})"
        if isinstance(outcome, Lost):
            done = "" if request.repeatable or not outcome.sent else "; it may have been done or not"
            remedy = f"is a relsdk server running there? Limits of this client: {limit}, max_retries"
            message = f"no answer of {self.url}{times}: {self._clean(outcome.reason)}{done}; {remedy}"
            return ServerError(message, code="unreachable")
        return error_of(self.url, outcome.status, outcome.headers, outcome.content, times, self._clean)

    def _clean(self, text: str) -> str:
        """Return a text of a stranger's for a message: on one line, without the key, not too long."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = "".join(character if character.isprintable() else " " for character in text)
        return text if len(text) <= 2000 else f"{text[:2000]}..."


def _may_be_sent_again(outcome: Outcome, request: Request) -> bool:
    if isinstance(outcome, Lost):
        return request.repeatable or not outcome.sent
    return outcome.status in _REFUSED or (outcome.status in _UNKNOWN and request.repeatable)


def _wait(outcome: Outcome, tries: int) -> float:
    """Return the seconds before the next try: what the server asks for, or twice those before."""
    asked = _asked_wait(outcome.headers) if isinstance(outcome, Answer) else None
    least = min(_FIRST_WAIT * 2 ** (tries - 1), _LONGEST_WAIT) if asked is None else asked
    return least * (1 + _SPREAD * random.random())


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds or a date) asks for."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max((date - datetime.now(timezone.utc)).total_seconds(), 0.0)
    except (TypeError, ValueError):  # none, or without a zone
        return None
