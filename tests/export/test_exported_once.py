"""The tests' memory of exports: what differs is exported; what does not is read from the folder."""

from types import SimpleNamespace

import onnx_ir
import pytest
import torch
from torch import nn

from tests.exported_once import remembered


@pytest.fixture
def exports():
    """What was exported, a weight each."""
    return []


@pytest.fixture
def export(exports, tmp_path):
    def plain(module, **options):
        exports.append(module.weight.item())
        return SimpleNamespace(
            model=onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], name="toy"), ir_version=10)
        )

    return lambda: remembered(plain, tmp_path)


def scale(value):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_the_same_toy_is_exported_once(export, exports, tmp_path):
    inputs = {"x": torch.zeros(1)}
    first = export()(scale(1.0), kwargs=inputs)
    again = export()(scale(1.0), kwargs=inputs)  # as in another process: nothing is shared but the folder
    assert exports == [1.0]
    assert first.model is not again.model  # who changes one changes no other
    export()(scale(2.0), kwargs=inputs)
    export()(scale(1.0), kwargs={"x": torch.ones(1)})
    export()(scale(1.0), kwargs=inputs, opset_version=18)
    assert exports == [1.0, 2.0, 1.0, 1.0]
    assert len(list(tmp_path.iterdir())) == 4  # and nothing half


def test_a_failed_export_is_not_remembered(export, exports, tmp_path):
    def fail(module, **options):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        remembered(fail, tmp_path)(scale(1.0), kwargs={})
    export()(scale(1.0), kwargs={})
    assert exports == [1.0]
