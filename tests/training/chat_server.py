"""A chat endpoint on this machine that gives the replies it is told to give."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from tests.threads import PATIENCE, Server


def choices(*texts):
    return {"choices": [{"message": {"role": "assistant", "content": text}} for text in texts]}


class ChatServer(Server):
    """Gives the replies in turn, the last one for ever; a reply is (status, body, headers) or "hold"."""

    def __init__(self):
        self.replies, self.bodies, self.paths, self.headers = [], [], [], []
        self.released = threading.Event()
        taking = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with taking:
                    outer.bodies.append(body)
                    outer.paths.append(self.path)
                    outer.headers.append(self.headers)
                    reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if reply == "hold":
                    outer.released.wait(PATIENCE)
                    return
                if reply == "hang up":
                    return
                if callable(reply):
                    reply = reply(body)
                status, body, *headers = reply
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                with suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    for name, value in headers:
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)

            def do_GET(self):
                raise AssertionError("a redirect was followed")

            def log_message(self, *_):
                pass

        super().__init__(Handler)
        self.url += "/v1"

    def __exit__(self, *error):
        self.released.set()
        super().__exit__(*error)
