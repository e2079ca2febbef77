"""As much of the Hugging Face hub's HTTP interface as huggingface_hub needs to push and to pull a model."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.threads import Server


class Hub(Server):
    """Repositories in memory.

    Attributes:
        repositories: By id: "private", and "commits", a list of (hash, files by path), the last one first.
        ignored: Paths that the hub leaves out of a commit, as a .gitignore there makes it do.
        writes: Requests that would have changed something, refused ones included.
    """

    def __init__(self):
        super().__init__(_Handler)
        self.repositories, self.ignored, self.writes = {}, set(), []
        self.token = "hf_right"

    def files(self, name):
        return self.repositories[name]["commits"][0][1]

    def add(self, name, files, *, private=False):
        self.repositories[name] = {"private": private, "commits": [_commit(files)]}


@contextmanager
def running_hub():
    with Hub() as hub:
        yield hub


def _commit(files):
    digest = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False)
    return digest.hexdigest(), files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?", path):
            repository, files = self._find(*found.groups())
            if repository is None:
                return self._json({"error": "Repository not found"}, 404, code="RepoNotFound")
            if "/tree/" in path:
                sizes = [(name, len(content)) for name, content in sorted(files.items())]
                return self._json(
                    [{"type": "file", "path": n, "size": s, "oid": _blob(files[n])} for n, s in sizes]
                )
            siblings = [{"rfilename": name} for name in sorted(files)]
            sha = found[2] if found[2] not in (None, "main") else repository["commits"][0][0]
            return self._json(
                {"id": found[1], "sha": sha, "private": repository["private"], "siblings": siblings}
            )
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, files = self._find(found[1], found[2])
            if repository is None or found[3] not in files:
                return self._json({"error": "Entry not found"}, 404, code="EntryNotFound")
            content = files[found[3]]
            sha = repository["commits"][0][0]
            return self._send(content, 200, {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": sha})
        return self._json({"error": "unknown"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        self.server.writes.append(path)
        if not self._may_write():
            return self._json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repositories:
                return self._json({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            self.server.add(name, {}, private=asked.get("visibility") == "private")
            return self._json({"url": f"{self.server.url}/{name}", "id": name})
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": one["path"] in self.server.ignored,
                }
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": modes})
        return self._take(name, [json.loads(line) for line in body.splitlines()])

    def _take(self, name, lines):
        commits = self.server.repositories[name]["commits"]
        files = dict(commits[0][1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", commits[0][0]) != commits[0][0]:
                return self._json({"error": "A commit has happened since"}, 412)
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile":
                del files[value["path"]]
        commits.insert(0, _commit(files))
        url = f"{self.server.url}/{name}/commit/{commits[0][0]}"
        return self._json({"success": True, "commitUrl": url, "commitOid": commits[0][0]})

    def _may_write(self):
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _find(self, name, revision=None):
        repository = self.server.repositories.get(name)
        if repository is None or (repository["private"] and not self._may_write()):
            return None, {}
        commits = dict(repository["commits"])
        if revision in (None, "main"):
            return repository, repository["commits"][0][1]
        return (repository, commits[revision]) if revision in commits else (None, {})

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content, status=200, code=""):
        headers = {"Content-Type": "application/json", **({"X-Error-Code": code} if code else {})}
        self._send(json.dumps(content).encode(), status, headers)

    def _send(self, content, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _blob(content):
    """The name that git gives a file's content."""
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
