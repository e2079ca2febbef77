"""Signals, kills and full disks: nothing that was accepted is lost, and the next start finds all of it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from relsdk import Index
from relsdk.index import verify_index
from tests.serve.servers import Raw, request, running
from tests.threads import PATIENCE, at_once, wait_for
from tests.toys import copy_bundle

QUERY = request("/v1/embeddings", {"input": "红烧肉"})


def ended(process):
    """Return the exit code, and what the process said but for its greeting."""
    code = process.wait(PATIENCE)
    time.sleep(0.05)
    return code, [line for line in process.said if "relsdk serve: http" not in line]


class Load:
    """Clients that ask, or write, until they are stopped."""

    def __init__(self, url, clients=4, *, writes=False):
        self.url, self.writes = url, writes
        self.statuses, self.lost, self.acknowledged, self.sent = [], [], set(), set()
        self._stop = threading.Event()
        self._clients = clients
        works = [partial(self._run, number) for number in range(clients)]
        self._running = at_once(*works, until=self._stop)

    def __enter__(self):
        self._running.__enter__()
        wait_for(lambda: len(self.statuses) >= 2 * self._clients)
        return self

    def __exit__(self, *error):
        return self._running.__exit__(*error)

    def _run(self, number):
        step = 0
        with httpx.Client(base_url=self.url, timeout=PATIENCE / 2) as http:
            while not self._stop.is_set():
                step += 1
                if not self._ask(http, f"w{number}-{step}"):
                    return
                time.sleep(0.01)

    def _ask(self, http, name):
        """Ask once; return whether to go on."""
        try:
            if self.writes:
                self.sent.add(name)
                answer = http.post("/v1/documents", json={"documents": [{"id": name, "text": name}]})
            else:
                answer = http.post("/v1/embeddings", json={"input": [name] * 12})
        except httpx.ConnectError:  # nobody took it
            return False
        except httpx.HTTPError as error:
            self.lost.append(error)
            return False
        self.statuses.append(answer.status_code)
        if answer.status_code == 200:
            self.acknowledged.add(name)
        return True


def test_sigterm_under_load(own_index, encoder):
    """Unready at once; what comes during five seconds is answered; then the end, with exit code 0."""
    with running(own_index, "--model", encoder) as process, Load(process.url, writes=True) as load:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=process.url) as http:
            wait_for(lambda: http.get("/readyz").status_code == 503)
            ready = http.get("/readyz")
            assert (ready.json()["status"], ready.headers["retry-after"]) == ("draining", "1")
            assert http.get("/livez").status_code == 200
            answer = http.post("/v1/embeddings", json={"input": "noch da"})
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        code, said = ended(process)
        took = time.monotonic() - began
    assert (code, said) == (0, [])
    assert 4.5 < took < 25  # less than the grace for what still runs
    assert load.lost == []
    assert set(load.statuses) == {200}
    with Index.open(own_index) as index:
        assert len(index.get(sorted(load.acknowledged))) == len(load.acknowledged)
        assert index.verify().ok


def test_what_was_accepted_without_waiting_is_written_before_the_end(own_index, encoder):
    with running(own_index, "--model", encoder) as process:
        with httpx.Client(base_url=process.url) as http:
            for n in range(100):
                content = [{"id": f"late{n}", "text": "spät" * 20}]
                body = {"documents": content, "wait": False}
                assert http.post("/v1/documents", json=body).status_code == 202
        process.send_signal(signal.SIGINT)
        assert ended(process) == (0, [])
    with Index.open(own_index) as index:
        assert len(index.get([f"late{n}" for n in range(100)])) == 100


def begun(connection, body):
    """Send the head of a request, which the server has begun with on return; return its body."""
    head, end, content = request("/v1/embeddings", body, headers=["expect: 100-continue"]).partition(
        b"\r\n\r\n"
    )
    connection.send(head + end)
    assert connection.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    return content


@pytest.mark.parametrize(
    "first", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT, signal.SIGHUP]
)
def test_a_second_signal_ends_at_once(encoder, first):
    with running("--model", encoder) as process:
        with Raw(process.url) as slow:
            begun(slow, {"input": "a"})  # its body never comes
            process.send_signal(first)
            time.sleep(0.3)
            assert process.poll() is None
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert ended(process) == (0, [])
            assert time.monotonic() - began < 20  # the grace is 25 s


def test_sigint_waits_for_what_runs_and_for_nothing_else(encoder):
    with running("--model", encoder) as process:
        with Raw(process.url) as connection, Raw(process.url), Raw(process.url) as asked:
            asked.send(QUERY)
            assert asked.answer()[0] == 200
            body = {"input": [f"文{n}" for n in range(2000)]}
            connection.send(begun(connection, body))
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            answer = connection.answer()
            assert answer[0] == 200
            assert ended(process) == (0, [])
            assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("number", "pause"),
    [
        (signal.SIGTERM, 0.0),
        (signal.SIGINT, 0.1),
        pytest.param(signal.SIGTERM, 0.05, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0.2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_it_starts(own_index, encoder, number, pause):
    """As soon as somebody listens, the end is an orderly one."""
    port = free_port()
    command = [sys.executable, "-m", "relsdk", "serve", str(own_index), "--model", str(encoder)]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: is_alive(port) or process.poll() is not None)
        time.sleep(pause)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    lines = [line for line in said.splitlines() if not line.startswith("relsdk serve: http")]
    assert (process.returncode, lines) == (0, [])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_alive(port):
    try:
        with Raw(f"http://127.0.0.1:{port}") as connection:
            connection.send(request("/livez", method="GET"))
            return connection.answer()[0] == 200
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("after", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_kill_under_load_of_writes(own_index, encoder, after):
    with running(own_index, "--model", encoder) as process, Load(process.url, writes=True) as load:
        time.sleep(after)
        process.kill()
        process.wait(PATIENCE)
    assert load.acknowledged
    assert verify_index(own_index).ok
    with running(own_index, "--model", encoder) as process, httpx.Client(base_url=process.url) as http:
        for name in load.acknowledged:
            assert http.get(f"/v1/documents/{name}").json()["text"] == name
        answer = http.post("/v1/documents", json={"documents": [{"id": "after", "text": "weiter"}]})
        assert answer.status_code == 200
        count = http.get("/info").json()["relsdk"]["indexes"][0]["documents"]
    assert 66 + 1 + len(load.acknowledged) <= count <= 66 + 1 + len(load.sent)


def test_a_full_disk(own_index, encoder):
    with running(own_index, "--model", encoder, file_limit=400_000) as process:
        with httpx.Client(base_url=process.url, timeout=PATIENCE / 2) as http:
            small = {"documents": [{"id": "small", "text": "klein"}]}
            assert http.post("/v1/documents", json=small).status_code == 200
            large = {"documents": [{"id": f"b{n}", "text": f"{n}" * 9000} for n in range(40)]}
            for _ in range(2):
                answer = http.post("/v1/documents", json=large)
                assert answer.status_code == 507, answer.text
                assert answer.json()["error"]["code"] == "disk_full"
                assert str(own_index) not in answer.text
            assert http.get("/v1/documents/small").status_code == 200
            assert http.get("/v1/documents/b0").status_code == 404
            assert http.post("/v1/search", json={"query": "红烧肉"}).json()["results"][0]["hits"]
            assert http.post("/v1/documents", json=small).status_code == 200
            assert http.get("/readyz").status_code == 200
    assert any("the disk is full" in line for line in process.said)
    with Index.open(own_index) as index:
        assert index.verify().ok
        assert len(index) == 67
        assert index.get(["small"])[0].text == "klein"


SMALL_DISK = """
mount -t tmpfs -o "size=$1" tmpfs "$2" && cp -r "$3" "$2/i" && shift 3 && exec "$@"
"""


def test_a_disk_without_a_byte(own_index, encoder, tmp_path):
    """507 while there is none, everything is readable, and room makes it well again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "-", "3m", str(disk), str(own_index)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a disk of its own here")
    with (
        running(disk / "i", "--model", encoder, inside=inside) as process,
        httpx.Client(base_url=process.url, timeout=PATIENCE / 2) as http,
    ):
        own = Path(f"/proc/{process.pid}/root{disk}")  # as the server sees it
        free = os.statvfs(own)
        (own / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
        body = {"documents": [{"id": "new", "text": "neu"}]}
        assert http.post("/v1/documents", json=body).status_code == 507
        assert http.delete("/v1/documents/d1").status_code == 507
        assert http.get("/v1/documents/d1").status_code == 200
        assert http.get("/v1/documents/new").status_code == 404
        assert http.post("/v1/search", json={"query": "红烧肉"}).json()["results"][0]["hits"]
        assert http.get("/readyz").status_code == 200
        (own / "filler").unlink()
        assert http.post("/v1/documents", json=body).status_code == 200
        assert http.get("/v1/documents/new").json()["text"] == "neu"
        shutil.copytree(own / "i", tmp_path / "copy")
    with Index.open(tmp_path / "copy") as index:
        assert index.verify().ok


FAILURES = {
    "no bundle": (["--model", "{tmp}/nobody"], "nobody"),
    "no index": (["{tmp}/nobody.idx"], "nobody.idx"),
    "an empty folder": (["{tmp}"], "is not an index"),
    "a scorer that is an encoder": (["--scorer", "{encoder}"], "is an encoder"),
    "a damaged index": (["{damaged}", "--model", "{encoder}"], "damaged"),
    "a damaged bundle": (["--model", "{broken}"], "broken"),
    "no key file": (["--model", "{encoder}", "--key-file", "{tmp}/nobody"], "No such file"),
    "a short key": (["--model", "{encoder}", "--key-file", "{short}"], "line 1"),
    "an open address": (["--model", "{encoder}", "--host", "0.0.0.0"], "no key"),
    "no such address": (["--model", "{encoder}", "--host", "192.0.2.1", "--insecure"], "cannot listen"),
    "no query log": (["--model", "{encoder}", "--log-queries", "{tmp}"], "not a regular file"),
    "nothing": ([], "nothing to serve"),
    "two of a name": (["--model", "a={encoder}", "--model", "a={encoder}"], "twice"),
    "another encoder's index": (["{index}", "--model", "{other}"], "was built by"),
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory, encoder, index_folder):
    """Places that cannot be served."""
    folder = tmp_path_factory.mktemp("failing")
    shutil.copytree(index_folder, folder / "damaged.idx")
    vectors = next((folder / "damaged.idx").rglob("vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-40] + bytes(40))
    shutil.copytree(encoder, folder / "broken")
    model = max((folder / "broken").rglob("*"), key=lambda path: path.stat().st_size)
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    (folder / "short").write_text("abc\n")
    return {
        "tmp": folder,
        "encoder": encoder,
        "damaged": folder / "damaged.idx",
        "broken": folder / "broken",
        "short": folder / "short",
        "index": index_folder,
        "other": copy_bundle("tower-bundle-v1", folder / "other"),
    }


@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(fails, failing, name):
    arguments, said = FAILURES[name]
    line = fails("serve", *(argument.format(**failing) for argument in arguments), "--port", "0")
    assert said in line


def test_a_port_that_is_taken(fails, encoder, toy_server):
    port = toy_server.url.rpartition(":")[2]
    line = fails("serve", "--model", str(encoder), "--port", port)
    assert re.search(r"cannot listen at 127\.0\.0\.1:\d+: Address already in use", line)
