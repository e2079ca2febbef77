"""Pairs of query and document with their levels: Cohere's rerank, and grading."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from relsdk.errors import CalibrationError
from relsdk.levels import RelevanceLevel
from relsdk.models.pair_model import Pair
from relsdk.models.relevance_scorer import Predictions, grade
from relsdk.records import Document
from relsdk_serve._bodies import (
    ApiVersion,
    BilledUnits,
    Grade,
    GradeAnswer,
    GradeRequest,
    PairDocument,
    RerankAnswer,
    RerankDocument,
    RerankMeta,
    RerankRequest,
    RerankResult,
    RerankText,
    TotalUsage,
    Truncate,
)
from relsdk_serve._catalogue import Model
from relsdk_serve._embeddings import check_count, may_truncate
from relsdk_serve._http import Call, Reply, json_reply

__all__ = ["Graded", "grade_pairs", "grades", "relevance_score", "rerank"]

_HIGHEST = 3


class Graded:
    """Scores of N pairs, with levels where the model has a calibration."""

    def __init__(self, scores: np.ndarray[Any, Any], predictions: Predictions | None) -> None:
        self.scores = scores
        self.predictions = predictions

    def fields(self, row: int) -> dict[str, Any]:
        """Return the fields of `Grade` of a row."""
        if self.predictions is None:
            return {"score": float(self.scores[row])}
        level = RelevanceLevel(int(self.predictions.levels[row]))
        return {
            "score": float(self.scores[row]),
            "level": int(level),
            "level_name": level.name,
            "probabilities": [round(p, 6) for p in self.predictions.probabilities[row].tolist()],
            "expected_level": round(float(self.predictions.expected_levels[row]), 6),
        }


def relevance_score(graded: Graded, row: int) -> float:
    """Return a number from 0 to 1 where there are levels: the expected level's share of the highest."""
    if graded.predictions is None:
        return float(graded.scores[row])
    return float(graded.predictions.expected_levels[row]) / _HIGHEST


async def grade_pairs(call: Call, model: Model, pairs: Sequence[Pair], truncate: Truncate) -> Graded:
    """Score pairs, and grade them where the model can."""
    check_count(call, len(pairs), documents=True)
    call.cost.truncate = may_truncate(truncate)
    call.facts["model"] = model.name
    pair_model = model.pair_model
    outputs = await call.service.runner.flow(pair_model.flow(pairs), call.cost)
    if not pair_model.is_calibrated:
        return Graded(outputs.scores, None)
    return Graded(outputs.scores, grade(outputs, pair_model.calibration))


async def rerank(call: Call) -> Reply:
    """Put documents into the order of their relevance."""
    request = call.body(RerankRequest)
    model = call.service.catalogue.model(request.model)
    documents = [_document(item) for item in request.documents]
    graded = await grade_pairs(
        call, model, [(request.query, document) for document in documents], request.truncate
    )
    order = np.argsort(-graded.scores, kind="stable")[: request.top_n]
    results = [
        RerankResult(
            index=row,
            relevance_score=relevance_score(graded, row),
            document=RerankText(text=_text(documents[row])) if request.return_documents else None,
            **graded.fields(row),
        )
        for row in order.tolist()
    ]
    version = "2" if call.endpoint is not None and call.endpoint.path.startswith("/v2") else "1"
    answer = RerankAnswer(
        id=uuid.uuid4().hex,
        model=model.name,
        results=results,
        meta=RerankMeta(api_version=ApiVersion(version=version), billed_units=BilledUnits()),
        usage=TotalUsage(total_tokens=call.cost.tokens),
        truncated=call.cost.truncated,
    )
    return json_reply(answer)


async def grades(call: Call) -> Reply:
    """Grade pairs."""
    request = call.body(GradeRequest)
    model = call.service.catalogue.model(request.model)
    if not model.pair_model.is_calibrated:
        try:
            _ = model.pair_model.calibration  # or the error that says how to get one
        except CalibrationError as error:
            raise CalibrationError(call.service.conceal(str(error))) from None
    pairs: list[Pair] = [(pair.query, _document(pair.document)) for pair in request.pairs]
    graded = await grade_pairs(call, model, pairs, request.truncate)
    answer = GradeAnswer(
        model=model.name,
        grades=[Grade(**graded.fields(row)) for row in range(len(pairs))],
        usage=TotalUsage(total_tokens=call.cost.tokens),
        truncated=call.cost.truncated,
    )
    return json_reply(answer)


def _document(item: str | RerankDocument | PairDocument) -> str | Document:
    return item if isinstance(item, str) else Document(id="", title=item.title, text=item.text)


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text
