"""The comparison of the native engine with onnxruntime, at toy size."""

import numpy as np
import pytest

from bench.experiments.native_engine import compare, measure
from bench.pages.native_engine import native_engine_table
from relsdk.runtime.native_engine import native_engine
from relsdk_sample import generate
from tests.toys import CORPUS, copy_bundle


def test_each_instruction_set_is_compared(tmp_path):
    library, best = native_engine()
    if library is None:
        pytest.skip(f"the native engine {best}")
    bundle = copy_bundle("native-bundle-v1", tmp_path / "bundle")
    pairs = generate(seed=3, n_documents=300, n_queries=40).pairs
    found = measure(bundle, CORPUS, pairs, pairs[:40])
    assert (found["texts"], found["pairs"]) == (len(CORPUS), 40)
    assert found["variant"].startswith("int8_")
    row = found["engine"][best]
    assert row["cosine_to_onnxruntime"]["least"] > 0.999
    assert 0 <= row["levels_changed"] <= 40
    noted = {"machine": {"cpu": "a CPU", "date": "2026-11-30"}, "onnxruntime": "1.32.0", "model": "toy"}
    table = native_engine_table({**noted, **found})
    assert table.count("\n|") == len(found["engine"]) + 2
    assert f"| {row['levels_changed']} of 40 |" in table
    assert table.endswith("onnxruntime 1.32.0, a CPU, 2026-11-30 (`make native-engine`).\n")


def test_differences_by_hand():
    theirs = np.eye(4, dtype=np.float32)
    ours = theirs.copy()
    ours[0, 1] = 1e-6
    ours[1, 0] = 0.75
    found = compare(ours, theirs, theirs)
    assert (found["same_bits"], found["same_within_1e-5"]) == (0.5, 0.75)
    assert (found["median_difference"], found["largest_difference"]) == (5e-7, 0.75)
    assert found["cosine_to_fp32"] == {"mean": 0.95, "least": 0.8}
