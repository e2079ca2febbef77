"""Log lines: what they say, what they cannot be made to say, and that nobody waits for them."""

import json
import logging
import os
import re
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from relsdk.errors import InputError
from relsdk_serve import _logs
from relsdk_serve._logs import QueryLog, RequestEntry, RequestLog

UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
# Ends a line for a terminal, for `str.splitlines`, or for somebody who reads from right to left.
EVIL = "a\nb\r\x1b[2J\x00\x7f\x85\u2028\u202e\ud800"


def entry(**fields):
    return RequestEntry(
        **{
            "request_id": "r-1",
            "method": "POST",
            "route": "/v1/search",
            "status": 200,
            "ms": 3.24567,
            **fields,
        }
    )


@contextmanager
def request_log(style, losses):
    """Yield a log and the reading end of its pipe."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(reader, "rb") as stream:
            log = RequestLog(style, losses.append, handle=writer)
            yield log, stream
    finally:
        os.close(writer)


def lines_of(style, *entries):
    losses = []
    with request_log(style, losses) as (log, stream):
        for one in entries:
            log.write(one)
        log.close()
        lines = os.read(stream.fileno(), 1 << 16).decode().split("\n")
    assert not losses
    assert lines.pop() == ""
    return lines


def test_plain_lines():
    full = entry(queue_ms=0.25, tokens=12, inputs=2, truncated=0, level=3, index="商店", model="m")
    missing = entry(method="GET", route="-", status=404, ms=0.04, code="not_found")
    first, second = lines_of("plain", full, missing)
    assert re.fullmatch(
        f"{UTC} POST /v1/search 200 3.2ms queue=0.2ms tokens=12 inputs=2 truncated=0 level=3 index=商店 "
        "model=m id=r-1",
        first,
    )
    assert re.fullmatch(f"{UTC} GET - 404 0.0ms code=not_found id=r-1", second)


def test_json_lines():
    full = entry(queue_ms=0.25, tokens=12, inputs=2, truncated=0, level=0, index="商店", model="m", code="x")
    first, second = map(json.loads, lines_of("json", full, entry()))
    assert re.fullmatch(UTC, first.pop("time"))
    assert first == {
        **{"request_id": "r-1", "method": "POST", "route": "/v1/search", "status": 200, "ms": 3.246},
        **{"queue_ms": 0.25, "tokens": 12, "inputs": 2, "truncated": 0, "level": 0, "index": "商店"},
        **{"model": "m", "code": "x"},
    }
    assert set(second) == {"time", "request_id", "method", "route", "status", "ms"}


@pytest.mark.parametrize("style", ["plain", "json"])
@pytest.mark.parametrize("field", ["request_id", "method", "route", "index", "model", "code"])
def test_no_value_ends_a_line_or_moves_a_cursor(style, field):
    (line,) = lines_of(style, entry(**{field: EVIL}))
    assert line.isprintable()
    if style == "json":
        assert json.loads(line)[field] == EVIL


def test_the_time_is_that_of_the_call():
    before = time.time()
    (line,) = lines_of("json", entry())
    hour, minute, second = json.loads(line)["time"][11:-1].split(":")
    told = int(hour) * 3600 + int(minute) * 60 + float(second)
    assert (told - before) % 86400 < 60 or (before - told) % 86400 < 0.002


@pytest.mark.parametrize("style", ["plain", "json"])
def test_nobody_waits_for_a_reader_that_does_not_read(style, monkeypatch):
    monkeypatch.setattr(_logs, "_MAX_WAITING_BYTES", 1 << 20)
    losses = []
    with request_log(style, losses) as (log, stream):
        started = time.monotonic()
        for number in range(30_000):
            log.write(entry(request_id=str(number)))
        assert time.monotonic() - started < 30
        assert sum(losses) > 10_000
        monkeypatch.setattr(_logs, "_CLOSE_SECONDS", 0.1)
        log.close()
        os.set_blocking(stream.fileno(), False)
        content = b""
        deadline = time.monotonic() + 60
        while content.count(b"\n") < 30_000 - sum(losses) and time.monotonic() < deadline:
            content += stream.read(1 << 20) or b""
    lines = content.decode().splitlines()
    assert len(lines) == 30_000 - sum(losses)
    assert all(re.match(f"{UTC} POST" if style == "plain" else '{"time":', line) for line in lines)


def test_a_line_costs_microseconds():
    with open(os.devnull, "wb") as null:
        log = RequestLog("json", list, handle=null.fileno())
        started = time.thread_time()
        for _ in range(10_000):
            log.write(entry(queue_ms=0.25, tokens=12, inputs=2, level=3, index="shop", model="m"))
        assert (time.thread_time() - started) / 10_000 < 100e-6  # 4 where nobody else computes
        log.close()


def test_a_reader_that_left_is_counted():
    losses = []
    with request_log("plain", losses) as (log, stream):
        stream.close()
        log.write(entry())
        log.close()
        log.write(entry())  # and so is what comes too late
    assert losses == [1, 1]


PROGRAM = """
import sys
from relsdk_serve._logs import RequestEntry, RequestLog
log = RequestLog("plain", lambda lines: None)
for _ in range(10_000):
    log.write(RequestEntry(request_id="r", method="GET", route="/", status=200, ms=1.0))
