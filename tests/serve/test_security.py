"""What a hostile client sends: malformed, smuggled, huge, deep or slow to read; and what it learns of it."""

import json
import re
import time
from dataclasses import replace

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from relsdk_serve._routes import _table
from tests.serve.servers import KEY, READ_KEY, Raw, post, request, resident, running, served

BODY = b'{"input": "a"}'
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LENGTH, CHUNKED = b"content-length: %d\r\n" % len(BODY), b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"

SMUGGLED = {
    "two lengths": HEAD + LENGTH + b"content-length: 3\r\n\r\n" + BODY,
    "the same length twice": HEAD + LENGTH * 2 + b"\r\n" + BODY,
    "a list of lengths": HEAD + b"content-length: 14, 14\r\n\r\n" + BODY,
    "length and chunks": HEAD + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "chunks and length": HEAD + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "an unknown coding": HEAD + b"transfer-encoding: xchunked\r\n" + LENGTH + b"\r\n" + BODY,
    "a coding after chunks": HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n" + CHUNKS,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n" + LENGTH + b"\r\n" + BODY,
    "a length with a sign": HEAD + b"content-length: +14\r\n\r\n" + BODY,
    "a negative length": HEAD + b"content-length: -1\r\n\r\n" + BODY,
    "a length beyond 64 bits": HEAD + b"content-length: 99999999999999999999999\r\n\r\n" + BODY,
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n") + b"\n" + BODY,
    "one bare line feed": HEAD + b"x: a\n" + LENGTH + b"\r\n" + BODY,
    "a bare return": HEAD + b"x: a\rb\r\n" + LENGTH + b"\r\n" + BODY,
    "a folded header": HEAD + b"x: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "a NUL": HEAD + b"x: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a chunk's size that is none": HEAD + CHUNKED + b"\r\nzz\r\n" + BODY,
    "chunks with bare line feeds": HEAD + CHUNKED + b"\r\n" + CHUNKS.replace(b"\r\n", b"\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    "no path": b"GET ?x HTTP/1.1\r\nhost: a\r\n\r\n",
    "a path that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    "a path with a bell": b"GET /livez\x07 HTTP/1.1\r\nhost: a\r\n\r\n",
    "an unknown method": b"FOO /livez HTTP/1.1\r\nhost: a\r\n\r\n",
    "HTTP/9": b"GET /livez HTTP/9.9\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_what_two_servers_could_read_in_two_ways_is_refused_and_ends_the_connection(toy_server, name):
    with Raw(toy_server.url) as connection:
        connection.send(SMUGGLED[name] + request("/livez", method="GET"))
        status, headers, body = connection.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]["code"] == "invalid_request"
        assert connection.answer() is None, "what came after it was answered"


LARGE = {
    "a header": b"GET /livez HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
    "a name": b"GET /livez HTTP/1.1\r\nhost: a\r\n" + b"a" * 70_000 + b": a\r\n\r\n",
    "many headers": b"GET /livez HTTP/1.1\r\nhost: a\r\n" + b"name: v\r\n" * 20_000 + b"\r\n",
    "a target": b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "a query": b"GET /livez?" + b"a=b&" * (1 << 18) + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "no end": b"GET /livez HTTP/1.1\r\nx: " + b"a" * (1 << 20),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_head_that_is_too_large(toy_server, name):
    with Raw(toy_server.url) as connection:
        connection.send(LARGE[name])
        answer = connection.answer()
        if answer is not None:  # what was sent after it may have ended the connection before it was read
            assert answer[0] == 431
            assert "64 KiB" in json.loads(answer[2])["message"]
        connection.ended()
    with Raw(toy_server.url) as connection:
        connection.send(b"GET /livez HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 60_000 + b"\r\n\r\n")
        assert connection.answer()[0] == 200


def test_a_head_that_is_too_large_by_its_last_piece(toy_server):
    with Raw(toy_server.url) as connection:
        connection.send(b"GET /livez HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 60_000)
        time.sleep(0.2)  # it is read alone
        connection.send(b"a" * 10_000 + b"\r\n\r\n")
        answer = connection.answer()
        assert answer[0] == 431
        assert "64 KiB" in json.loads(answer[2])["message"]


def nested(start, end, count, inside=b"1"):
    return start * count + inside + end * count


DEEP = {
    "input": ("/v1/embeddings", b'{"input": %s}' % nested(b"[", b"]", 100_000)),
    "an unknown field": ("/v1/embeddings", b'{"input": "a", "x": %s}' % nested(b"[", b"]", 100_000)),
    "root": ("/", b'{"inputs": %s}' % nested(b"[", b"]", 100_000)),
    "where": ("/v1/search", b'{"query": "a", "where": %s}' % nested(b'{"not": ', b"}", 100_000, b"{}")),
    "where, a little": ("/v1/search", b'{"query": "a", "where": %s}' % nested(b'{"not": ', b"}", 50, b"{}")),
    "where as text": ("/v1/search", b'{"query": "a", "where": "%s"}' % nested(b"(", b")", 40_000, b"a=1")),
    "where, negated": ("/v1/search", b'{"query": "a", "where": "%sa=1"}' % (b"not " * 20_000)),
    "metadata": (
        "/v1/documents",
        b'{"documents": [{"id": "a", "text": "a", "x": %s}]}' % nested(b"[", b"]", 100_000),
    ),
    "an object": (
        "/v1/documents",
        b'{"documents": [{"id": "a", "text": "a", "x": %s}]}' % nested(b'{"a":', b"}", 100_000),
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_what_is_nested_deep_is_a_mistake_and_no_fault(http, name):
    path, content = DEEP[name]
    began = time.process_time()
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    # A field that nobody reads may be as it wants.
    assert answer.status_code in ((200, 400) if name == "an unknown field" else (400,)), answer.text[:300]
    assert time.process_time() - began < 5
    assert http.get("/livez").status_code == 200


SLOW = {
    "conditions": " and ".join(["duration=1"] * 7000),
    "ranges": " and ".join(["duration>1"] * 7000),
    "alternatives": " or ".join(["duration=1"] * 7000),
    "quotes": '"' * 99_999,
    "backslashes": "a='" + "\\" * 90_000,
    "spaces": "a=1" + " " * 90_000 + "!",
    "words": "a " * 49_000,
    "a list": "a in (" + "1," * 45_000,
    "brackets": "(" * 90_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_filter_holds_the_server_up(http, name):
    """They are read on the event loop: a hundred kilobytes took minutes where every pair was compared."""
    began = time.process_time()
    post(http, "/v1/search", {"query": "a", "where": SLOW[name]}, 400)
    assert time.process_time() - began < 5


HUGE = [
    ({"query": "a", "k": 10_001}, 400, "10000"),
    ({"query": "a", "offset": 100_001}, 400, "100000"),
    ({"query": "a", "k": 10_000, "offset": 100_000, "facets": ["author"] * 100}, 200, None),
    ({"query": "a", "facets": ["author"] * 101}, 400, "100"),
    ({"queries": ["a"] * 100, "k": 10_000}, 413, "at most 110,000"),
    ({"queries": ["a"] * 2048, "k": 10, "offset": 100}, 413, "send fewer queries"),
    ({"queries": ["a"] * 2049}, 413, "--max-inputs"),
    ({"query": "a", "where": {"or": [{"duration": n} for n in range(5000)]}}, 400, "at most 100"),
    ({"query": "a", "where": {"duration": {"in": list(range(100_000))}}}, 200, None),
    ({"query": "a", "where": {"duration": 2**64}}, (200, 400), None),
    ({"query": "a", "sort": "a" * 100_000}, 400, None),
    ({"query": "a", "group_by": "\0"}, 400, None),
    ({"query": "a", "min_score": 1e308}, 200, None),
    ({"query": "a", "budget_ms": 5e-324}, (200, 429), None),
    ({"query": "\0\x1b[31m\u2028"}, 200, None),
]


@pytest.mark.parametrize(("body", "statuses", "said"), HUGE, ids=range(len(HUGE)))
def test_bounds_of_a_search(http, body, statuses, said):
    before, began = resident(), time.process_time()
    answer = http.post("/v1/search", json=body)
    assert answer.status_code in (statuses if isinstance(statuses, tuple) else (statuses,)), answer.text[:300]
    assert said is None or said in answer.text
    assert time.process_time() - began < 10
    assert resident() - before < 150


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        *(("a", 8_000_000), (" ", 8_000_000), ("红", 2 << 20)),
        ("ﷺ", 1 << 16),  # 18 characters each for the tokenizer
        pytest.param("ﷺ", 1 << 20, marks=pytest.mark.slow),
    ],
)
def test_a_text_of_megabytes(http, piece, count):
    began = time.process_time()
    content = json.dumps({"input": piece * count}, ensure_ascii=False).encode()
    answer = http.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    "path",
    [
        *("/page/../../etc/passwd", "/page/..%2f..%2fetc%2fpasswd", "/page/%2e%2e/_keys.py"),
        *("/page/..", "/page/.", "/page/", "/page/%00", "/page/index.html%00.js", "/page/__init__.py"),
        *("/page/index.html/", "//page/index.html", "/page//index.html", "/page/C:%5cwindows"),
        *("/v1/documents/..%2f..%2f..%2fetc%2fpasswd", "/v1/documents/%2e%2e", "/v1/models/..%2fencoder"),
        *("/metrics/../livez", "/%2e%2e/%2e%2e/etc/passwd", "/v1/documents/a%00", "/v1/documents/%ff%fe"),
    ],
)
def test_no_path_leads_out(toy_server, path):
    with Raw(toy_server.url) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        status, headers, body = connection.answer()
    assert status in (400, 404), body[:300]
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]["code"] in ("not_found", "invalid_request")
    assert b"root:" not in body


CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
HOSTILE = st.text(
    st.sampled_from("a/.%\\'\"<>&;$`\0\a\b\t\n\r\x1b[31m\x7f\x85\u2028\u2029\u202e\ufeff\U0001f4a9"),
    max_size=30,
)


@profile(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    HOSTILE, st.sampled_from(["id", "model", "where", "query string", "sort", "field", "type", "id header"])
)
def test_no_error_or_header_shows_hostile_text_as_it_is(toy_server, text, place):
    http, quoted = toy_server.http, "".join(f"%{byte:02x}" for byte in text.encode())
    answer = {
        "id": lambda: http.get(f"/v1/documents/{quoted}"),
        "model": lambda: http.post("/v1/embeddings", json={"input": "a", "model": text}),
        "where": lambda: http.post("/v1/search", json={"query": "a", "where": f"{text} = = 1"}),
        "query string": lambda: http.get("/v1/documents/d1", params={"index": text}),
        "sort": lambda: http.post("/v1/search", json={"query": "a", "sort": f"-{text}"}),
        "field": lambda: http.post("/v1/search", json={"query": "a", f"x{text}": 1}),
        "type": lambda: http.post("/v1/search", json={"query": {text: text}}),
        "id header": lambda: http.get("/livez", headers={"x-request-id": quoted}),
    }[place]()
    assert answer.status_code < 500
    assert not CONTROLS.search(answer.content), answer.content
    for name, value in answer.headers.raw:
        assert not CONTROLS.search(name + value)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"])
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code >= 400:
        message = answer.json()["message"]
        assert message.isprintable(), ascii(message)
        assert "/tmp" not in message


def test_no_hostile_text_reaches_a_log_as_it_is(own_index, encoder):
    """A process with all its logs on, and everything that a client can choose."""
    evil = 'x\x1b[31m\nrelsdk: error: fake\r\0\x85\u2028\u202e"'
    secret = "geheim-" + "7" * 16
    with running(
        own_index, "--model", encoder, "--log", "plain", environment={"RELSDK_SERVE_KEYS": KEY}
    ) as process:
        with httpx.Client(base_url=process.url, headers={"x-api-key": KEY}) as http:
            quoted = "".join(f"%{byte:02x}" for byte in evil.encode())
            http.get(f"/{quoted}")
            http.get(f"/v1/documents/{quoted}")
            http.get(f"/page/{quoted}")
            http.get("/livez", headers={"x-request-id": "a b", "user-agent": secret})
            http.get("/info", headers={"x-api-key": secret})
            for path, body in (
                ("/v1/search", {"query": evil, "where": evil}),
                ("/v1/search", {"query": evil, "sort": evil}),
                ("/v1/embeddings", {"input": evil, "model": evil}),
                ("/v1/documents", {"documents": [{"id": evil, "text": evil}]}),
                ("/v1/documents", {"documents": [{"id": "a\nb", "text": evil, "x": evil}], "wait": False}),
                ("/v1/documents/delete", {"where": {"x": {"gt": evil}}, "wait": False}),
                ("/v1/documents/delete", {"where": {evil: 1}, "wait": False}),
            ):
                http.post(path, json=body)
        with Raw(process.url) as connection:
            connection.send(b"GET /\x1b[31m HTTP/1.1\r\nhost: a\r\n\r\n")
            connection.answer()
        time.sleep(0.3)
    assert len(process.said) > 10
    for line in process.said:
        assert line.removesuffix("\n").isprintable(), ascii(line)
        assert re.match(r"relsdk|20\d\d-", line), line
        assert secret not in line
        assert KEY not in line


@pytest.fixture(scope="module")
def strict(settings):
    """A server with keys and one origin that may ask."""
    cors = replace(settings, cors=("https://search.example",))
    with served(cors, {"RELSDK_SERVE_KEYS": f"write:{KEY},read:{READ_KEY}"}) as server:
        yield server


def preflight(http, origin, method="POST", headers="authorization,content-type"):
    asked = {"access-control-request-method": method, "access-control-request-headers": headers}
    return http.options("/v1/search", headers={"origin": origin, **asked})


def test_pages_of_other_origins_are_off_unless_named(http, strict):
    mine, other = "https://search.example", "https://evil.example"
    refused = preflight(http, mine)
    assert refused.status_code == 405
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in http.get("/livez", headers={"origin": mine}).headers

    allowed = preflight(strict.http, mine)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == mine
    assert {"authorization", "x-api-key", "api-key", "content-type"} <= set(
        allowed.headers["access-control-allow-headers"].lower().split(", ")
    )
    assert "access-control-allow-credentials" not in allowed.headers
    for answer in (preflight(strict.http, other), preflight(strict.http, "null")):
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
    assert preflight(strict.http, mine, method="PATCH").status_code == 400
    # The preflight needs no key, the request does; its refusal is readable, or no page could ask for one.
    asked = strict.http.post("/v1/search", json={"query": "a"}, headers={"origin": mine})
    assert asked.status_code == 401
    assert asked.headers["access-control-allow-origin"] == mine
    assert "origin" in asked.headers["vary"].lower()
    key = {"authorization": f"Bearer {READ_KEY}"}
    asked = strict.http.post("/v1/search", json={"query": "a"}, headers={"origin": mine, **key})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == mine
    assert "x-request-id" in asked.headers["access-control-expose-headers"]
    asked = strict.http.post("/v1/search", json={"query": "a"}, headers={"origin": other, **key})
    assert "access-control-allow-origin" not in asked.headers


def test_no_route_answers_a_stranger_whatever_else_it_sends(strict):
    """A key in another place, case or form is none; and a stranger's body is not read."""
    bad = [
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"x-api-key": ""},
        {"x-api-key": f"write:{KEY}"},
        {"x-api-key": f'"{KEY}"'},
        {"cookie": f"x-api-key={KEY}"},
        {"x_api_key": KEY},
        {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"},
    ]
    for headers in bad:
        answer = strict.http.get("/info", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
    assert strict.http.get("/info", params={"x-api-key": KEY, "api_key": KEY}).status_code == 401
    with Raw(strict.url) as connection:
        connection.send(HEAD + b"content-length: 8000000\r\n\r\n")
        assert connection.answer()[0] == 401


def test_open_routes_and_no_others(strict):
    """The table is gone through, so a new route is looked at, too."""
    opened = set()
    for endpoint in _table(bytes):
        path = endpoint.path.replace("{id:path}", "d1").replace("{name}", "index.html")
        for method in {endpoint.method, "HEAD" if endpoint.method == "GET" else endpoint.method}:
            answer = strict.http.request(method, path, json={} if method == "POST" else None)
            if answer.status_code != 401:
                opened.add((method, endpoint.path))
    gets = {"/livez", "/readyz", "/health", "/", "/page/{name}"}
    assert opened == {(method, path) for path in gets for method in ("GET", "HEAD")}


CSP = {
    "default-src": {"'none'"},
    "script-src": {"'self'"},
    "style-src": {"'self'"},
    "img-src": {"'self'", "data:"},
    "connect-src": {"'self'"},
    "base-uri": {"'none'"},
    "form-action": {"'none'"},
    "frame-ancestors": {"'none'"},
}


def test_headers_of_the_page(http):
    page = http.get("/", headers={"accept": "text/html"})
    names = re.findall(r'(?:src|href)="/?page/([\w.]+)"', page.text)
    assert names
    answers = [page, *(http.get(f"/page/{name}") for name in {"index.html", *names})]
    for answer in answers:
        assert answer.status_code == 200
        parts = (part.split() for part in answer.headers["content-security-policy"].split(";"))
        policy = {name: set(values) for name, *values in parts}
        assert {name: policy.get(name) for name in CSP} == CSP
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"} & set().union(
            *policy.values()
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers
    # Nothing that the policy would block.
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=|<style|javascript:", page.text)


def test_answers_say_that_they_are_what_they_are(http):
    for answer in (
        http.get("/livez"),
        http.get("/nowhere"),
        http.post("/v1/embeddings", json={"input": "<b>"}),
    ):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
