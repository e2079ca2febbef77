"""Grades and hits over HTTP: records of the library, wrong answers."""

import numpy as np
import pytest

from relsdk.errors import CalibrationError, InputError, ServerError
from relsdk.levels import RelevanceLevel
from relsdk.records import Document, Passage, Promise, Signals
from tests.sdk.client.scripted_server import Reply, limits

GRADE = {
    "score": 0.5,
    "level": 2,
    "level_name": "MOSTLY",
    "probabilities": [0.1, 0.2, 0.6, 0.1],
    "expected_level": 1.7,
}


def grades(seen):
    rows = [{**GRADE, "score": len(pair["document"]) / 10} for pair in seen.body["pairs"]]
    return Reply(body={"model": "toy", "grades": rows, "usage": {"total_tokens": 1}, "truncated": 0})


def test_pairs_become_predictions(connect, server):
    server.on("/info", limits(max_documents=2))
    server.on("/v1/grade", grades)
    predictions = connect(model="toy").predict([("q", "aaa"), ("q", "a"), ("q", "aa")])
    assert predictions.scores.tolist() == np.float32([0.3, 0.1, 0.2]).tolist()
    assert (predictions.scores.dtype, predictions.levels.dtype) == (np.float32, np.int64)
    assert predictions.probabilities.shape == (3, 4)
    assert predictions[1].level is RelevanceLevel.MOSTLY
    assert [body["model"] for body in server.bodies("/v1/grade")] == ["toy", "toy"]
    assert len(connect().predict([])) == 0


def test_documents_are_ranked(connect, server):
    server.on("/v1/grade", grades)
    ranked = connect().rank("q", ["a", "aaa", "aa"], top_k=2)
    assert [one.index for one in ranked] == [1, 2]
    with pytest.raises(InputError, match="documents is str; a list is needed"):
        connect().rank("q", "abc")
    with pytest.raises(InputError, match="top_k=0"):
        connect().rank("q", ["a"], top_k=0)


def test_a_model_without_levels_grades_nothing(connect, server):
    only_score = {
        "score": 0.5,
        "level": None,
        "level_name": None,
        "probabilities": None,
        "expected_level": None,
    }
    server.on("/v1/grade", Reply(body={"model": "toy", "grades": [only_score], "truncated": 0}))
    with pytest.raises(CalibrationError, match="toy gives scores and no levels"):
        connect().predict([("a", "b")])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"level": 4}, "Invalid enum value 4"),
        ({"level": None}, "a part of level, probabilities and expected_level is missing"),
        ({"probabilities": [0.1, 0.2, 0.6, 0.2]}, "sum to 1.1"),
        ({"probabilities": [0.1, 0.2, 0.7]}, "of length 4"),
        ({"expected_level": 1.9}, "their mean is 1.7, not the expected level, 1.9"),
        ({"score": None}, "Expected `float`, got `null`"),
    ],
)
def test_wrong_grades_are_refused(connect, server, change, problem):
    server.on("/v1/grade", Reply(body={"model": "toy", "grades": [{**GRADE, **change}], "truncated": 0}))
    with pytest.raises(ServerError, match=problem):
        connect().predict([("a", "b")])


def hit(identifier="1", **changes):
    return {
        **GRADE,
        **{"id": identifier, "title": "t", "text": "x", "metadata": {"a": [1]}},
        **{"passage": {"text": "x", "start": 0, "end": 1}},
        "signals": {"cosine": 0.5, "bm25": 1, "best_possible": 2.0, "dense_rank": 1, "lexical_rank": None},
        **changes,
    }


def result(*hits):
    return {
        **{"query": "q", "hits": list(hits), "order": "hybrid", "matching": 9, "candidates": 5, "scored": 1},
        **{"skipped": 2, "scored_hits": 1, "scanned": True, "elapsed_ms": 1.5, "steps": {"encode": 0.5}},
        "facets": {"kind": [{"value": "a", "count": 3}, {"value": 2.0, "count": 1}]},
        "nothing_relevant": 0.25,
        "outside": ["90 tokens, where the calibration had 2 to 20"],
    }


