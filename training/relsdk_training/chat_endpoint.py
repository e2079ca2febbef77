"""A client of OpenAI-compatible chat endpoints, with the standard library only."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPErrorProcessor, Request, build_opener

from relsdk.errors import InputError, TrainingError

__all__ = ["ChatEndpoint", "UselessAnswers", "without_thoughts"]

_LONGEST_WAIT = 3600.0  # seconds
# An answer may take so many timeouts, and be so many bytes: one that drips, or does not end, is none.
_TIMEOUTS_AN_ANSWER = 10
_LONGEST_ANSWER = 16 * 2**20
_PIECE = 2**16
# What may succeed later: busy, timed out, in conflict with itself, broken.
_PASSING = (408, 409, 429)
# How content filters name themselves in a refusal; the conversation is at fault, not the request.
_FILTERED = ("content_filter", "contentfilter", "content_policy", "data_inspection_failed")
# When answers are of no use: none of the first ones was, or hardly any of the latest.
_FIRST, _LATEST, _HARDLY_ANY = 20, 100, 5
_SURROGATE = re.compile("[\ud800-\udfff]")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


class ChatEndpoint:
    """Asks a chat model over HTTP, and asks again when the endpoint is busy or broken.

    Attributes:
        url: As given, without a slash at the end.
        model: As given.

    Args:
        url: What comes before `/chat/completions`, such as `http://localhost:8000/v1`.
        model: Name of the model, as the endpoint calls it; not empty.
        api_key_env: Environment variable that holds the key; empty sends no key.
        timeout: Seconds to wait for the endpoint to send something; an answer that is not whole after ten
            times as many counts as failed.
        retries: How often a failed request is sent again.
        first_wait: Seconds before the first retry; each further one waits twice as long, or as long as the
            server's Retry-After says when that is longer; at most an hour.
        sleep: Waits for so many seconds.

    Raises:
        InputError: The URL is not http(s), the model has no name, the key's variable is unset, or a number is
            out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = "",
        timeout: float = 60.0,
        retries: int = 5,
        first_wait: float = 1.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not (timeout > 0 and retries >= 0 and first_wait >= 0):
            raise InputError(
                f"timeout {timeout}, retries {retries}, first_wait {first_wait}; "
                "a timeout above 0 and 0 or more of the others are needed"
            )
        self.url = _checked_url(url)
        if not model.strip():
            raise InputError(f"no model is named for the endpoint {self.url}; say which one shall answer")
        self.model = model
        self._headers = {"Content-Type": "application/json", "User-Agent": "relsdk"}
        self._secret = _key(api_key_env) if api_key_env else ""
        if self._secret:
            self._headers["Authorization"] = f"Bearer {self._secret}"
        self._timeout = timeout
        self._retries = retries
        self._first_wait = first_wait
        self._sleep = sleep
        self._opener = build_opener(_EveryStatus)

    def ask(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int, samples: int = 1
    ) -> list[str]:
        """Return the model's answers to a conversation.

        An endpoint that gives fewer answers than asked for is asked for the rest with the next seed.

        Args:
            messages: Each with "role" and "content".
            temperature: Of sampling; 0 always takes the likeliest token.
            seed: Endpoints that know seeds give the same answers for the same one.
            samples: S answers.

        Returns:
            S answers, as the model wrote them; "" for one that a content filter held back.

        Raises:
            TrainingError: The endpoint refuses the request, or still fails after the last retry.
        """
        answers: list[str] = []
        requests = 0
        at_once = samples
        while len(answers) < samples:  # each request but one gives at least one, so there are at most S + 1
            body = {
                "model": self.model,
                "messages": [dict(message) for message in messages],
                "temperature": temperature,
                "seed": seed + requests,
                "n": min(at_once, samples - len(answers)),
            }
            try:
                answers += self._answers(body)
            except _SeveralRefusedError:
                at_once = 1
            requests += 1
        return answers[:samples]

    def _answers(self, body: Mapping[str, Any]) -> list[str]:
        """Send one request until it is answered; at least one answer, as many as asked for when filtered."""
        request = Request(
            f"{self.url}/chat/completions",
            data=json.dumps(body).encode(),
            headers=self._headers,
            method="POST",
        )
        wait, problem = self._first_wait, ""
        for retry in range(self._retries + 1):
            try:
                return self._try(request, int(body["n"]))
            except _FailedTryError as failure:
                problem = str(failure)
                if retry < self._retries:
                    self._sleep(min(max(wait, failure.wait), _LONGEST_WAIT))
                    wait = min(2 * wait, _LONGEST_WAIT)
        raise TrainingError(
            f"{self.url} failed, tried {self._retries + 1} times, the last time with {problem}; "
            "finished work is kept and the same command goes on from there"
        )

    def _try(self, request: Request, wanted: int) -> list[str]:
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                status, retry_after = response.status, response.headers.get("Retry-After", "")
                body = self._body(response)
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise _FailedTryError(f"{type(cause).__name__}: {cause}") from error
        start = repr(self._shown(body)[:200])
        if status in _PASSING or status >= 500:
            raise _FailedTryError(f"status {status}: {start}", _seconds(retry_after))
        if status == 400 and any(name in body.decode(errors="replace").lower() for name in _FILTERED):
            return [""] * wanted
        if status in (400, 422) and wanted > 1:
            raise _SeveralRefusedError
        if not 200 <= status < 300:
            raise TrainingError(
                f"{self.url} refused the request with status {status}: {start}; check the URL, the model's "
                "name and the key; finished work is kept and the same command goes on from there"
            )
        answers = _contents(body)
        if not answers:
            raise _FailedTryError(f"a body without choices[].message.content: {start}")
        return answers

    def _body(self, response: HTTPResponse) -> bytes:
        """Read an answer that comes piece by piece, each of them within the timeout."""
        end, body = time.monotonic() + _TIMEOUTS_AN_ANSWER * self._timeout, bytearray()
        while piece := response.read1(_PIECE):
            body += piece
            if len(body) > _LONGEST_ANSWER:
                raise _FailedTryError(f"an answer of more than {_LONGEST_ANSWER:,} bytes")
            if time.monotonic() > end:
                raise _FailedTryError(
                    f"an answer that is not whole after {_TIMEOUTS_AN_ANSWER * self._timeout:g} seconds"
                )
        if response.length:
            raise _FailedTryError(f"an answer that lacks its last {response.length:,} bytes")
        return bytes(body)

    def _shown(self, body: bytes) -> str:
        """Return a body as text for people: a proxy may send the key back, which is not for logs."""
        text = body.decode(errors="replace")
        return text.replace(self._secret, "***") if self._secret else text


