"""HTTP: routes, requests read within limits, replies, and errors as answers."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from relsdk.typed_json import convert_json
from relsdk_serve._bodies import Strict
from relsdk_serve._engine import OverloadedError
from relsdk_serve._faults import Fault, NotFoundError, RequestError, fault_of
from relsdk_serve._jobs import Lane
from relsdk_serve._logs import RequestEntry
from relsdk_serve._runner import Cost
from relsdk_serve._service import Access, Service

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

__all__ = ["App", "Call", "Endpoint", "Reply", "encoded", "json_reply"]

Body = TypeVar("Body")
Item = TypeVar("Item")
Headers = list[tuple[bytes, bytes]]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# A larger request is worth to be given up when its client goes away.
_WATCHED_BYTES = 4096
_JSON = b"application/json"
_TURN_SECONDS = 0.005
_CLIENT_GONE = 499  # as nginx logs it; nobody gets it
_COMMON: Headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    body: bytes
    status: int = 200
    content_type: bytes = _JSON
    headers: Headers = field(default_factory=list)


def json_reply(answer: Any, status: int = 200) -> Reply:
    """Return an answer as JSON."""
    return Reply(msgspec.json.encode(answer), status)


async def encoded(items: Iterable[Item], answer: Callable[[Item], Any]) -> list[Any]:
    """Return the answers to items as JSON, in the form that a larger answer takes them in.

    Megabytes of numbers take the event loop a fifth of a second: other requests have their turn meanwhile.
    """
    parts: list[Any] = []
    began = time.monotonic()
    for item in items:
        if time.monotonic() - began > _TURN_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()
        parts.append(msgspec.Raw(msgspec.json.encode(answer(item))))
    return parts


@dataclass(frozen=True)
class Endpoint:
    """A row of the table of routes.

    Attributes:
        method: HTTP's.
        path: With {names} of its parameters.
        handler: Answers.
        summary: What it does, for the OpenAPI document.
        access: Who may call it.
        models: Whether it needs the models to be loaded.
        lane: Where its work waits; None for what runs no model.
        request: What its body holds; None without one.
        answers: What it answers, by status.
        tei: Whether errors have the form of text-embeddings-inference.
        query: Names of the parameters of its query string.
        hidden: Whether the OpenAPI document leaves it out.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    summary: str
    access: Access = Access.READ
    models: bool = True
    lane: Lane | None = None
    request: Any = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    tei: bool = False
    query: tuple[str, ...] = ()
    hidden: bool = False