def searched(*results):
    return Reply(body={"index": "i", "model": "toy", "scorer": None, "generation": "7", "results": results})


PROMISE = Promise(2, 0.9, 0.95, 0.7, 0.5, 0.93, 300, 100)


def test_the_promise_of_an_answer_is_that_of_each_result(connect, server):
    answer = searched(result(hit()), result())
    server.on("/v1/search", Reply(body={**answer.body, "promise": PROMISE.to_dict()}))
    found = connect().search_batch(["a", "b"], min_precision=0.9)
    assert [one.promise for one in found] == [PROMISE] * 2
    assert all("the promised precision does not hold" in one.warnings[0] for one in found)  # both are outside
    assert server.bodies("/v1/search")[0]["min_precision"] == 0.9
    server.on("/v1/search", answer)  # of a server that does not name it
    assert [one.promise for one in connect().search_batch(["a", "b"], min_precision=0.9)] == [None] * 2
    server.on("/v1/search", Reply(body={**answer.body, "promise": {**PROMISE.to_dict(), "threshold": 2}}))
    with pytest.raises(ServerError, match=r"promise\.threshold"):
        connect().search_batch(["a", "b"], min_precision=0.9)


def test_hits_are_records_of_the_library(connect, server):
    server.on("/v1/search", searched(result(hit())))
    found = connect(index="i").search("q", 3, where={"n": {"lt": np.int64(3)}}, facets=["kind"], scorer=False)
    (one,) = found
    assert one.document == Document("1", "t", "x", {"a": [1]})
    assert (one.level, one.probabilities, one.score) == (2, (0.1, 0.2, 0.6, 0.1), 0.5)
    assert one.passage == Passage("x", 0, 1)
    assert one.signals == Signals(0.5, 1.0, 2.0, 1, None)
    assert one.cosine == 0.5
    assert found.outside == ("90 tokens, where the calibration had 2 to 20",)
    names = ("order", "matching", "candidates", "scored", "skipped", "scored_hits", "scanned", "elapsed_ms")
    assert [getattr(found, name) for name in names] == ["hybrid", 9, 5, 1, 2, 1, True, 1.5]
    assert found.nothing_relevant == 0.25
    assert (found.facets, found.steps, found.generation) == (
        {"kind": [("a", 3), (2.0, 1)]},
        {"encode": 0.5},
        "7",
    )
    assert server.bodies("/v1/search") == [
        {
            "query": "q",
            "k": 3,
            "offset": 0,
            "where": {"n": {"lt": 3}},
            "facets": ["kind"],
            "scorer": False,
            "index": "i",
        }
    ]


def test_a_batch_has_a_result_for_each_query(connect, server):
    server.on("/info", limits(max_inputs=2))
    server.on("/v1/search", searched(result(hit("1")), result(hit("2"))), searched(result()))
    results = connect().search_batch(["a", "b", "c"], where="n<3", index="j")
    assert [[one.document.id for one in hits] for hits in results] == [["1"], ["2"], []]
    assert [body["queries"] for body in server.bodies("/v1/search")] == [["a", "b"], ["c"]]
    assert connect().search_batch([]) == []


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (searched(), "0 results for 1 queries"),
        (searched(result(), result()), "2 results for 1 queries"),
        (searched(result(hit("1"), hit("2"))), "2 hits, and at most 1 were asked for"),
        (searched(result(hit(signals={"cosine": 1}))), "missing required field `bm25`"),
        (searched(result(hit(probabilities=None))), "is missing"),
    ],
)
def test_wrong_hits_are_refused(connect, server, reply, problem):
    server.on("/v1/search", reply)
    with pytest.raises(ServerError, match=problem):
        connect().search("q", 1)


def test_either_a_query_or_a_document_is_looked_for(connect, server):
    server.on("/v1/search", searched(result()))
    assert connect().search(like="1") == []
    assert server.bodies("/v1/search")[0]["like"] == "1"
    for arguments in ({}, {"query": "a", "like": "1"}):
        with pytest.raises(InputError, match="give either a query, or like"):
            connect().search(**arguments)
