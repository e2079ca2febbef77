"""The table of routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from relsdk_serve import _bodies as bodies
from relsdk_serve._documents import delete_document, delete_documents, get_document, put_documents
from relsdk_serve._embeddings import embeddings, list_models, show_model
from relsdk_serve._grades import grades, rerank
from relsdk_serve._health import home, info, livez, metrics, openapi_handler, page_file, readyz
from relsdk_serve._http import App, Endpoint
from relsdk_serve._jobs import Lane
from relsdk_serve._openapi import openapi_document
from relsdk_serve._search import search
from relsdk_serve._service import Access, Service
from relsdk_serve._tei import embed, predict, rank_texts, root, similarity, tokenize

__all__ = ["make_app", "route_paths"]

_NOW = Lane.INTERACTIVE
_HEALTH = {200: bodies.HealthAnswer, 503: bodies.HealthAnswer}


def _model_routes() -> list[Endpoint]:
    """Return the routes of models: relsdk's own, and those of OpenAI, Cohere and TEI."""
    vectors, ranks = list[list[float]], list[bodies.TeiRank]
    predictions = list[bodies.Prediction | list[bodies.Prediction]]
    embeddings_answers = {200: bodies.EmbeddingsAnswer}
    rerank_answers = {200: bodies.RerankAnswer}
    return [
        Endpoint(
            *("POST", "/v1/embeddings", embeddings, "Encode texts (OpenAI)"),
            lane=_NOW,
            request=bodies.EmbeddingsRequest,
            answers=embeddings_answers,
        ),
        Endpoint("GET", "/v1/models", list_models, "List the models", answers={200: bodies.ModelList}),
        Endpoint("GET", "/v1/models/{name}", show_model, "Show a model", answers={200: bodies.ModelCard}),
        *(
            Endpoint(
                *("POST", path, rerank, "Rank documents for a query (Cohere, Jina)"),
                lane=_NOW,
                request=bodies.RerankRequest,
                answers=rerank_answers,
            )
            for path in ("/v1/rerank", "/v2/rerank")
        ),
        Endpoint(
            *("POST", "/v1/grade", grades, "Grade pairs of query and document"),
            lane=_NOW,
            request=bodies.GradeRequest,
            answers={200: bodies.GradeAnswer},
        ),
        *(
            Endpoint(
                *("POST", path, handler, summary),
                lane=_NOW,
                request=request,
                answers={200: answer},
                tei=True,
            )
            for path, handler, summary, request, answer in (
                ("/embed", embed, "Encode texts (TEI)", bodies.EmbedRequest, vectors),
                ("/similarity", similarity, "Compare texts (TEI)", bodies.SimilarityRequest, list[float]),
                ("/rerank", rank_texts, "Rank texts for a query (TEI)", bodies.TeiRerankRequest, ranks),
                ("/predict", predict, "Classify pairs (TEI)", bodies.PredictRequest, predictions),
                (
                    *("/tokenize", tokenize, "Cut texts into tokens (TEI)"),
                    *(bodies.TokenizeRequest, list[list[bodies.Token]]),
                ),
                (
                    *("/", root, "Encode, rank or classify, by what is sent (TEI)", bodies.RootRequest),
                    list[Any],
                ),
            )
        ),
    ]


def _index_routes() -> list[Endpoint]:
    """Return the routes of indexes."""
    one = {"access": Access.WRITE, "query": ("index",)}
    return [
        Endpoint(
            *("POST", "/v1/search", search, "Find documents"),
            lane=_NOW,
            request=bodies.SearchRequest,
            answers={200: bodies.SearchAnswer},
        ),
        Endpoint(
            *("POST", "/v1/documents", put_documents, "Add or replace documents"),
            access=Access.WRITE,
            request=bodies.DocumentsRequest,
            answers={200: bodies.WrittenAnswer, 202: bodies.AcceptedAnswer},
        ),
        Endpoint(
            *("POST", "/v1/documents/delete", delete_documents, "Delete documents"),
            access=Access.WRITE,
            request=bodies.DeleteRequest,
            answers={200: bodies.DeletedAnswer, 202: bodies.AcceptedAnswer},
        ),
        Endpoint(
            *("GET", "/v1/documents/{id:path}", get_document, "Show a document"),
            query=("index",),
            answers={200: bodies.DocumentBody},
        ),
        Endpoint(
            *("DELETE", "/v1/documents/{id:path}", delete_document, "Delete a document"),
            **one,  # type: ignore[arg-type]
            answers={200: bodies.DeletedAnswer},
        ),
    ]


def _server_routes(document: Callable[[], bytes]) -> list[Endpoint]:
    """Return the routes of the server itself."""
    return [
        *(
            Endpoint("GET", path, handler, summary, access=Access.OPEN, models=False, answers=_HEALTH)
            for path, handler, summary in (
                ("/livez", livez, "Whether the process should be left alone"),
                ("/readyz", readyz, "Whether requests should be sent here"),
                ("/health", readyz, "The same as /readyz (TEI)"),
            )
        ),
        Endpoint(
            *("GET", "/info", info, "What is served, and the limits"),
            access=Access.INFO,
            answers={200: bodies.InfoAnswer},
        ),
        Endpoint("GET", "/metrics", metrics, "Metrics", access=Access.INFO, models=False, hidden=True),
        Endpoint(
            *("GET", "/openapi.json", openapi_handler(document), "The OpenAPI document"),
            access=Access.INFO,
            models=False,
            hidden=True,
        ),
        Endpoint("GET", "/", home, "The page", access=Access.OPEN, models=False, hidden=True),
        Endpoint(
            "GET",
            "/page/{name}",
            page_file,
            "A file of the page",
            access=Access.OPEN,
            models=False,
            hidden=True,
        ),
    ]


def _table(document: Callable[[], bytes]) -> list[Endpoint]:
    return [*_model_routes(), *_index_routes(), *_server_routes(document)]


def route_paths() -> list[str]:
    """Return the templates of all routes."""
    return list(dict.fromkeys(endpoint.path for endpoint in _table(bytes)))


def make_app(service: Service) -> App:
    """Return the ASGI application of a service."""
    content: list[bytes] = []

    def document() -> bytes:
        if not content:
            content.append(msgspec.json.encode(openapi_document(table, service.version)))
        return content[0]

    table = _table(document)
    return App(service, table)
