"""The routes of text-embeddings-inference, so that its clients change their address only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from relsdk.bundle import Bundle
from relsdk.levels import RelevanceLevel
from relsdk.models.embedder import Embedder
from relsdk_serve._bodies import (
    EmbedRequest,
    Prediction,
    PredictRequest,
    RootRequest,
    SimilarityInputs,
    SimilarityParameters,
    SimilarityRequest,
    TeiRank,
    TeiRequest,
    TeiRerankRequest,
    Token,
    TokenizeRequest,
)
from relsdk_serve._embeddings import check_count, cut, encode_texts, text_inputs
from relsdk_serve._faults import RequestError
from relsdk_serve._grades import Graded, grade_pairs, relevance_score
from relsdk_serve._http import Call, Reply, encoded, json_reply
from relsdk_serve._runner import parts_of

__all__ = ["embed", "predict", "rank_texts", "root", "similarity", "tokenize"]


def _encoder(call: Call) -> Embedder:
    """Return the encoder, and note which one for metrics and logs."""
    model = call.service.catalogue.model(None, "encoder")
    call.facts["model"] = model.name
    return model.encoder


async def embed(call: Call) -> Reply:
    """Encode texts."""
    request = call.body(EmbedRequest)
    embedder = _encoder(call)
    texts = text_inputs(request.inputs, "inputs")
    check_count(call, len(texts))
    truncate = _truncate(request, embedder.bundle)
    if request.dimensions is not None and request.dimensions > embedder.dimension:
        raise RequestError(400, f"dimensions is {request.dimensions}; the model has {embedder.dimension}")
    vectors = await encode_texts(
        call,
        embedder,
        texts,
        request.prompt_name,
        truncate,
        normalize=request.normalize,
    )
    return json_reply(await encoded(cut(vectors, request.dimensions), np.ndarray.tolist))


async def similarity(call: Call) -> Reply:
    """Compare a text with others: a cosine each."""
    request = call.body(SimilarityRequest)
    parameters = request.parameters or SimilarityParameters()
    embedder = _encoder(call)
    texts = [request.inputs.source_sentence, *text_inputs(request.inputs.sentences, "inputs.sentences")]
    check_count(call, len(texts))
    truncate = _truncate(parameters, embedder.bundle)
    vectors = await encode_texts(call, embedder, texts, parameters.prompt_name, truncate)
    return json_reply((vectors[1:] @ vectors[0]).tolist())


def _truncate(request: TeiRequest, bundle: Bundle) -> bool:
    """Whether texts that are too long are cut.

    Raises:
        RequestError: They would be cut at the other end than the model's.
    """
    asked, side = request.truncation_direction, bundle.settings.truncation_side
    if asked is not None and asked.lower() != side:
        raise RequestError(
            400,
            f"truncation_direction is {asked!r}; {bundle.name!r} cuts texts on the {side}: leave it out",
            param="truncation_direction",
        )
    return request.truncate is not False


async def rank_texts(call: Call) -> Reply:
    """Put texts into the order of their relevance."""
    request = call.body(TeiRerankRequest)
    model = call.service.catalogue.model(None)
    pairs = [(request.query, text) for text in request.texts]
    graded = await grade_pairs(call, model, pairs, _truncate(request, model.pair_model.bundle))
    order: list[int] = np.argsort(-graded.scores, kind="stable").tolist()
    return json_reply([_rank(graded, row, request) for row in order])


def _rank(graded: Graded, row: int, request: TeiRerankRequest) -> TeiRank:
    fields = graded.fields(row)
    fields.pop("expected_level", None)
    fields["score"] = fields["score"] if request.raw_scores else relevance_score(graded, row)
    return TeiRank(index=row, text=request.texts[row] if request.return_text else None, **fields)


async def predict(call: Call) -> Reply:
    """Classify pairs: the levels and their probabilities, the most probable first."""
    request = call.body(PredictRequest)
    pairs, single = _pairs(request.inputs)
    model = call.service.catalogue.model(None)
    graded = await grade_pairs(call, model, pairs, _truncate(request, model.pair_model.bundle))
    if graded.predictions is None:
        raise RequestError(400, f"the model {model.name!r} has no calibration, and so no classes")
    classes = [_classes(row) for row in graded.predictions.probabilities.tolist()]
    return json_reply(classes[0] if single else classes)


def _classes(probabilities: Sequence[float]) -> list[Prediction]:
    predictions = [
        Prediction(score=score, label=RelevanceLevel(level).name) for level, score in enumerate(probabilities)
    ]
    return sorted(predictions, key=lambda prediction: -prediction.score)


def _pairs(inputs: Any) -> tuple[list[tuple[str, str]], bool]:
    """Return (query, document) pairs, and whether there is but one: the forms that TEI takes."""
    if isinstance(inputs, list) and len(inputs) == 2 and all(isinstance(item, str) for item in inputs):
        return [(inputs[0], inputs[1])], True
    if isinstance(inputs, list) and inputs and all(isinstance(i, list) and len(i) == 2 for i in inputs):
        return [(query, text) for query, text in inputs], False
    raise RequestError(
        400,
        "inputs must be pairs of texts, [query, document] or [[query, document], ...]: this model reads both",
        param="inputs",
    )


async def tokenize(call: Call) -> Reply:
    """Cut texts into tokens."""
    request = call.body(TokenizeRequest)
    texts = text_inputs(request.inputs, "inputs")
    check_count(call, len(texts))
    model = _encoder(call)

    def work(part: Sequence[str]) -> list[list[Token]]:
        found = model.pieces(part, prompt_name=request.prompt_name, special_tokens=request.add_special_tokens)
        return [
            [
                Token(
                    id=piece.id,
                    text=piece.text,
                    special=piece.special,
                    start=None if piece.special else piece.start,
                    stop=None if piece.special else piece.end,
                )
                for piece in pieces
            ]
            for pieces in found
        ]

    tokens: list[list[Token]] = []
    for part in parts_of(texts):
        tokens += await call.service.runner.call("tokenize", partial(work, part), call.cost)
    return json_reply(await encoded(tokens, list))


async def root(call: Call) -> Reply:
    """Dispatch as TEI does at its root: rank query and texts; encode, compare or classify inputs."""
    request = call.body(RootRequest)
    if request.query is not None or request.texts is not None:
        return await rank_texts(call)
    has_encoder = any(model.embedder is not None for model in call.service.catalogue.models.values())
    if isinstance(request.inputs, SimilarityInputs):
        return await similarity(call)
    if request.inputs is None:
        raise RequestError(400, "give inputs, or query and texts", param="inputs")
    return await (embed(call) if has_encoder else predict(call))
