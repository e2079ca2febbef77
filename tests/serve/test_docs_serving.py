"""docs/serving.md: what it shows is answered, and what it lists is what there is."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from relsdk import Document, Embedder, Index
from relsdk.search.searcher import MAX_QUERY_CHARACTERS
from relsdk_serve import _connection, _logs
from relsdk_serve._faults import CODES
from relsdk_serve._keys import Keys
from relsdk_serve._metrics import REJECTIONS, Metrics
from relsdk_serve._routes import route_paths
from relsdk_serve._settings import Limits, Settings
from relsdk_serve.cli.serve import serve
from tests.serve.servers import served

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
README_DOCUMENTS = [
    Document("v1", "红烧肉的家常做法，肥而不腻", "", {"author": "老王", "duration": 95}),
    Document("v2", "红烧肉热量有多高？减肥能吃吗", "", {"author": "小李", "duration": 40}),
    Document("v3", "大理三天两夜旅游攻略", "", {"author": "小李", "duration": 180}),
]


def blocks(kind):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == kind]


def table(heading):
    """Return the cells of the table whose first column has a heading."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def codes(text):
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def address(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "docs.idx"
    Index.build(folder, README_DOCUMENTS, Embedder(encoder)).close()
    with served(
        Settings(indexes={"docs.idx": str(folder)}, models={"base": str(encoder)}, workers=1)
    ) as server:
        yield server.url


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_examples_are_answered(address):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) > 10
    for line in lines:
        command, *arguments = shlex.split(line.replace("http://127.0.0.1:8080", address))
        assert command == "curl"
        if "--json" in arguments:  # of curl 7.82
            place = arguments.index("--json")
            arguments[place : place + 1] = ["-H", "content-type: application/json", "-d"]
        done = subprocess.run(
            ["curl", "-s", "-w", "\n%{http_code}", *arguments], capture_output=True, text=True, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        assert status == "200", (line, body)
        answer = json.loads(body)
        if line == lines[0]:
            (shown, *_) = blocks("json")
            assert same_shape(answer, json.loads(shown))


def same_shape(one, other):
    """Whether two JSON values have the same keys, of lists the first element."""
    if isinstance(one, dict) and isinstance(other, dict):
        if "author" in other:  # metadata
            return True
        return one.keys() == other.keys() and all(same_shape(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return same_shape(one[0], other[0]) if one and other else True
    return True


def test_the_table_of_routes_is_complete():
    told = {path.split()[-1] for cells in table("route") for path in codes(cells[0])}
    assert set(route_paths()) == {path.replace("{id}", "{id:path}") for path in told if path.startswith("/")}


def test_the_table_of_errors_is_complete():
    told = {int(cells[0]): set(codes(cells[1])) for cells in table("status")}
    told[400].discard("too_long")
    assert told == {status: {code} for status, code in CODES.items()}


def test_the_error_that_is_shown_is_answered(address):
    (shown,) = [json.loads(block) for block in blocks("json") if '"error"' in block]
    answer = httpx.post(f"{address}/v1/search", json={"query": "a", "index": "shop"})
    assert answer.json() == shown


def test_the_line_of_the_query_log_that_is_shown_has_its_fields():
    (shown,) = [json.loads(block) for block in blocks("json") if '"hits": [[' in block]
    assert set(shown) == set(_logs._QueryEntry.__struct_fields__)


def test_the_limits_are_the_limits():
    limits = {cells[0]: cells for cells in table("limit")}
    expected = Limits()
    assert limits["body"][1] == f"{expected.body >> 20} MiB"
    assert limits["texts, queries or documents of a request"][1] == f"{expected.inputs:,}"
    assert limits["characters of a query"][1] == f"{MAX_QUERY_CHARACTERS:,}"
    assert limits["documents to rank, pairs to grade"][1] == f"{expected.documents:,}"
    assert (
        limits["head of a request"][1]
        == f"{_connection._HEAD_BYTES >> 10} KiB, {expected.header_seconds:g} s"
    )
    assert limits["arrival of a body"][1] == f"{expected.body_seconds:g} s"
    assert limits["reading of the answer"][1] == f"{expected.send_seconds:g} s"
    assert f"keeps a connection for {_connection.KEEP_ALIVE_SECONDS} s" in PAGE
    assert f"for {Settings().drain_seconds:g} s requests are still taken" in PAGE
    assert f"those that run have {Settings().grace_seconds:g} s" in PAGE


def test_every_option_that_is_named_exists():
    known = {name for option in serve.params for name in option.opts}
    others = {"--json", "--queries", "--index", "--no-self-test"}  # of curl, calibrate and doctor
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known | others


def test_the_commands_that_start_it_are_read():
    lines = [line.partition("#")[0] for block in blocks("") for line in block.splitlines()]
    started = [shlex.split(line)[2:] for line in lines if line.startswith("relsdk serve")]
    assert len(started) >= 4
    for arguments in started:
        serve.make_context("serve", arguments)


def test_the_table_of_metrics_is_complete():
    text = Metrics("1", routes=[], models=[], indexes=[]).render()[0].decode()
    kinds = dict(re.findall(r"(?m)^# TYPE (relsdk_\w+) (\w+)$", text))
    real = {name for name, kind in kinds.items() if not name.endswith("_created")}
    told = {name for cells in table("metric") for name in codes(cells[0])}
    assert told == real
    reasons = next(cells[2] for cells in table("metric") if "rejected" in cells[0])
    assert reasons.partition(": ")[2] == ", ".join(REJECTIONS)


def test_the_table_of_alerts_is_complete():
    told = {name for cells in table("alert") for name in codes(cells[0])}
    rules = (ROOT / "examples" / "deploy" / "alerts.yml").read_text(encoding="utf-8")
    assert told == set(re.findall(r"alert: (\w+)", rules))


def test_the_files_to_deploy_with_are_all_named():
    told = {name for cells in table("file in `examples/deploy`") for name in codes(cells[0])}
    there = {path.name for path in (ROOT / "examples" / "deploy").iterdir()}
    assert told == there - {"Dockerfile.dockerignore"}


def test_the_key_file_that_is_shown_is_read(tmp_path):
    (shown,) = [block for block in blocks("") if block.startswith("# keys")]
    (tmp_path / "keys").write_text(shown.replace("...", "0123456789"))
    (tmp_path / "keys").chmod(0o600)
    keys = Keys.read(tmp_path / "keys", {})
    assert keys.role([(b"api-key", b"5d0f3d8a2c0123456789")]) == "read"
    assert keys.role([(b"api-key", b"91b7c04e6f0123456789")]) == "write"


def test_the_log_line_that_is_shown_has_the_fields_of_one():
    (shown,) = [json.loads(block) for block in blocks("json") if '"queue_ms"' in block]
    from relsdk_serve._logs import RequestEntry

    assert set(shown) <= set(RequestEntry.__struct_fields__)
