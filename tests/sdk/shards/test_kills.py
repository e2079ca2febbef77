"""`relsdk encode` with workers under real kills and signals, and the memory of a worker: minutes, so slow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relsdk.shards import encode_shards
from relsdk.shards.parts import part_paths, read_part
from tests.default_signals import WITH_DEFAULT_SIGNALS
from tests.memory import PEAK
from tests.sdk.shards.conftest import FIXTURES, contents
from tests.threads import wait_for

pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*has no checksum")]
ENCODER = FIXTURES / "encoder-bundle-v1"


def write_documents(path, count):
    with path.open("w", encoding="utf-8") as stream:
        for row in range(count):
            stream.write(
                json.dumps({"id": f"v{row}", "title": f"红烧肉 {row % 997}"}, ensure_ascii=False) + "\n"
            )
    return path


def start(source, folder, *, group=False):
    command = [sys.executable, "-m", "relsdk", "encode", ENCODER, source, folder]
    return subprocess.Popen(
        [*WITH_DEFAULT_SIGNALS, *command, "--as", "document", "--workers", "2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )


def children(process):
    """Return the ids of the live children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[1] == str(process) and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def is_gone(process):
    """Whether a process has ended; who has inherited it may leave it unburied for a while."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_times_cost_no_row(tmp_path, seed):
    draw = random.Random(seed)
    source, folder = write_documents(tmp_path / "docs.jsonl", 6_000), tmp_path / "parts"
    killed = Counter()
    for _ in range(4):
        process = start(source, folder)
        before = len(part_paths(folder)) if folder.exists() else 0
        wait_for(lambda p=process: p.poll() is not None or children(p.pid))
        wait_for(lambda p=process, n=before: p.poll() is not None or len(contents(folder)) > n)
        time.sleep(draw.random() / 2)
        workers = children(process.pid)
        if process.poll() is None and workers and draw.random() < 0.5:
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed["worker"] += 1
            _, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            break
        if process.poll() is None:
            process.kill()
            killed["driver"] += 1
        process.communicate()
        for worker in workers:
            wait_for(lambda w=worker: is_gone(w))
    assert killed
    process = start(source, folder)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    encode_shards(ENCODER, source, tmp_path / "one")
    assert contents(folder) == contents(tmp_path / "one")
    ids = [name for path in part_paths(folder) for name in read_part(path)[1]["id"]]
    assert Counter(ids) == Counter(f"v{row}" for row in range(6_000))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_workers_and_keeps_whole_parts(tmp_path, number, code):
    source, folder = write_documents(tmp_path / "docs.jsonl", 30_000), tmp_path / "parts"
    process = start(source, folder, group=True)
    wait_for(lambda: folder.exists() and len(contents(folder)) > 1)
    workers = children(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, number)  # as a terminal does: to all of its processes
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "")
    assert error.splitlines()[-1].startswith("relsdk: error: interrupted; finished work is kept")
    assert "Traceback" not in error
    assert all(map(is_gone, workers))
    names = os.listdir(folder)
    assert all(name.startswith("part-") for name in names)
    for path in part_paths(folder):
        read_part(path)


MEMORY = (
    PEAK
    + """
import sys, warnings
warnings.simplefilter("ignore")
from relsdk.shards import encode_shards
encode_shards(*sys.argv[1:4])
print(peak())
"""
)


def test_memory_does_not_grow_with_rows(tmp_path):
    """The driver, too, reads the whole input and holds none of it."""
    peaks = []
    for count in (10_000, 100_000):
        source = write_documents(tmp_path / f"{count}.jsonl", count)
        command = [sys.executable, "-c", MEMORY, ENCODER, source, tmp_path / f"parts-{count}"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 8 << 20, peaks  # 90,000 rows of ids, texts and vectors are 20 MB


def test_threads_do_not_change_fp32(tmp_path):
    source = write_documents(tmp_path / "docs.jsonl", 2000)
    for threads in (1, 2, 4):
        encode_shards(ENCODER, source, tmp_path / str(threads), variant="fp32", threads=threads)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "4")
    vectors = np.concatenate([read_part(path)[1]["vector"] for path in part_paths(tmp_path / "1")])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