class Call:
    """One request while it is answered.

    Attributes:
        service: What answers.
        endpoint: The route; None while it is not known.
        id: Names the request in answers and logs.
        started: In seconds of the monotonic clock.
        cost: What it asks of the models.
        facts: What else is logged of it: never a text.
    """

    __slots__ = (
        "_body",
        "_receive",
        "_scope",
        "cost",
        "endpoint",
        "facts",
        "id",
        "reply",
        "service",
        "started",
    )

    def __init__(self, service: Service, scope: Scope, receive: Receive) -> None:
        self.service = service
        self.endpoint: Endpoint | None = None
        self.started = time.monotonic()
        self.cost = Cost()
        self.facts: dict[str, Any] = {}
        self.reply: Reply | None = None
        self._scope, self._receive = scope, receive
        self._body = b""
        given = self.header(b"x-request-id")
        self.id = given.decode() if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()

    @property
    def headers(self) -> Headers:
        """All headers, their names in lower case."""
        headers: Headers = self._scope["headers"]
        return headers

    @property
    def method(self) -> str:
        """HTTP's method."""
        return str(self._scope["method"])

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    @property
    def size(self) -> int:
        """Bytes of its body, as far as it was read."""
        return len(self._body)

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of a name."""
        return next((value for key, value in self.headers if key == name), None)

    def path(self, name: str) -> str:
        """Return a parameter of the path."""
        return str(self._scope["path_params"][name])

    def query(self, name: str) -> str | None:
        """Return a parameter of the query string.

        Raises:
            RequestError: It is there twice, or not UTF-8.
        """
        try:
            values = parse_qs(
                self._scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict"
            ).get(name, [])
        except (UnicodeDecodeError, ValueError):
            raise RequestError(400, "the query string is not UTF-8; percent-encode it") from None
        if len(values) > 1:
            raise RequestError(400, f"{name!r} is there {len(values)} times; give it once", param=name)
        return values[0] if values else None

    async def read(self) -> None:
        """Read the body.

        Raises:
            RequestError: It is too large or too slow, or no JSON by its own account.
        """
        limits = self.service.settings.limits
        kind = (self.header(b"content-type") or _JSON).partition(b";")[0].strip().lower()
        if kind != _JSON and not kind.endswith(b"+json"):
            raise RequestError(
                415, f"the content type is {kind.decode('latin-1')!r}; application/json is needed"
            )
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limits.body:
            raise _too_large(int(announced), limits.body)
        await self._read(limits.body)

    async def _read(self, limit: int) -> None:
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(size, limit)
            parts.append(part)
            if not message.get("more_body", False):
                break
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)

    def body(self, kind: type[Body]) -> Body:
        """Return the body as a type.

        Raises:
            RequestError: It is no JSON, or of another type; the message names the field.
        """
        try:
            return msgspec.json.decode(self._body, type=kind)
        except msgspec.ValidationError as error:
            raise self._explained(kind, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            wrong = f"no JSON: {error}" if self._body else "empty; JSON is needed"
            raise RequestError(400, f"the body is {wrong}") from None

    def _explained(self, kind: type[Any], error: Exception) -> RequestError:
        """Say which field is wrong, and what is allowed."""
        if issubclass(kind, Strict):
            try:
                value = msgspec.json.decode(self._body)
                convert_json(
                    value,
                    kind,
                    where="the body",
                    error=RequestBodyError,
                    remedy="correct it",
                    verdict="is wrong",
                )
            except RequestBodyError as problem:
                # The bound alone does not say that a share is meant, and no percentage.
                share = "Expected `float` <" in str(problem)
                return RequestError(400, f"{problem} (such as 0.8, not 80)" if share else str(problem))
            except (msgspec.DecodeError, RecursionError):
                pass
        return RequestError(400, f"the body is wrong: {error}")

    async def gone(self) -> None:
        """Wait until the client has gone away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientGoneError(Exception):
    """The client went away before it was answered."""


class RequestBodyError(RequestError):
    """What `convert_json` raises for a body."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def _too_large(size: int, limit: int) -> RequestError:
    return RequestError(
        413,
        f"the body has {size:,} bytes or more; at most {limit:,} are taken: send less at once, or start the "
        "server with a larger --max-body",
    )


class _TextConvertor(PathConvertor):
    """A parameter that takes the whole rest of a path: an id may hold slashes and line ends."""

    regex = "(?s:.*)"


register_url_convertor("path", _TextConvertor())


class _Bound:
    """An endpoint as an ASGI application: checks what must hold before its handler runs."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["relsdk"]
        endpoint, service = self._endpoint, call.service
        call.endpoint = endpoint
        service.authorise(call.headers, endpoint.access)
        if endpoint.models:
            service.check_phase()
        if endpoint.lane is not None:
            call.cost.lane = endpoint.lane
            service.engine.admit(Lane.INTERACTIVE)
        if endpoint.method == "POST":
            await call.read()
        if call.size < _WATCHED_BYTES:
            call.reply = await endpoint.handler(call)
            return
        watcher = asyncio.ensure_future(self._watch(call, asyncio.current_task()))
        try:
            call.reply = await endpoint.handler(call)
        except asyncio.CancelledError:
            if watcher.done() and not watcher.cancelled():
                raise ClientGoneError from None
            raise
        finally:
            watcher.cancel()

    @staticmethod
    async def _watch(call: Call, task: asyncio.Task[Any] | None) -> None:
        await call.gone()
        if task is not None:
            task.cancel()


