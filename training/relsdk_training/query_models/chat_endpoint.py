"""Questions to a chat model behind an OpenAI-compatible endpoint, through the `openai` package."""

from __future__ import annotations

import json
import os
import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from relsdk.errors import InputError, MissingExtraError, TrainingError
from relsdk_training.config.ssra import EndpointConfig
from relsdk_training.query_models._in_order import map_in_order
from relsdk_training.query_models._recording import Question, open_recording

__all__ = ["ChatEndpoint", "UselessAnswers", "open_endpoint", "without_thoughts"]

# How often a request that failed is sent again; openai waits 40 seconds in all.
_RETRIES = 8
_LONGEST_WAIT = 86_400  # seconds
# Busy, timed out, in conflict with itself: openai sends the request again, as it does for statuses from 500.
_PASSING = (408, 409, 429)
# How content filters name themselves in a refusal; the conversation is at fault, not the request.
_FILTERED = ("content_filter", "contentfilter", "content_policy", "data_inspection_failed")
# When answers are of no use: none of the first ones was, or hardly any of the latest.
_FIRST, _LATEST, _HARDLY_ANY = 20, 100, 5
# More connections than that: the servers of one model batch no more.
_MOST_AT_ONCE = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)

T = TypeVar("T")
R = TypeVar("R")


