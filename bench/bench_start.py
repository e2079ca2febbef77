"""Start: what `import relsdk` adds to importing numpy and onnxruntime, and process start to first vector."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "numpy and onnxruntime": "import numpy, onnxruntime",
    "relsdk": "import relsdk",
    "first vector": "from relsdk import Embedder; Embedder({bundle!r}, threads=1).encode_query('红烧肉')",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_process(benchmark, bundle, what):
    program = PROGRAMS[what].format(bundle=str(bundle))
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", program], check=True), rounds=7, warmup_rounds=1
    )