class App:
    """The ASGI application.

    Args:
        service: What answers.
        endpoints: The table of routes.
    """

    def __init__(self, service: Service, endpoints: list[Endpoint]) -> None:
        self.service = service
        bound = [(one, _Bound(one)) for one in endpoints]
        self._router = Router(
            [Route(one.path, endpoint=made, methods=[one.method]) for one, made in bound],
            redirect_slashes=False,
            default=_no_route,
        )
        # A path without parameters needs no search for its route.
        self._exact = {(one.method, one.path): made for one, made in bound if "{" not in one.path}
        self._refusable = {
            one.path.encode(): one for one in endpoints if one.lane is not None and one.method == "POST"
        }

    def refusal(self, method: bytes, target: bytes, headers: Headers) -> bytes | None:
        """Return the whole answer to a request that would wait too long; None to any other.

        Under overload this is what happens most: it is done before a request is made of the bytes.
        """
        endpoint = self._refusable.get(target) if method == b"POST" else None
        if endpoint is None:
            return None
        try:
            self.service.authorise(headers, endpoint.access)
            self.service.engine.admit(Lane.INTERACTIVE)
        except RequestError:  # a stranger learns that a key is needed, and nothing of the load
            return None
        except OverloadedError as error:
            call = Call(self.service, {"headers": headers, "method": "POST"}, _nothing)
            call.endpoint = endpoint
            reply = self._failed(call, fault_of(error))
            self._note(call, reply.status)
            lines = b"".join(b"%s: %s\r\n" % header for header in self._headers(call, reply))
            return b"HTTP/1.1 429 Too Many Requests\r\n%s\r\n%s" % (lines, reply.body)
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        call = Call(self.service, scope, receive)
        scope["relsdk"], scope["app"] = call, self
        try:
            answer = self._exact.get((scope["method"], scope["path"]), self._router)
            await answer(scope, receive, send)
            reply = call.reply or Reply(b"", 204)
        except ClientGoneError:
            self._note(call, _CLIENT_GONE)
            return
        except Exception as error:
            fault = fault_of(_known(error), self.service.conceal)
            reply = self._failed(call, fault)
        await self._send(call, reply, send)
        self._note(call, reply.status)

    def _note(self, call: Call, status: int) -> None:
        """Count and log a request."""
        cost = call.cost
        ran = cost.inputs > 0
        entry = RequestEntry(
            request_id=call.id,
            method=call.method,
            route="other" if call.endpoint is None else call.endpoint.path,
            status=status,
            ms=call.seconds * 1e3,
            queue_ms=round(cost.queued * 1e3, 3) if ran else None,
            tokens=cost.tokens if ran else None,
            inputs=cost.inputs if ran else None,
            truncated=cost.truncated if cost.truncated else None,
            **call.facts,
        )
        self.service.note(entry, cost)

    def _failed(self, call: Call, fault: Fault) -> Reply:
        call.facts["code"] = fault.code
        headers = [(name.encode(), value.encode("latin-1")) for name, value in fault.headers.items()]
        tei = call.endpoint is not None and call.endpoint.tei
        return Reply(fault.body(tei=tei), fault.status, headers=headers)

    async def _send(self, call: Call, reply: Reply, send: Send) -> None:
        headers = self._headers(call, reply)
        start: Message = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})

    def _headers(self, call: Call, reply: Reply) -> Headers:
        cost = call.cost
        timing = (
            f"queue;dur={cost.queued * 1e3:.2f}, run;dur={cost.ran * 1e3:.2f}, "
            f"total;dur={call.seconds * 1e3:.2f}"
        )
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", call.id.encode()),
            (b"server-timing", timing.encode()),
            *(_COMMON if not reply.headers else _with_defaults(reply.headers)),
        ]
        if self.service.draining:
            headers.append((b"connection", b"close"))
        return headers


def _with_defaults(headers: Headers) -> Headers:
    names = {name for name, _ in headers}
    return [*headers, *(header for header in _COMMON if header[0] not in names)]


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    hint = "/openapi.json names those there are"
    if scope["path"].startswith(("/v1/v1/", "/v1/v2/")):  # a client that adds the version itself
        hint = "leave /v1 out of the address that the client is given"
    raise NotFoundError(f"there is no such route; {hint}")


def _known(error: Exception) -> Exception:
    """Turn what the router raises into an error of ours."""
    if not isinstance(error, HTTPException):
        return error
    phrase = HTTPStatus(error.status_code).phrase.lower()
    allowed = (error.headers or {}).get("Allow", "")
    hint = f"; allowed: {allowed}" if allowed else ""
    return RequestError(error.status_code, f"{phrase}{hint}", headers=error.headers)
