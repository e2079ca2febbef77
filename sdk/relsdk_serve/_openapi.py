"""The OpenAPI document, made of the table of routes and the types of their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from relsdk_serve._bodies import ErrorAnswer, TeiErrorAnswer
from relsdk_serve._faults import CODES
from relsdk_serve._http import Endpoint
from relsdk_serve._service import Access

__all__ = ["openapi_document"]

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
# What may go wrong, beside what a row of the table says.
_ALWAYS = (500,)
_OF_BODY = (400, 408, 413, 415)
_OF_MODELS = (503,)
_OF_LANE = (422, 429)
_OF_KEY = (401,)


def openapi_document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a table of routes."""
    shown = [endpoint for endpoint in endpoints if not endpoint.hidden]
    kinds: list[Any] = [ErrorAnswer, TeiErrorAnswer]
    for endpoint in shown:
        kinds += [kind for kind in (endpoint.request, *endpoint.answers.values()) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    by_kind = {repr(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for endpoint in shown:
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "relsdk", "version": version, "description": "Search relevance: levels over HTTP."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{endpoint.handler.__name__}_{_slug(endpoint.path)}",
        "summary": endpoint.summary,
        "responses": _responses(endpoint, schemas),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(endpoint.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        for name in endpoint.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request is not None:
        content = {"application/json": {"schema": schemas[repr(endpoint.request)]}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.access is not Access.OPEN:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _responses(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    responses = {}
    for status, kind in endpoint.answers.items():
        content = {} if kind is None else {"application/json": {"schema": schemas[repr(kind)]}}
        responses[str(status)] = {
            "description": "Done." if status < 400 else "Not ready.",
            **({"content": content} if content else {}),
        }
    error = schemas[repr(TeiErrorAnswer if endpoint.tei else ErrorAnswer)]
    for status in _error_statuses(endpoint):
        if str(status) not in responses:
            responses[str(status)] = {
                "description": CODES[status].replace("_", " "),
                "content": {"application/json": {"schema": error}},
            }
    return responses


def _error_statuses(endpoint: Endpoint) -> list[int]:
    statuses = [*_ALWAYS]
    if endpoint.access is not Access.OPEN:
        statuses += _OF_KEY
    if endpoint.access is Access.WRITE:
        statuses += [403, 409, 507, 429, 422]
    if endpoint.request is not None:
        statuses += _OF_BODY
    if endpoint.query or "{" in endpoint.path or endpoint.request is not None:
        statuses += [400, 404]
    if endpoint.models:
        statuses += _OF_MODELS
    if endpoint.lane is not None:
        statuses += _OF_LANE
    return sorted(set(statuses))


def _slug(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_") or "root"
