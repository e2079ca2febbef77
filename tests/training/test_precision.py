import pytest
import torch
from torch import nn

from relsdk.errors import InputError
from relsdk_training.precision import autocast_for, has_bf16
from relsdk_training.transformers_folder import load_transformer, set_dropout

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2"}, False),
        ({"avx512f"}, False),
        ({"avx512_bf16"}, True),
        ({"amx_bf16"}, True),
        ({"bf16"}, True),
    ],
)
def test_bf16_is_chosen_where_the_cpu_has_it(features, expected, monkeypatch):
    assert has_bf16(CPU, frozenset(features)) is expected
    monkeypatch.setattr("relsdk_training.precision.cpu_features", lambda: frozenset(features))
    with autocast_for(CPU, "auto")():
        assert torch.is_autocast_enabled("cpu") is expected


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_what_is_asked_for_is_done(precision, dtype):
    with autocast_for(CPU, precision)():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_dropout_is_changed_everywhere(toy_checkpoint):
    from transformers import AutoModel

    model = load_transformer(AutoModel, toy_checkpoint)
    set_dropout(model, 0.0)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.0}
    model.train()
    ids = torch.tensor([[0, 5, 6, 2]])
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    with pytest.raises(InputError, match="less than 1"):
        set_dropout(model, 1.0)
