"""Servers that are busy or broken, or none of relsdk's."""

import pickle
import socket
import time

import pytest

from relsdk import errors
from relsdk.errors import CalibrationError, InputError, LockedError, RelsdkError, ServerError, TruncationError
from relsdk.records import Document
from tests.sdk.client.scripted_server import Reply, embeddings, error, written

BUSY = {"retry-after": "9", "retry-after-ms": "30"}


def busy(**headers):
    return Reply(**error(429, "overloaded", "OverloadedError", "later"), headers={**BUSY, **headers})


def test_a_busy_server_is_asked_again_when_it_says(connect, server):
    server.on("/v1/embeddings", busy(), Reply(**error(503, "unavailable"), headers=BUSY), embeddings)
    started = time.monotonic()
    assert connect().encode("a").shape == (4,)
    assert 0.06 <= time.monotonic() - started
    assert len(server.bodies("/v1/embeddings")) == 3


def test_a_server_that_stays_busy_is_told_of(connect, server):
    server.on("/v1/embeddings", busy(**{"x-request-id": "r-7"}))
    with pytest.raises(ServerError) as caught:
        connect(max_retries=2).encode("a")
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert str(caught.value) == (
        f"{server.url} answered 429 after 3 tries: later (request r-7); send less at once, allow more time "
        f"(timeout=, max_retries=), or give the server more CPUs"
    )
    assert len(server.bodies("/v1/embeddings")) == 3


def test_nobody_waits_longer_than_the_time_limit(connect, server):
    server.on("/v1/embeddings", Reply(**error(503, "unavailable"), headers={"retry-after": "60"}))
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"503 \(the next one, in \d+\.\d s, would be beyond timeout=50\)"):
        connect(timeout=50).encode("a")
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 500, 507])
def test_what_the_server_refuses_is_not_sent_again(connect, server, status):
    server.on("/v1/embeddings", Reply(**error(status, "some"), headers=BUSY))
    with pytest.raises(ServerError, match=f"answered {status}: no") as caught:
        connect().encode("a")
    assert (caught.value.status, caught.value.code) == (status, "some")
    assert len(server.seen) == 1


DROPPED = [Reply(drop=True), Reply(body={"data": []}, missing=9)]


@pytest.mark.parametrize("broken", DROPPED, ids=["no answer", "half an answer"])
def test_broken_connections_are_tried_again_where_that_does_no_harm(connect, server, broken):
    server.on("/v1/embeddings", broken, embeddings)
    server.on("/v1/documents", broken, written)
    server.on("/v1/documents/delete", broken, Reply(body={"deleted": 1}))
    client = connect()
    assert client.encode("a").shape == (4,)
    assert client.upsert([Document("1", "a")]) == 1
    assert client.delete(["1"]) == 1
    server.on("/v1/documents/delete", broken, Reply(body={"deleted": 1}))
    with pytest.raises(
        ServerError, match=r"no answer .*; it may have been done or not; is a relsdk"
    ) as caught:
        client.delete(where="n<3")
    assert (caught.value.status, caught.value.code) == (None, "unreachable")
    assert len(server.bodies("/v1/documents/delete")) == 3


def test_a_gateway_that_lost_the_server_is_a_broken_connection(connect, server):
    lost = Reply(502, b"<html>bad gateway</html>")
    server.on("/v1/embeddings", lost, embeddings)
    server.on("/v1/documents/delete", lost)
    client = connect()
    assert client.encode("a").shape == (4,)
    with pytest.raises(
        ServerError, match="answered 502, not as a relsdk server does: <html>bad gateway"
    ) as caught:
        client.delete(where="n<3")
    assert caught.value.code == "unavailable"


def test_a_request_that_was_never_sent_may_be_sent_again(connect, server):
    """Nobody listens at first, so that even a deletion by filter is tried again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServerError, match=r"after 3 tries: ConnectError: .*is a relsdk server running there"):
        connect(url, max_retries=2).delete(where="n<3")


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(connect, server):
    server.on("/v1/embeddings", Reply(body={"data": ["x" * 1000]}, pause=0.02))  # 20 s
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"no answer .*no whole answer within"):
        connect(timeout=0.3).encode("a")
    assert time.monotonic() - started < 15


def test_a_server_that_never_answers_is_given_up(connect, server):
    server.on("/v1/embeddings", Reply(body={"data": []}, pause=2.0))  # 22 s
    started = time.monotonic()
    with pytest.raises(ServerError, match="no answer"):
        connect(timeout=0.3).encode("a")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("status", "code", "kind", "expected"),
    [
        (400, "invalid_request", "InputError", InputError),
        (400, "invalid_request", "RequestError", InputError),
        (404, "not_found", "RequestError", InputError),
        (413, "too_large", "RequestError", InputError),
        (422, "input_failed", "InputFailedError", InputError),
        (400, "too_long", "TruncationError", TruncationError),
        (400, "invalid_request", "CalibrationError", CalibrationError),
        (409, "locked", "LockedError", LockedError),
        (400, "invalid_request", "EncoderMismatchError", errors.EncoderMismatchError),
        (500, "internal", "IndexFolderError", errors.IndexFolderError),
        (500, "internal", "BundleError", errors.BundleError),
        (500, "internal", "KeyboardInterrupt", ServerError),
        (500, "internal", "MissingExtraError", ServerError),
        (401, "unauthorized", "RequestError", ServerError),
    ],
)
def test_errors_are_those_of_the_library(connect, server, status, code, kind, expected):
    server.on("/v1/embeddings", Reply(**error(status, code, kind, "what is wrong; what to do")))
    with pytest.raises(RelsdkError, match="what is wrong; what to do") as caught:
        connect().encode("a")
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"error": {"message": 5, "type": "InputError", "code": "x"}}',
        b"{" * 5000,
    ],
)
@pytest.mark.parametrize("status", [200, 302, 400])
def test_what_is_no_relsdk_server_is_said_to_be_none(connect, server, status, body):
    server.on("/v1/embeddings", Reply(status, body))
    with pytest.raises(ServerError, match=r"is it a relsdk server|not as a relsdk server does") as caught:
        connect().encode("a")
    assert (caught.value.status, caught.value.code) == (status, "wrong_answer")


def test_a_message_stays_on_one_line_and_short(connect, server):
    server.on("/v1/embeddings", Reply(**error(400, "bad\n", "x", "\x1b[31mred\n\0" + "x" * 5000)))
    with pytest.raises(ServerError) as caught:
        connect().encode("a")
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 2200


def test_an_error_survives_a_pickle(connect, server):
    server.on("/v1/embeddings", Reply(**error(500, "internal")))
    with pytest.raises(ServerError) as caught:
        connect().encode("a")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.status, copy.code) == (str(caught.value), 500, "internal")