class ChatEndpoint:
    """Asks a chat model over HTTP, and asks again when the endpoint is busy or broken.

    Redirects are not followed: documents go to the host that was named.

    A recording (`record`) keeps every answer as it comes, and answers what it has heard before: a run that
    was stopped goes on, and nothing is paid for twice. From a recording alone (`replay`) the same run gives
    the same result without an endpoint, a key or the package `openai`. The format is in `_recording.py`.

    Attributes:
        url: As given, without a slash at the end.
        model: As given.

    Args:
        url: What comes before `/chat/completions`, such as `http://localhost:8000/v1`; may be empty with
            `replay`.
        model: Name of the model, as the endpoint calls it; not empty.
        api_key_env: Environment variable that holds the key; empty sends no key.
        timeout: Seconds to wait for the endpoint to send something.
        retries: How often a failed request is sent again. Waits grow from half a second to 8; a Retry-After
            header that asks for a minute or less counts instead.
        at_once: How many of the items of `each` are asked about at the same time, 1 to 64.
        record: File that questions and answers are appended to; empty keeps none.
        replay: File of a former `record` that answers instead of the endpoint.

    Raises:
        InputError: The URL is not http(s), the model has no name, the key's variable is unset, a number is
            out of range, a recording cannot be read or written, or both are named.
        LockedError: Another process records into the same file.
        MissingExtraError: The package `openai` is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = "",
        timeout: float = 60.0,
        retries: int = _RETRIES,
        at_once: int = EndpointConfig.at_once,
        record: str | os.PathLike[str] = "",
        replay: str | os.PathLike[str] = "",
    ) -> None:
        if not (0 < timeout <= _LONGEST_WAIT and retries >= 0):
            raise InputError(
                f"timeout {timeout}, retries {retries}; a timeout above 0 and of at most a day "
                f"({_LONGEST_WAIT:,} seconds), and 0 or more retries are needed"
            )
        if not 1 <= at_once <= _MOST_AT_ONCE:
            raise InputError(f"at_once is {at_once}; 1 to {_MOST_AT_ONCE} is needed")
        if record and replay:
            raise InputError(
                f"record {record} and replay {replay}; name one: record also answers what it has heard before"
            )
        self.url = "" if replay and not url else _checked_url(url)
        if not model.strip():
            where = f"the endpoint {self.url}" if self.url else f"the recording {replay}"
            raise InputError(f"no model is named for {where}; say which one shall answer")
        self.model = model
        self._retries = retries
        self._at_once = at_once
        self._timeout = timeout
        if not replay:
            self._connect(api_key_env)
        file = record or replay
        self._recording = open_recording(file, append=bool(record)) if file else None
        self._asks = not replay

    def _connect(self, api_key_env: str) -> None:
        """Make a client; nothing is sent yet."""
        self._secret = _key(api_key_env) if api_key_env else ""
        try:
            import httpx  # with openai
            import openai  # half a second
        except ImportError as error:
            raise MissingExtraError("asking a language model over HTTP", "llm") from error
        self._openai = openai
        # openai takes keys and names of OpenAI's customers from the environment, which are not for any host.
        unsent = ["OpenAI-Organization", "OpenAI-Project", *([] if self._secret else ["Authorization"])]
        self._headers = dict.fromkeys(unsent, openai.Omit())
        # A connection for each thread stays open: httpcore's pool loses requests where it has to close some.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._at_once)
        client = openai.DefaultHttpxClient(follow_redirects=False, limits=limits)
        weakref.finalize(self, client.close)
        api = openai.OpenAI(
            base_url=self.url,
            api_key=self._secret or "none",
            timeout=self._timeout,
            max_retries=self._retries,
            http_client=client,
        )
        self._create = api.chat.completions.with_raw_response.create

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
            TrainingError: The endpoint refuses the request, or still fails after the last retry, or the
                recording cannot be written.
            InputError: The recording that is replayed lacks the answer.
        """
        return self._collect(messages, temperature, seed, samples, self._once)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """Ask about several things at the same time; yield the results in the order of the things.

        An error, Ctrl-C and `close` let the requests that have begun come to their end, for at most `timeout`
        seconds, so that their answers are recorded.

        Args:
            work: Makes a result from an item, by `ask`; called on `at_once` threads.
            items: What is asked about.

        Raises:
            RelsdkError: What `work` raises, of the first item that it fails for.
        """
        if self._asks:
            yield from map_in_order(work, items, at_once=self._at_once, patience=self._timeout)
        else:
            yield from map(work, items)

    def recorded(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int, samples: int = 1
    ) -> list[str] | None:
        """Return what `ask` would without asking anybody; None where the recording lacks an answer."""
        try:
            return self._collect(messages, temperature, seed, samples, self._heard)
        except LookupError:
            return None

    def _collect(
        self,
        messages: Sequence[Mapping[str, str]],
        temperature: float,
        seed: int,
        samples: int,
        answer: Callable[[Question], list[str]],
    ) -> list[str]:
        """Put the answers to one request after the other together."""
        said = [dict(message) for message in messages]
        answers: list[str] = []
        requests = 0
        most = samples
        while len(answers) < samples:  # each request but one gives at least one, so there are at most S + 1
            wanted = min(most, samples - len(answers))
            some = answer(Question(self.model, said, temperature, seed + requests, wanted))
            if not some:  # the endpoint gives one at a time
                most = 1
            answers += some
            requests += 1
        return answers[:samples]

    def _heard(self, question: Question) -> list[str]:
        """Return the answers that the recording has, or raise `LookupError`."""
        answers = None if self._recording is None else self._recording.get(question)
        if answers is None:
            raise LookupError
        return answers

    def _once(self, question: Question) -> list[str]:
        """Return the answers to one request, from the recording if it has them."""
        recording = self._recording
        if recording is None:
            return self._answers(question)
        with recording.alone(question):
            with suppress(LookupError):
                return self._heard(question)
            if not self._asks:
                raise recording.lacking(question)
            answers = self._answers(question)
            recording.add(question, answers)
            return answers

    def _answers(self, question: Question) -> list[str]:
        """Send one request until it is answered.

        Returns:
            At least one answer, as many as asked for when filtered; none where several at once are refused.
        """
        request: dict[str, Any] = {
            "model": question.model,
            "messages": question.messages,
            "temperature": question.temperature,
            "seed": question.seed,
            "n": question.samples,
        }
        for retry in range(self._retries + 1):
            if retry:
                time.sleep(min(2.0 ** (retry - 2), 8.0))
            try:
                body = self._create(extra_headers=self._headers, **request).http_response.text
            except self._openai.APIStatusError as error:
                return self._refused(error.response, request["n"])
            except self._openai.APIConnectionError as error:
                cause = error.__cause__ or error
                raise self._failure(f"{type(cause).__name__}: {cause}") from error
            if answers := _contents(body):
                return answers
        raise self._failure(f"a body without choices[].message.content: {self._shown(body)}")

    def _refused(self, response: Any, wanted: int) -> list[str]:
        """Return "" for each answer that was filtered, nothing where several are refused; else raise why."""
        status, text = response.status_code, response.text
        if status in _PASSING or status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise self._failure(f"status {status}: {self._shown(text)}{wait and f', Retry-After {wait}'}")
        if status == 400 and any(name in text.lower() for name in _FILTERED):
            return [""] * wanted
        if status in (400, 422) and wanted > 1:
            return []
        raise TrainingError(
            f"{self.url} refused the request with status {status}: {self._shown(text)}; check the URL, the "
            "model's name and the key; finished work is kept and the same command goes on from there"
        )

    def _failure(self, problem: str) -> TrainingError:
        return TrainingError(
            f"{self.url} failed, after up to {self._retries} retries, the last time with {problem}; "
            "finished work is kept and the same command goes on from there"
        )

    def _shown(self, body: str) -> str:
        """Return the start of a body for people: a proxy may send the key back, which is not for logs."""
        return repr((body.replace(self._secret, "***") if self._secret else body)[:200])


def open_endpoint(settings: EndpointConfig) -> ChatEndpoint:
    """Return the endpoint that settings describe; see `ChatEndpoint`."""
    return ChatEndpoint(
        settings.url,
        settings.name,
        api_key_env=settings.key_env,
        timeout=settings.timeout,
        at_once=settings.at_once,
        record=settings.record,
        replay=settings.replay,
    )


class UselessAnswers:
    """Counts answers that a caller cannot use, and says when asking on is a waste."""

    def __init__(self) -> None:
        self._useful: deque[bool] = deque(maxlen=_LATEST)

    def give_up(self, useful: bool) -> bool:
        """Count one more answer; return whether the first 20, or 96 of the latest 100, were of no use."""
        self._useful.append(useful)
        enough = _HARDLY_ANY if len(self._useful) == _LATEST else 1
        return len(self._useful) >= _FIRST and sum(self._useful) < enough


def _checked_url(url: str) -> str:
    if not url:
        raise InputError(
            "no endpoint is named; give its URL, such as http://localhost:8000/v1, or a recording to replay"
        )
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


def _contents(body: str) -> list[str]:
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
    return _THOUGHT.sub("", answer).rpartition("</think>")[2]  # some endpoints leave out how it begins
