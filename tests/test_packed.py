"""Products of a few rows with packed weights against PyTorch's own."""

import gc

import pytest
import torch
from torch import nn

from fute.surrogates import packed
from fute.surrogates.packed import back_through, through

KINDS = [
    torch.float64,  # which oneDNN doesn't multiply
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(torch.bfloat16 not in packed._packs(), reason="bfloat16 is slow here"),
    ),
]


@pytest.fixture(autouse=True)
def none_kept():
    packed._PACKED.clear()


def drawn(dtype=torch.float32, bias=False):
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 5, 100])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_products_are_those_of_the_layer(dtype, rows, bias):
    layer = drawn(dtype, bias)
    x, grad = torch.randn(rows, 24, dtype=torch.float64), torch.randn(rows, 40, dtype=torch.float64)
    for made, right in ((through(layer, x), layer(x.to(dtype))), (back_through(layer, grad), None)):
        right = grad.to(dtype) @ layer.weight if right is None else right
        assert made.dtype == dtype
        assert torch.allclose(made, right, rtol=1e-5, atol=1e-5 if dtype != torch.bfloat16 else 2e-2)


@pytest.mark.skipif(not packed._packs(), reason="oneDNN packs nothing here")
def test_weights_are_packed_once_and_anew_when_they_change():
    layer, x = drawn(), torch.randn(5, 24)
    through(layer, x)
    first = packed._PACKED[layer]
    back_through(layer, torch.randn(3, 40))
    assert packed._PACKED[layer] is first
    layer.weight.mul_(2)  # in place
    assert torch.allclose(through(layer, x), layer(x), atol=1e-5)
    layer.weight.data = torch.randn(40, 24)  # in its place
    assert torch.allclose(through(layer, x), layer(x), atol=1e-5)


@pytest.mark.skipif(not packed._packs(), reason="oneDNN packs nothing here")
def test_packed_weights_go_with_their_layer():
    layer = drawn()
    through(layer, torch.randn(5, 24))
    assert len(packed._PACKED) == 1
    del layer
    gc.collect()
    assert not len(packed._PACKED)


def test_what_has_no_room_is_multiplied_as_it_is(monkeypatch):
    monkeypatch.setattr(
        packed, "_MOST", 3 * 24 * 40 * 4
    )  # bytes: of one layer, for both its products, and a half
    one, other, x = drawn(), drawn(), torch.randn(5, 24)
    for layer in (one, other):
        assert torch.allclose(through(layer, x), layer(x), atol=1e-5)
    assert other not in packed._PACKED
