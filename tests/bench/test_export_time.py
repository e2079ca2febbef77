"""The measurement of an export at toy size, and its table."""

import pytest

from bench.experiments.export_time import measure
from bench.pages.export_time import export_table


@pytest.mark.slow
def test_the_steps_of_an_export_are_timed(toy_checkpoint):
    found = measure(toy_checkpoint, 1)
    assert {"import torch", "measure activations", "compare with the checkpoint"} <= set(found["steps"])
    for clock in ("seconds", "cpu_seconds"):
        steps = sum(row[clock] for row in found["steps"].values())
        assert abs(steps - found["total"][clock]) <= 0.01 * len(found["steps"])
    assert found["variants"]["fp32"]["min_cosine"] > 0.9999
    machine = {"cpu": "a CPU", "date": "2026-11-30"}
    table = export_table({**found, "machine": machine, "loaded": False})
    assert table.count("\n|") == len(found["steps"]) + 2
    assert table.endswith("a CPU, 2026-11-30, one CPU (`make export-time`).\n")
