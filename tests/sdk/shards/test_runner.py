"""Runners: each item once, workers that are killed, errors, and no process that outlives its parent."""

import os
import signal
import subprocess
import sys

import pytest

from relsdk.errors import InputError, MissingExtraError, RelsdkError
from relsdk.shards import open_runner
from relsdk.shards.runner import LocalRunner
from tests.sdk.shards.works import Squares, Unopened
from tests.threads import wait_for

NUMBERS = [5, 3, 8, 0, 7, 1]


def processes(folder):
    """Return the ids of the processes that noted work, by number."""
    return {int(path.stem): path.read_text().split() for path in folder.glob("*.log")}


def is_alive(process):
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_worker_is_this_process(tmp_path):
    answers = list(LocalRunner(1).run(Squares(tmp_path), NUMBERS))
    assert answers == [(place, number * number) for place, number in enumerate(NUMBERS)]
    assert {one for few in processes(tmp_path).values() for one in few} == {str(os.getpid())}


def test_each_item_once_though_workers_are_killed(tmp_path):
    work = Squares(tmp_path, killed=8, times=2)
    answers = list(LocalRunner(2).run(work, NUMBERS))
    assert sorted(answers) == [(place, number * number) for place, number in enumerate(NUMBERS)]
    done = processes(tmp_path)
    assert {number: len(few) for number, few in done.items()} == {n: 3 if n == 8 else 1 for n in NUMBERS}
    assert not any(is_alive(one) for few in done.values() for one in few)


def test_an_item_that_kills_every_worker_is_named(tmp_path):
    work = Squares(tmp_path, killed=8, times=99)
    with pytest.raises(RelsdkError, match=r"^8: 3 workers ended at this, the last by signal 9; "):
        list(LocalRunner(2).run(work, NUMBERS))


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        ({"wrong": 7}, InputError, "docs.jsonl:7: wrong; remove it"),
        (
            {"extra": 7},
            MissingExtraError,
            "squares needs packages not installed here; run: pip install 'relsdk[parquet]'",
        ),
    ],
)
def test_an_error_comes_over_as_it_is(tmp_path, work, kind, message):
    with pytest.raises(kind) as raised:
        list(LocalRunner(2).run(Squares(tmp_path, **work), NUMBERS))
    assert type(raised.value) is kind
    assert str(raised.value) == message
    assert "works.py" in str(raised.value.__cause__)
    assert not any(is_alive(one) for few in processes(tmp_path).values() for one in few)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_opened_says_so(workers):
    with pytest.raises(InputError, match=r"^no such model$"):
        list(LocalRunner(workers).run(Unopened(), NUMBERS))


SCRIPT = """
# No guard: a worker does not run this again.
import sys
from pathlib import Path
from relsdk.shards import open_runner
from tests.sdk.shards.works import Squares

print("started", flush=True)
for number, answer in open_runner(2).run(Squares(Path(sys.argv[1]), hangs=3), [3, 4, 5]):
    print(answer, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert [script.stdout.readline() for _ in range(3)] == ["started\n", "16\n", "25\n"]
    wait_for(lambda: processes(tmp_path).get(3))
    (worker,) = processes(tmp_path)[3]
    assert is_alive(worker)
    script.send_signal(number)
    script.communicate()
    wait_for(lambda: not is_alive(worker))


@pytest.mark.parametrize("workers", [0, -1, 1025, True, 1.5, "2"])
def test_workers_are_a_number(workers):
    with pytest.raises(InputError, match="a whole number from 1 to 1024 is needed"):
        open_runner(workers)