class UselessAnswers:
    """Counts answers that a caller cannot use, and says when asking on is a waste."""

    def __init__(self) -> None:
        self._useful: deque[bool] = deque(maxlen=_LATEST)

    def give_up(self, useful: bool) -> bool:
        """Count one more answer; return whether the first 20, or 96 of the latest 100, were of no use."""
        self._useful.append(useful)
        enough = _HARDLY_ANY if len(self._useful) == _LATEST else 1
        return len(self._useful) >= _FIRST and sum(self._useful) < enough


class _FailedTryError(Exception):
    """A request that may succeed later; `wait` is how many seconds the server wants to be left alone."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class _SeveralRefusedError(Exception):
    """A request for several answers was refused; some endpoints give one at a time only."""


class _EveryStatus(HTTPErrorProcessor):
    """Returns every response; urllib's own would follow redirects and take the key along to another host."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        return response

    https_response = http_response


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        good = False
    plain = url.isascii() and url.isprintable() and not any(character in url for character in " ?#@")
    if not (good and plain):
        shown = re.sub(r"//.*@|[?].*", "***", url)  # a password or key is not for logs
        raise InputError(
            f"the endpoint is {shown!r}; an http or https URL is needed without key, space, ? and #, "
            "such as http://localhost:8000/v1"
        )
    return url.rstrip("/")


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key and key.isascii() and key.isprintable()):
        state = "holds characters that no key has" if key else "is not set"
        raise InputError(f"environment variable {variable} {state}; put the endpoint's API key into it")
    return key


def _seconds(retry_after: str) -> float:
    """Return a Retry-After header in seconds; 0 for its other form, a date, and for nonsense."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _contents(body: bytes) -> list[str]:
    """Return the text of each choice, "" for one without; nothing where the body is no answer."""
    try:
        messages = [choice["message"] for choice in json.loads(body)["choices"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    # Half of a surrogate pair, which a model's token may end in, cannot be written to a file.
    return [_SURROGATE.sub("\ufffd", text) if isinstance(text, str) else "" for text in contents]


def without_thoughts(answer: str) -> str:
    """Return what a reasoning model answers, without what it thought before."""
    return _THOUGHT.sub("", answer)
