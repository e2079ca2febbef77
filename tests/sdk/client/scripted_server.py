"""An HTTP server of real sockets that answers as a test tells it, also wrongly."""

import json
import time
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import numpy as np

from tests.threads import Server

INFO = {
    "model_id": "toy",
    "relsdk": {
        "version": "0.1.0",
        "models": [
            {
                "id": "toy",
                "kind": "encoder",
                "dimension": 4,
                "max_tokens": 32,
                "variant": "fp32",
                "fingerprint": "f",
                "levels": True,
            }
        ],
        "indexes": [],
        "limits": {"max_body_bytes": 8 << 20, "max_inputs": 2048, "max_documents": 512, "max_wait_ms": None},
    },
}


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict
    body: dict | None


@dataclass
class Reply:
    """What is sent back; `body` is JSON, or bytes as they are.

    Attributes:
        drop: Close the connection without a word.
        missing: Promise so many more bytes than are sent.
        pause: Seconds before each byte of the body.
    """

    status: int = 200
    body: object = None
    headers: dict = field(default_factory=dict)
    drop: bool = False
    missing: int = 0
    pause: float = 0.0


def error(status, code, kind="RequestError", message="no"):
    detail = {"message": message, "type": kind, "code": code, "param": None}
    return {"status": status, "body": {"error": detail, "message": message}}


def vector_of(text):
    """Four numbers that only this text has."""
    letters = np.frombuffer(text.encode().ljust(16, b"\1")[:16], dtype=np.uint8)
    return (letters.reshape(4, 4) @ [1, 2, 3, 5] / 7).astype(np.float32)


def embeddings(seen):
    texts = seen.body["input"]
    rows = [b64encode(vector_of(text).astype("<f4").tobytes()).decode() for text in texts]
    data = [{"object": "embedding", "index": row, "embedding": one} for row, one in enumerate(rows)]
    return Reply(body={"object": "list", "data": data[::-1], "model": "toy", "truncated": 0})


def limits(**values):
    """GET /info with other limits."""
    return Reply(body={"relsdk": {**INFO["relsdk"], "limits": {**INFO["relsdk"]["limits"], **values}}})


def written(seen):
    """All documents are written."""
    return Reply(body={"written": len(seen.body["documents"]), "generation": "2"})


class ScriptedServer:
    """Answers each path by a function of what was seen, or by the next of a list of replies."""

    def __init__(self):
        self.seen = []
        self.routes = {"/info": Reply(body=INFO), "/v1/embeddings": embeddings}
        self.url = ""

    def on(self, path, *replies):
        """Answer a path so; the last of several replies for ever."""
        self.routes[path] = list(replies)

    def bodies(self, path):
        return [one.body for one in self.seen if one.path == path]

    def reply_to(self, seen):
        route = self.routes.get(seen.path.partition("?")[0], Reply(404, b"<html>not here</html>"))
        if isinstance(route, list):
            route = route.pop(0) if len(route) > 1 else route[0]
        return route(seen) if callable(route) else route


@contextmanager
def scripted_server():
    script = ScriptedServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def answer(self):
            length = int(self.headers.get("content-length", 0))
            content = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, json.loads(content) if content else None)
            script.seen.append(seen)
            reply = script.reply_to(seen)
            if reply.drop:
                self.close_connection = True
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"content-length": len(body) + reply.missing, **reply.headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.close_connection |= bool(reply.missing)
            try:
                for part in [body] if not reply.pause else [body[at : at + 1] for at in range(len(body))]:
                    time.sleep(reply.pause)
                    self.wfile.write(part)
            except OSError:  # the client has gone
                self.close_connection = True

        do_GET = do_POST = do_DELETE = answer

    with Server(Handler) as server:
        script.url = server.url
        yield script
