"""OpenAI's routes: embeddings and the list of models."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.models.embedder import Embedder
from relsdk_serve._bodies import (
    EmbeddingItem,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ModelList,
    Truncate,
    Usage,
)
from relsdk_serve._faults import RequestError
from relsdk_serve._http import Call, Reply, encoded, json_reply
from relsdk_serve._jobs import Lane

__all__ = [
    "INTERACTIVE_INPUTS",
    "check_count",
    "cut",
    "embeddings",
    "list_models",
    "may_truncate",
    "show_model",
    "text_inputs",
]

# A request of more texts or queries waits in the bulk lane.
INTERACTIVE_INPUTS = 8
_SIDES = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "search_document": "document",
}


async def embeddings(call: Call) -> Reply:
    """Encode texts."""
    request = call.body(EmbeddingsRequest)
    model = call.service.catalogue.model(request.model, "encoder")
    embedder = model.encoder
    call.facts["model"] = model.name
    texts = text_inputs(request.input, "input")
    check_count(call, len(texts))
    if request.dimensions is not None and request.dimensions > embedder.dimension:
        raise RequestError(
            400,
            f"dimensions is {request.dimensions}; {model.name!r} has {embedder.dimension}",
            param="dimensions",
        )
    prompt_name = request.prompt_name
    if request.input_type is not None:
        if prompt_name is not None:
            raise RequestError(400, "give input_type or prompt_name, not both", param="prompt_name")
        prompt_name = embedder.known_prompt(_SIDES[request.input_type])
    vectors = await encode_texts(call, embedder, texts, prompt_name, request.truncate)
    vectors = cut(vectors, request.dimensions)

    def item(row: tuple[int, NDArray[np.float32]]) -> EmbeddingItem:
        return EmbeddingItem(index=row[0], embedding=_value(row[1], request.encoding_format))

    answer = EmbeddingsAnswer(
        data=await encoded(enumerate(vectors), item),
        model=model.name,
        usage=Usage(prompt_tokens=call.cost.tokens, total_tokens=call.cost.tokens),
        truncated=call.cost.truncated,
    )
    return json_reply(answer)


async def encode_texts(
    call: Call,
    embedder: Embedder,
    texts: Sequence[str],
    prompt_name: str | None,
    truncate: Truncate,
    *,
    normalize: bool | None = True,
) -> NDArray[np.float32]:
    """Encode the texts of a request, many of them in the bulk lane; (N, D)."""
    call.cost.truncate = may_truncate(truncate)
    if len(texts) > INTERACTIVE_INPUTS:
        call.cost.lane = Lane.BULK
        call.service.engine.admit(Lane.BULK)
    return await call.service.runner.encode(embedder, texts, prompt_name, call.cost, normalize=normalize)


def cut(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Keep the first coordinates of vectors (N, D), and give them unit length again."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    unit: NDArray[np.float32] = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
    return unit


def may_truncate(wanted: Truncate | None) -> bool:
    """Whether texts that are too long are cut; False and "error" make them an error."""
    return wanted is None or wanted is True


def text_inputs(value: str | Sequence[Any], name: str) -> list[str]:
    """Return the texts of a request.

    Raises:
        RequestError: They are token lists, or not only texts.
    """
    if isinstance(value, str):
        return [value]
    for position, item in enumerate(value):
        if isinstance(item, int | list):
            raise RequestError(
                400,
                f"{name} holds token ids, of the vocabulary of another model; send text. LangChain: "
                "OpenAIEmbeddings(check_embedding_ctx_length=False)",
                param=f"{name}[{position}]",
            )
        if not isinstance(item, str):
            raise RequestError(400, f"{name}[{position}] is no text", param=f"{name}[{position}]")
    if not value:
        raise RequestError(400, f"{name} is empty; send at least one text", param=name)
    return list(value)


def check_count(call: Call, count: int, *, documents: bool = False) -> None:
    """Refuse a request of too many inputs."""
    limits = call.service.settings.limits
    most, what, option = (
        (limits.documents, "documents", "--max-documents")
        if documents
        else (limits.inputs, "inputs", "--max-inputs")
    )
    if count > most:
        raise RequestError(
            413,
            f"the request has {count:,} {what}; at most {most:,} are taken: split it, or start the server "
            f"with a larger {option}",
        )


def _value(vector: NDArray[np.float32], encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
    return vector.tolist()


async def list_models(call: Call) -> Reply:
    """List the models."""
    return json_reply(ModelList(data=[model.card() for model in call.service.catalogue.models.values()]))


async def show_model(call: Call) -> Reply:
    """Show one model."""
    name = call.path("name")
    if not name:
        raise InputError("name a model")
    return json_reply(call.service.catalogue.model(name).card())
