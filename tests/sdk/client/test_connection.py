"""Keys, addresses, threads, processes: what surrounds a call."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from relsdk.client import AsyncClient, Client
from relsdk.errors import (
    InputError,
    ServerError,
)
from relsdk.records import Document
from tests.sdk.client.scripted_server import Reply, embeddings, error, vector_of

SECRET = "s3cret-key"


def test_the_key_is_sent_and_never_shown(connect, server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RELSDK_KEY", SECRET)
    client = connect()
    client.encode("a")
    connect(key="other").encode("a")
    assert [one.headers["authorization"] for one in server.seen] == [f"Bearer {SECRET}", "Bearer other"]
    server.on("/v1/embeddings", Reply(**error(401, "unauthorized", message=f"not {SECRET}")))
    with pytest.raises(
        ServerError, match=r"401: not \[key\]; pass the key as key=, or set RELSDK_KEY"
    ) as caught:
        client.encode("a")
    server.on("/v1/embeddings", Reply(401, f"<p>{SECRET}".encode()))
    with pytest.raises(ServerError, match=r"<p>\[key\]"):
        client.encode("a")
    shown = [repr(client), caplog.text, str(caught.value), repr(caught.value)]
    assert not [text for text in shown if SECRET in text]
    assert "HTTP Request" in caplog.text  # httpx did log


def test_without_a_key_none_is_sent(connect, server, monkeypatch):
    monkeypatch.delenv("RELSDK_KEY", raising=False)
    connect().encode("a")
    assert "authorization" not in server.seen[0].headers
    assert server.seen[0].headers["user-agent"].startswith("relsdk/")


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx: y", "键", 5])
def test_a_key_that_no_header_can_hold(connect, key):
    with pytest.raises(InputError, match=r"the key .*copy it again") as caught:
        connect(key=key)
    assert not str(key) or str(key) not in str(caught.value)


@pytest.mark.parametrize("prefix", ["/search/eu", "/search/eu/", "/"])
def test_a_server_behind_a_path(connect, server, prefix):
    server.on(f"{prefix.rstrip('/')}/v1/embeddings", embeddings)
    assert connect(server.url + prefix).encode("a").shape == (4,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "localhost",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h?a=b",
        "http://h#a",
        None,
        "http://h /",
    ],
)
def test_an_address_that_is_none(connect, url):
    with pytest.raises(InputError, match=r"needed is one as http://127.0.0.1:8080"):
        Client(url)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(InputError, match="pass the server's key as key=") as caught:
        Client(f"http://user:{SECRET}@h")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": float("inf")}, {"timeout": "5"}, {"max_retries": -1}]
)
def test_limits_that_are_none(options):
    with pytest.raises(InputError, match=r"=.*needed"):
        Client(**options)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda client: client.encode({"a": 1}), "input is dict; a list is needed"),
        (lambda client: client.encode(None), "input is NoneType"),
        (lambda client: client.encode(["a", b"b"]), "input 1 is bytes; a string is needed"),
        (lambda client: client.encode("\ud800"), "cannot be written as JSON"),
        (lambda client: client.predict(["ab"]), "pair 0 is 'ab'; "),
        (lambda client: client.predict([("a", 1)]), "pair 0 is "),
        (lambda client: client.search("a", where={"n": float("nan")}), "cannot be written as JSON"),
        (lambda client: client.search("a", facets="kind"), "facets is str; a list is needed"),
        (lambda client: client.upsert(Document("1", "a")), "documents is a Document; an iterable"),
        (lambda client: client.upsert(["a"]), "document 1 of the input is a str"),
        (lambda client: client.upsert([Document("1", "a", "", {"x": {1}})]), "is a set"),
    ],
)
def test_inputs_that_cannot_be_sent(connect, server, call, problem):
    with pytest.raises(InputError, match=problem):
        call(connect())
    assert {one.path for one in server.seen} <= {"/info"}


def test_a_client_ends(server):
    with Client(server.url) as client:
        assert client.encode("a").shape == (4,)
    with pytest.raises(InputError, match="is closed; make a new one"):
        client.encode("a")
    client.close()

    async def ask():
        async with AsyncClient(server.url) as client:
            vectors = await asyncio.gather(*(client.encode(str(number)) for number in range(20)))
        with pytest.raises(InputError, match="is closed"):
            await client.encode("a")
        return vectors

    assert np.array_equal(asyncio.run(ask()), [vector_of(str(number)) for number in range(20)])
    assert repr(client) == f"Client('{server.url}')"


def test_threads_share_a_client(server):
    with Client(server.url) as client, ThreadPoolExecutor(16) as pool:
        vectors = list(pool.map(client.encode, map(str, range(200))))
    assert np.array_equal(vectors, [vector_of(str(number)) for number in range(200)])


def test_no_two_requests_at_once_share_an_httpx_client(server, monkeypatch):
    """Or one thread may close the connection that another was just given (encode/httpcore#1110)."""
    import httpx

    handle, seen, together = httpx.HTTPTransport.handle_request, [], threading.Barrier(40)

    def noting(self, request):
        seen.append(self)
        return handle(self, request)

    def all_at_once(seen):
        together.wait(30)
        return embeddings(seen)

    server.on("/v1/embeddings", all_at_once)
    with Client(server.url, max_retries=0) as client, ThreadPoolExecutor(40) as pool:
        client.info()
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", noting)
        vectors = list(pool.map(client.encode, map(str, range(40))))
        assert len(set(seen[:40])) == 40
        assert np.array_equal(vectors, [vector_of(str(number)) for number in range(40)])
        # Some connections are kept, not all of them.
        server.on("/v1/embeddings", embeddings)
        del seen[:]
        for number in range(3):
            client.encode(str(number))
        assert len(set(seen)) == 1
        assert len(client._http._free) == 20


def test_a_client_that_is_closed_ends_what_it_began(server):
    began, go_on = threading.Event(), threading.Event()

    def slowly(seen):
        began.set()
        go_on.wait(30)
        return embeddings(seen)

    client = Client(server.url)
    client.info()
    server.on("/v1/embeddings", slowly)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.encode, "a")
        assert began.wait(30)
        client.close()
        go_on.set()
        assert np.array_equal(asked.result(30), vector_of("a"))
    assert not client._http._free
    with pytest.raises(InputError, match="is closed"):
        client.encode("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_connections_of_its_own(server):
    """On shared ones each would read answers to the other's texts."""
    program = f"""
import os, sys
import numpy as np
from relsdk.client import Client
from tests.sdk.client.scripted_server import vector_of

client = Client({server.url!r}, max_retries=0)
client.encode("warm")
child = os.fork()
name = "child" if child == 0 else "parent"
texts = [f"{{name}} {{number}}" for number in range(200)]
right = all(np.array_equal(client.encode(text), vector_of(text)) for text in texts)
if child == 0:
    os._exit(not right)
assert right
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_client_loads_no_model_and_tells_what_it_needs():
    pytest.importorskip("httpx", reason="the client needs the extra client")
    program = """
import sys
from relsdk.client import Client
Client("http://127.0.0.1:1")
assert not {"onnxruntime", "tokenizers", "hnswlib", "sqlite3"} & set(sys.modules), "too much"
sys.modules["httpx"] = None
try:
    Client("http://127.0.0.1:1")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("pip install 'relsdk[client]'"), done.stderr
