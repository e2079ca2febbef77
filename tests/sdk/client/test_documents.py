"""Documents over HTTP, and what a server says of itself."""

import pytest

from relsdk.errors import InputError, LockedError, ServerError
from relsdk.records import Document
from tests.sdk.client.scripted_server import Reply, error, limits, written


def test_documents_are_written_a_part_at_a_time(connect, server):
    server.on("/info", limits(max_inputs=2))
    server.on("/v1/documents", written)
    documents = (Document(str(number), "t", "x", {"n": number}) for number in range(4))
    assert connect(index="i").upsert(documents) == 4
    assert connect().upsert([{"_id": "a", "text": "b", "tag": "c"}], index="j", wait=False) == 1
    sent = server.bodies("/v1/documents")
    assert [len(body["documents"]) for body in sent] == [2, 2, 1]
    assert sent[0]["documents"][1] == {"_id": "1", "title": "t", "text": "x", "metadata": {"n": 1}}
    assert (sent[0]["index"], sent[0]["wait"], sent[2]["index"], sent[2]["wait"]) == ("i", True, "j", False)
    assert sent[2]["documents"] == [{"_id": "a", "title": "", "text": "b", "metadata": {"tag": "c"}}]


def test_what_was_written_before_a_mistake_is_told(connect, server):
    server.on("/info", limits(max_inputs=2))
    server.on("/v1/documents", written)
    documents = [Document("1", "a"), Document("2", "a"), Document("3", "a"), {"_id": "4"}]
    with pytest.raises(InputError, match=r"document 4 .*\(after the first 2 of documents, which are done\)"):
        connect().upsert(documents)
    server.on("/v1/documents", written, Reply(**error(409, "locked", "LockedError", "another one builds")))
    with pytest.raises(LockedError, match=r"another one builds \(after the first 2"):
        connect().upsert(documents[:3])


def test_a_writer_that_writes_too_little_is_noticed(connect, server):
    server.on("/v1/documents", Reply(body={"written": 0, "generation": "2"}))
    with pytest.raises(ServerError, match="0 documents written, of 1"):
        connect().upsert([Document("1", "a")])
    server.on("/v1/documents", Reply(202, {"accepted": 1}))
    assert connect().upsert([Document("1", "a")], wait=False) == 1


def test_documents_are_read_by_any_id(connect, server):
    names = ["a/b c?#%", "..", "红"]
    replies = [Reply(body={"id": name, "title": "", "text": "x", "metadata": {}}) for name in names]
    for path, reply in zip(("a%2Fb%20c%3F%23%25", "%2E%2E", "%E7%BA%A2"), replies, strict=True):
        server.on(f"/v1/documents/{path}", reply)
    assert [one.id for one in connect(index="i/j").get(names)] == names
    assert server.seen[0].path == "/v1/documents/a%2Fb%20c%3F%23%25?index=i%2Fj"
    server.on("/v1/documents/1", replies[0])
    with pytest.raises(ServerError, match=r"document 'a/b c.*, where '1' was asked for"):
        connect().get(["1"])
    for wrong in ([""], ["\ud800"], "1", [1], None):
        with pytest.raises(InputError, match="id"):
            connect().get(wrong)


def test_documents_are_deleted_by_id_or_filter(connect, server):
    server.on("/info", limits(max_inputs=2))
    server.on("/v1/documents/delete", Reply(body={"deleted": 2, "generation": "3"}))
    client = connect()
    assert client.delete(["1", "2", "3"]) == 4
    assert client.delete(where="n<3", index="i") == 2
    assert client.delete([]) == 0
    sent = server.bodies("/v1/documents/delete")
    assert sent == [{"ids": ["1", "2"]}, {"ids": ["3"]}, {"where": "n<3", "index": "i"}]
    for arguments in ({}, {"ids": ["1"], "where": "n<3"}):
        with pytest.raises(InputError, match="give either ids or where"):
            client.delete(**arguments)


def test_the_server_says_what_it_serves(connect, server):
    info = connect().info()
    assert (info.version, info.models[0].id, info.models[0].dimension) == ("0.1.0", "toy", 4)
    assert info.limits.max_inputs == 2048


def test_readiness(connect, server):
    server.on("/readyz", Reply(body={"status": "ok"}), Reply(**error(503, "unavailable", message="starting")))
    client = connect()
    assert [client.ready(), client.ready()] == [True, False]
    assert len(server.seen) == 2
    assert connect("http://127.0.0.1:1").ready() is False
    server.on("/readyz", Reply(404, b"no"))
    with pytest.raises(ServerError, match="not as a relsdk server does"):
        client.ready()
