"""Linear layers by oneDNN against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from fute import Input
from fute.surrogates import linear
from fute.surrogates.base import Surrogate, represent

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def drawn(bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(24, 40, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (3, 7, 24), (1, 24), (2, 0, 24)])
def test_values_and_gradients_are_those_of_pytorch(bias, shape):
    plain = drawn(bias)
    ours = linear.by_onednn(copy.deepcopy(plain))
    x = torch.randn(shape)
    weigh = torch.randn(*shape[:-1], 40)
    made = []
    for layer in (plain, ours):
        own = x.clone().requires_grad_()
        y = layer(own)
        (y * weigh).sum().backward()
        made.append([y, own.grad, *(p.grad for p in layer.parameters())])
    assert len(made[0]) == (4 if bias else 3)
    for right, got in zip(*made, strict=True):
        assert got.shape == right.shape
        assert torch.allclose(got, right, atol=1e-5)


def test_a_frozen_layer_passes_gradients_on_and_keeps_no_inputs():
    layer = linear.by_onednn(drawn().requires_grad_(False))
    x = torch.randn(5, 24, requires_grad=True)
    y = layer(x)
    assert y.grad_fn.saved_tensors[0] is None
    y.sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(5, 24), atol=1e-5)
    assert layer.weight.grad is None


def test_what_is_not_float32_stays_with_pytorch(monkeypatch):
    monkeypatch.setattr(linear, "product", lambda *given: pytest.fail("oneDNN was asked"))
    layer = linear.by_onednn(drawn())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(5, 24)).dtype == torch.bfloat16
    assert layer.bfloat16()(torch.randn(5, 24).bfloat16()).dtype == torch.bfloat16


def test_a_copy_has_weights_of_its_own():
    layer = linear.by_onednn(drawn())
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    x = torch.randn(5, 24)
    assert torch.allclose(other(x), other.bias.expand(5, 40))
    assert not torch.allclose(layer(x), other(x))


def test_a_surrogate_reads_the_same_with_either(monkeypatch):
    ours, plain = (represent(*read(monkeypatch, faster)) for faster in (True, False))
    assert torch.allclose(ours, plain, atol=1e-5)


def read(monkeypatch, faster):
    """A float32 surrogate's model and tokens, on a CPU where oneDNN is faster or isn't."""
    monkeypatch.setattr(linear, "is_faster", lambda: faster)
    surrogate = Surrogate(dtype="float32")
    model = surrogate.load("float32")
    layers = [m for m in model.modules() if type(m) is nn.Linear]
    assert all(("forward" in vars(layer)) == faster for layer in layers)
    return model, surrogate.tokenize([Input("It rains."), Input("Nobody came to see it.")])
