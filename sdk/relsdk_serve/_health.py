"""Health, metrics, and what the server tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import msgspec

from relsdk.search.searcher import MAX_QUERY_CHARACTERS
from relsdk_serve._bodies import HealthAnswer, InfoAnswer, LimitsCard, ServerCard
from relsdk_serve._faults import NotFoundError
from relsdk_serve._http import Call, Headers, Reply, json_reply
from relsdk_serve._service import Phase, Service

__all__ = ["home", "info", "livez", "metrics", "page_file", "readyz"]

_BATCH_TOKENS = 1024
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".json": b"application/json",
}
# The page loads nothing from elsewhere, and nobody frames it.
_PAGE_HEADERS: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]


async def livez(call: Call) -> Reply:
    """Whether the process should be left alone: the loop turns and no worker hangs."""
    checks = call.service.health()
    sound = all(value == "ok" for value in checks.values())
    return json_reply(HealthAnswer(status="ok" if sound else "broken", checks=checks), 200 if sound else 503)


async def readyz(call: Call) -> Reply:
    """Whether requests should be sent here."""
    service = call.service
    checks = {"phase": service.phase.value, **service.health()}
    sound = service.phase is Phase.READY and all(value == "ok" for value in service.health().values())
    status: Any = "ok" if sound else "broken" if service.phase is Phase.READY else service.phase.value
    reply = json_reply(HealthAnswer(status=status, checks=checks), 200 if sound else 503)
    return reply if sound else Reply(reply.body, 503, headers=[(b"retry-after", b"1")])


async def metrics(call: Call) -> Reply:
    """All metrics, for Prometheus."""
    body, kind = call.service.render_metrics()
    return Reply(body, content_type=kind.encode())


async def info(call: Call) -> Reply:
    """What is served, and the limits."""
    service = call.service
    cards = [model.card() for model in service.catalogue.models.values()]
    encoders = [model for model in service.catalogue.models.values() if model.embedder is not None]
    first = cards[0] if cards else None
    settings = None if not encoders else encoders[0].encoder.bundle.encoder_settings
    server = await service.runner.call("info", lambda: server_card(service), call.cost)
    answer = InfoAnswer(
        model_id="" if first is None else first.id,
        model_sha=None if first is None else first.fingerprint,
        model_dtype="" if first is None else first.variant,
        model_type={"embedding": {"pooling": settings.pooling}} if settings else {"reranker": {}},
        max_input_length=0 if first is None else first.max_tokens,
        max_batch_tokens=_BATCH_TOKENS,
        max_client_batch_size=service.settings.limits.inputs,
        max_concurrent_requests=service.settings.limits.inputs,
        tokenization_workers=1,
        version=service.version,
        relsdk=server,
    )
    return json_reply(answer)


def server_card(service: Service) -> ServerCard:
    """Return what the server tells of itself."""
    limits, models = service.settings.limits, service.catalogue.models.values()
    return ServerCard(
        version=service.version,
        models=[model.card() for model in models],
        indexes=[served.card() for served in service.catalogue.indexes.values()],
        limits=LimitsCard(
            max_body_bytes=limits.body,
            max_inputs=limits.inputs,
            max_documents=limits.documents,
            max_wait_ms=None if limits.wait is None else limits.wait * 1e3,
            max_query_characters=MAX_QUERY_CHARACTERS,
        ),
        batch_invariant=all(model.pair_model.variant.quantisation == "int8" for model in models),
        workers=service.settings.workers,
    )


@lru_cache(maxsize=1)
def _page() -> dict[str, bytes]:
    folder = files("relsdk_serve") / "page"
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if "." in entry.name and f".{entry.name.rpartition('.')[2]}" in _TYPES
    }


def _page_reply(name: str) -> Reply:
    content = _page().get(name)
    if content is None:
        raise NotFoundError(f"there is no file {name!r}")
    kind = _TYPES[f".{name.rpartition('.')[2]}"]
    return Reply(content, content_type=kind, headers=_PAGE_HEADERS)


async def page_file(call: Call) -> Reply:
    """A file of the page."""
    return _page_reply(call.path("name"))


async def home(call: Call) -> Reply:
    """The page for a browser, and where to look for a program."""
    if b"text/html" in (call.header(b"accept") or b""):
        return _page_reply("index.html")
    pointers = {"server": "relsdk", "openapi": "/openapi.json", "info": "/info", "health": "/readyz"}
    return json_reply(pointers)


def openapi_handler(document: Callable[[], bytes]) -> Callable[[Call], Any]:
    """Return the handler of the OpenAPI document."""

    async def openapi(call: Call) -> Reply:
        return Reply(document())

    return openapi


def encoded(value: Any) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(value)
