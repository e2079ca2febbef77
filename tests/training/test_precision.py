import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from relsdk.errors import InputError
from relsdk_checkpoint.loading import load_transformer, set_dropout
from relsdk_training.engine.precision import _has_bf16, autocast_for

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
    assert _has_bf16(CPU, frozenset(features)) is expected
    monkeypatch.setattr("relsdk_training.engine.precision.cpu_features", lambda: frozenset(features))
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


def test_attention_on_a_cpu_stays_in_fp32_under_bf16():
    """Its values and gradients are those of fp32, rounded once; other operations are bf16's."""
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.zeros(2, 1, 5, 5).index_fill_(3, torch.tensor([4]), -1e4).bfloat16()
    exact = [x.float().requires_grad_() for x in (query, key, value)]
    expected = scaled_dot_product_attention(*exact, attn_mask=mask.float())
    expected.sum().backward()
    rounded = [x.clone().requires_grad_() for x in (query, key, value)]
    with autocast_for(CPU, "bf16")():
        found = scaled_dot_product_attention(*rounded, attn_mask=mask)
        named = scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=mask)
        assert torch.is_autocast_enabled("cpu")
    found.sum().backward()
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    assert torch.equal(named, found)
    for one, other in zip(rounded, exact, strict=True):
        assert torch.equal(one.grad, other.grad.bfloat16())
    with autocast_for(CPU, "fp32")():
        assert scaled_dot_product_attention(query, key, value).dtype is torch.bfloat16
