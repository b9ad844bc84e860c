"""Products of a few rows with packed weights against PyTorch's own."""

import gc

import pytest
import torch
from torch import nn

from fute.surrogates import packed
from fute.surrogates.packed import back_through, pack, through

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
    pack([layer])
    assert len(packed._PACKED) == (dtype in packed._packs())
    x, grad = torch.randn(rows, 24, dtype=torch.float64), torch.randn(rows, 40, dtype=torch.float64)
    for made, right in ((through(layer, x), layer(x.to(dtype))), (back_through(layer, grad), None)):
        right = grad.to(dtype) @ layer.weight if right is None else right
        assert made.dtype == dtype
        assert torch.allclose(made, right, rtol=1e-5, atol=1e-5 if dtype != torch.bfloat16 else 2e-2)


@pytest.mark.skipif(not packed._packs(), reason="oneDNN packs nothing here")
def test_weights_are_packed_once_and_anew_when_they_change():
    layer, x = drawn(), torch.randn(5, 24)
    pack([layer])
    first = packed._PACKED[layer]
    pack([layer])
    assert packed._PACKED[layer] is first
    layer.weight.mul_(2)  # in place
    assert torch.allclose(through(layer, x), layer(x), atol=1e-5)
    pack([layer])
    assert packed._PACKED[layer] is not first
    layer.weight.data = torch.randn(40, 24)  # in its place
    for _ in range(2):
        assert torch.allclose(through(layer, x), layer(x), atol=1e-5)
        pack([layer])


@pytest.mark.skipif(not packed._packs(), reason="oneDNN packs nothing here")
def test_packed_weights_go_with_their_layer():
    layer = drawn()
    pack([layer])
    assert len(packed._PACKED) == 1
    del layer
    gc.collect()
    assert not len(packed._PACKED)


@pytest.mark.parametrize(("layers", "kept"), [(1, 1), (2, 0)])
def test_of_a_model_that_has_no_room_nothing_is_kept(layers, kept, monkeypatch):
    """Whatever other models keep: else a vector's bits would depend on what was embedded before it."""
    monkeypatch.setattr(
        packed, "_MOST", 3 * 24 * 40 * 4
    )  # bytes: one layer's, for both of its products, and a half
    other, model = drawn(), [drawn() for _ in range(layers)]
    pack([other])
    pack(model)
    assert sum(layer in packed._PACKED for layer in model) == (kept if packed._packs() else 0)
    x = torch.randn(5, 24)
    assert all(torch.allclose(through(layer, x), layer(x), atol=1e-5) for layer in model)