log.close()
print("done")
"""


def test_a_process_ends_whose_stderr_nobody_reads():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read() == "done\n"
        assert process.wait(timeout=60) == 0


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def write_query(log, query="红裙", **fields):
    log.write(
        **{
            "request_id": "r-1",
            "index": "shop",
            "order": "cosine",
            "query": query,
            "hits": [("7", 3), ("8", None)],
            **fields,
        }
    )


def test_queries_and_what_was_found(tmp_path):
    path, losses = tmp_path / "queries.jsonl", []
    path.write_text("before\n")
    path.chmod(0o644)
    log = QueryLog(path, losses.append)
    write_query(log)
    write_query(log, EVIL, hits=())
    log.close()
    text = path.read_text(encoding="utf-8").removeprefix("before\n")
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()
    first, second = map(json.loads, text.split("\n")[:-1])
    assert re.fullmatch(UTC, first.pop("time"))
    assert first == {
        "request_id": "r-1",
        "index": "shop",
        "order": "cosine",
        "query": "红裙",
        "hits": [["7", 3], ["8", None]],
    }
    assert second["query"] == EVIL
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not losses


def test_a_full_file_is_rotated_and_the_oldest_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(_logs, "_ROTATE_BYTES", 2000)
    monkeypatch.setattr(_logs, "_ROTATED_FILES", 3)
    log = QueryLog(tmp_path / "q", [].append)
    for number in range(100):
        write_query(log, request_id=str(number))
    log.close()
    names = ["q", "q.1", "q.2", "q.3"]
    assert sorted(os.listdir(tmp_path)) == names
    numbers = []
    for name in reversed(names):
        path = tmp_path / name
        assert path.stat().st_size <= 2000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        numbers += [int(line["request_id"]) for line in read_lines(path)]
    assert numbers == list(range(100 - len(numbers), 100))


LIMITED = """
import resource, sys
from pathlib import Path
from relsdk_serve._logs import QueryLog
path, lost = Path(sys.argv[1]), []
log = QueryLog(path, lost.append)
def write(count):
    for number in range(count):
        log.write(request_id=str(number), index="i", order="cosine", query="q" * 100, hits=[])
def wait_for(condition):
    import time
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
write(10)
wait_for(lambda: lost)
write(10)
wait_for(lambda: sum(lost) > 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
write(1)
log.close()
print(sum(lost))
"""


def test_a_disk_that_is_full_for_a_while_costs_whole_lines_and_one_warning(tmp_path):
    path = tmp_path / "queries.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=150, check=True
    )
    lines = read_lines(path)
    assert len(lines) == 21 - int(done.stdout)
    assert lines[-1]["request_id"] == "0"  # the one after it
    assert 10 < int(done.stdout) < 20
    assert done.stderr.count("cannot write the query log") == 1


def test_a_folder_that_goes_away_costs_no_request(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(_logs, "_ROTATE_BYTES", 500)
    (tmp_path / "logs").mkdir()
    losses = []
    log = QueryLog(tmp_path / "logs" / "q", losses.append)
    (tmp_path / "logs" / "q").unlink()
    (tmp_path / "logs").rmdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            write_query(log)
        log.close()
    assert sum(losses) > 10
    assert caplog.text.count("cannot write the query log") == 1


@pytest.mark.parametrize("name", ["absent/q", "folder", "pipe", "\0"])
def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"cannot write the query log|not a regular file"):
        QueryLog(tmp_path / name, list)
