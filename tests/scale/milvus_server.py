"""A real Milvus server for tests: one that is there already, or PyPI's `milvus` 2.3, which holds a whole one.

RELSDK_TEST_MILVUS=HOST:PORT names one that is there. `pip install 'milvus==2.3.*'`, in this environment or in
one of its own whose Python RELSDK_TEST_MILVUS_PYTHON names, brings the other.
"""

import atexit
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile

_PROGRAM = """
import sys
from milvus import MilvusServer
server = MilvusServer()
server.set_base_dir(sys.argv[1])
server.start()
print(server.listen_port, flush=True)
try:
    sys.stdin.read()
finally:
    server.stop()
"""


@functools.cache
def milvus_address():
    """Return HOST:PORT of a server, started once a session; None where none can be had."""
    given = os.environ.get("RELSDK_TEST_MILVUS")
    if given:
        return given
    python = os.environ.get("RELSDK_TEST_MILVUS_PYTHON")
    if not python and importlib.util.find_spec("milvus") is None:
        return None
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [python or sys.executable, "-c", _PROGRAM, folder.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def stop():
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        folder.cleanup()

    atexit.register(stop)
    return f"127.0.0.1:{int(process.stdout.readline())}"
