"""numpy's products take no more threads than relsdk may use, and numpy's user keeps his."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("threadpoolctl")  # tells what numpy's library is set to

PROGRAM = """
import json, os, threading
import numpy as np
from threadpoolctl import threadpool_info
from relsdk.runtime.blas import blas_threads, bounded_blas
from relsdk.index.flat import exact_search

def now():
    return [pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"]

class Seen(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul:
            seen.append(now())
        plain = [np.asarray(item) for item in inputs]
        return getattr(ufunc, method)(*plain, **options)

seen, result = [], {"before": now(), "choice": blas_threads()}
vectors = np.eye(64, dtype=np.float32).view(Seen)
rows = exact_search(vectors, np.eye(64, dtype=np.float32)[:3], 1).rows.ravel().tolist()
result |= {"rows": rows, "inside": seen[0], "after": now()}

inside, go = threading.Event(), threading.Event()
def other():
    with bounded_blas():
        inside.set()
        go.wait(60)
thread = threading.Thread(target=other)
thread.start()
inside.wait(60)
with bounded_blas():
    result["two inside"] = now()
result["one inside"] = now()
child = os.fork()
if not child:
    right = now() == result["before"]
    with bounded_blas():
        right = right and now() == result["inside"]
    os._exit(0 if right else 1)
result["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go.set()
thread.join()
result["at the end"] = now()
print(json.dumps(result))
"""


def run(**variables):
    base = {key: value for key, value in os.environ.items() if "THREADS" not in key}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        env={**base, **variables},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if not found["before"]:
        pytest.skip("numpy has no OpenBLAS here")
    return found


def test_exact_search_takes_the_threads_that_were_chosen():
    found = run(OPENBLAS_NUM_THREADS="4", RELSDK_THREADS="1")
    (before,) = found["before"]
    if before == 1:
        pytest.skip("numpy has one thread anyway")
    assert found["rows"] == [0, 1, 2]
    assert found["choice"] == 1
    assert found["inside"] == found["two inside"] == found["one inside"] == [1]
    assert found["after"] == found["at the end"] == [before]
    assert found["child"] == 0


def test_nothing_is_raised_above_what_numpy_was_told():
    found = run(OPENBLAS_NUM_THREADS="1", RELSDK_THREADS="3")
    assert found["before"] == found["inside"] == found["two inside"] == found["at the end"] == [1]
    assert found["choice"] == 1
