"""Products of a few rows with weights that nothing trains, kept in the order that oneDNN reads them in.

Given weights as they are, it copies them into that order each time: for 32 rows this takes as long as the
product.
"""

from __future__ import annotations

import functools
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fute.core.runtime import cpu_flags, fast_bfloat16

_FEW = 32  # rows that weights are packed for
_MOST = 2 << 30  # bytes of packed weights that are kept


def through(layer: nn.Linear, x: Tensor) -> Tensor:
    """`x Wᵀ + b` of a layer that nothing trains, in its weights' type, without gradients: (n, out)."""
    x = x.to(layer.weight.dtype)
    packed = _packed(layer, x)
    return layer(x) if packed is None else _product(x, packed.ahead, layer.bias)


def back_through(layer: nn.Linear, grad: Tensor) -> Tensor:
    """`∂L/∂x = ∂L/∂y W` of such a layer: (n, in)."""
    grad = grad.to(layer.weight.dtype)
    packed = _packed(layer, grad)
    return grad @ layer.weight if packed is None else _product(grad, packed.back)


class _Packed:
    """A layer's weights, packed for both of its products."""

    def __init__(self, weight: Tensor) -> None:
        self._of, self._version = weight.detach(), weight._version
        self.nbytes = 2 * weight.nbytes
        self.ahead, self.back = (torch.ops.mkldnn._reorder_linear_weight(w, _FEW) for w in (weight, weight.T))

    def is_of(self, weight: Tensor) -> bool:
        """Whether these are still the weights."""
        return self._of.data_ptr() == weight.data_ptr() and self._version == weight._version


_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()


def _packed(layer: nn.Linear, x: Tensor) -> _Packed | None:
    """The layer's packed weights; None where they don't help, or are too many to be kept twice more."""
    if x.device.type != "cpu" or x.dtype not in _packs() or not len(x):
        return None
    packed = _PACKED.get(layer)
    if packed is not None and packed.is_of(layer.weight):
        return packed
    if sum(other.nbytes for other in _PACKED.values()) + 2 * layer.weight.nbytes > _MOST:
        return None
    packed = _PACKED[layer] = _Packed(layer.weight)
    return packed


@functools.cache
def _packs() -> tuple[torch.dtype, ...]:
    """The types of weights that oneDNN packs here."""
    if not torch.backends.mkldnn.is_available() or "avx2" not in cpu_flags():  # type: ignore[no-untyped-call]
        return ()
    return (torch.float32, torch.bfloat16) if fast_bfloat16() else (torch.float32,)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return made
