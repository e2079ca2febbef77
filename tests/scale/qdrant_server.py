"""A server that speaks Qdrant's protocol, as far as the store does, over the client's local mode in memory.

Requests are read with the client's own models, which forbid what they do not know.
"""

import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Lock

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

from tests.threads import Server


class QdrantServer:
    """What was asked, and what is answered.

    Attributes:
        requests: (method, path, body, headers) of each, in order.
        statuses: Of the collection, as the next looks at it show it; then it is green.
        version: A server before 1.16 keeps no metadata of a collection.
    """

    def __init__(self, version=(1, 16)):
        self.requests, self.statuses, self.version = [], [], version
        self._client, self._lock = QdrantClient(":memory:"), Lock()

    def answer(self, method, path, body):
        with self._lock:
            name, _, verb = path.split("?")[0].removeprefix("/collections/").partition("/")
            if verb != "exists" and method != "PUT" and not self._client.collection_exists(name):
                return 404, f"Not found: Collection `{name}` doesn't exist!"
            return 200, getattr(self, f"_{method}_{re.sub('/', '_', verb)}".lower())(name, body)

    def bodies(self, method, ending):
        """Return what was sent to a path."""
        return [body for one, path, body, _ in self.requests if one == method and path.endswith(ending)]

    def _get_exists(self, name, _):
        return {"exists": self._client.collection_exists(name)}

    def _get_(self, name, _):
        info = self._client.get_collection(name).model_dump(mode="json")
        return {**info, "status": self.statuses.pop(0) if self.statuses else "green"}

    def _put_(self, name, body):
        asked = models.CreateCollection(**body)
        metadata = asked.metadata if self.version >= (1, 16) else None
        return self._client.create_collection(name, vectors_config=asked.vectors, metadata=metadata)

    def _patch_(self, name, body):
        return self._client.update_collection(name, metadata=models.UpdateCollection(**body).metadata)

    def _delete_(self, name, _):
        return self._client.delete_collection(name)

    def _put_index(self, name, body):
        models.CreateFieldIndex(**body)
        return _DONE

    def _put_points(self, name, body):
        self._client.upsert(name, models.PointsList(**body).points)
        return _DONE

    def _post_points(self, name, body):
        asked = models.PointRequest(**body)
        records = self._client.retrieve(name, asked.ids, asked.with_payload, asked.with_vector)
        return [record.model_dump(mode="json") for record in records]

    def _post_points_delete(self, name, body):
        self._client.delete(name, TypeAdapter(models.PointsSelector).validate_python(body))
        return _DONE

    def _post_points_count(self, name, body):
        return {"count": int(self._client.count(name, models.CountRequest(**body).filter).count)}

    def _post_points_query_batch(self, name, body):
        asked = models.QueryRequestBatch(**body).searches
        for one in asked:
            one.params = None  # of which the local mode says that it ignores them
        return [answer.model_dump(mode="json") for answer in self._client.query_batch_points(name, asked)]


_DONE = {"operation_id": 1, "status": "completed"}


@contextmanager
def serving(server):
    """Answer on a free port of this machine; yield HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self):
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            server.requests.append((self.command, self.path, body, dict(self.headers)))
            try:
                status, result = server.answer(self.command, self.path, body)
            except ValueError as error:
                status, result = 400, str(error)
            told = {"result": result} if status == 200 else {"status": {"error": result}}
            content = json.dumps({"time": 0.0, "status": "ok", **told}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle

        def log_message(self, *_):
            pass

    with Server(Handler) as http:
        yield f"127.0.0.1:{http.server_port}"
