"""Vectors over HTTP: order, parts of long lists, wrong answers."""

import numpy as np
import pytest

from relsdk.client import Client
from relsdk.errors import InputError, ServerError, TruncationWarning
from tests.sdk.client.scripted_server import Reply, embeddings, limits, vector_of


def test_vectors_are_in_the_order_of_the_texts(connect, server):
    client = connect()
    texts = ["红烧肉", "a", "b"]
    vectors = client.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.flags.writeable
    assert np.array_equal(vectors, [vector_of(text) for text in texts])
    assert client.encode("a").shape == (4,)
    assert np.array_equal(client.encode_query("a"), vector_of("a"))
    assert [body.get("input_type") for body in server.bodies("/v1/embeddings")] == [None, None, "query"]


def test_no_text_gives_no_row(connect, server):
    assert connect().encode([]).shape == (0, 4)
    assert connect().encode([], dimensions=2).shape == (0, 2)
    with pytest.raises(InputError, match=r"has no encoder other; it has \['toy'\]"):
        connect(model="other").encode([])


def test_long_lists_go_in_parts_and_come_back_whole(connect, server):
    server.on("/info", limits(max_inputs=3))
    client = connect()
    texts = [f"text {number}" for number in range(10)]
    assert np.array_equal(client.encode(texts), [vector_of(text) for text in texts])
    assert [len(body["input"]) for body in server.bodies("/v1/embeddings")] == [3, 3, 3, 1]
    client.encode(texts)
    assert len([one for one in server.seen if one.path == "/info"]) == 1


def test_parts_also_fit_the_bytes_of_a_body(connect, server):
    server.on("/info", limits(max_body_bytes=1000))
    texts = ["红" * 100, "x" * 300, "y" * 300, "z" * 2000, "end"]
    assert connect().encode(texts).shape == (5, 4)
    sent = [one for one in server.seen if one.path == "/v1/embeddings"]
    assert [one.body["input"] for one in sent] == [texts[:2], texts[2:3], texts[3:4], texts[4:]]
    assert [int(one.headers["content-length"]) <= 1000 for one in sent] == [True, True, False, True]


def test_a_gateway_may_hide_the_limits(connect, server):
    server.on("/info", Reply(404, b"no"))
    client = connect()
    for _ in range(2):
        assert client.encode(["a", "b"]).shape == (2, 4)
    assert len([one for one in server.seen if one.path == "/info"]) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda body: body["data"].pop(), "1 vectors for 2 inputs"),
        (lambda body: body["data"][0].update(index=7), "2 vectors for 2 inputs, or not one for each"),
        (lambda body: body["data"][0].update(embedding="AAAAAA=="), "vector 1 has 1 numbers, and 4 are due"),
        (lambda body: body["data"][0].update(embedding="AAAAAAA="), "vector 1 has 1.25 numbers"),
        (lambda body: [row.update(embedding="") for row in body["data"]], "vector 0 has 0 numbers"),
        (lambda body: body["data"][0].update(embedding="AADAfwAAwH8AAMB/AADAfw=="), "vector 1 holds NaN"),
        (lambda body: body["data"][0].update(embedding=[1, 2]), r"at `\$.data\[0\].embedding`"),
        (lambda body: body["data"][0].update(embedding="*"), r"at `\$.data\[0\].embedding`"),
        (lambda body: body.pop("data"), "missing required field `data`"),
    ],
)
def test_wrong_vectors_are_refused(connect, server, change, problem):
    def wrong(seen):
        reply = embeddings(seen)
        change(reply.body)
        return reply

    server.on("/v1/embeddings", wrong)
    with pytest.raises(ServerError, match=problem) as caught:
        connect().encode(["a", "b"])
    assert (caught.value.status, caught.value.code) == (200, "wrong_answer")


def test_a_vector_of_another_dimension_than_asked_for_is_refused(connect):
    with pytest.raises(ServerError, match="vector 0 has 4 numbers, and 3 are due"):
        connect().encode("a", dimensions=3)


def test_a_model_that_changes_in_between_is_noticed(connect, server):
    server.on("/info", limits(max_inputs=1))
    short = {"data": [{"index": 0, "embedding": "AACAPwAAgD8="}], "truncated": 0}
    server.on("/v1/embeddings", embeddings, Reply(body=short))
    with pytest.raises(ServerError, match=r"changed its model .* of \[2, 4\] numbers"):
        connect().encode(["a", "b"])


def test_cut_texts_are_told_as_the_library_does(connect, server):
    server.on("/info", limits(max_inputs=2))

    def cut(seen):
        reply = embeddings(seen)
        reply.body["truncated"] = 1
        return reply

    server.on("/v1/embeddings", cut)
    client = connect()
    with pytest.warns(TruncationWarning, match="2 of 3 inputs exceed the model's limit") as caught:
        client.encode(["a", "b", "c"])
    assert caught[0].filename == __file__ or not isinstance(client, Client)
    client.encode("a", truncation="silent")
    client.encode("a", truncation="error")
    assert [body["truncate"] for body in server.bodies("/v1/embeddings")] == [True, True, True, "error"]
    with pytest.raises(InputError, match="truncation='no'; allowed are"):
        client.encode("a", truncation="no")
