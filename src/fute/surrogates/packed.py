"""Products of a few rows with weights that nothing trains, kept in the order that oneDNN reads them in.

Given weights as they are, it copies them into that order each time: for 32 rows this takes as long as the
product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fute.core.runtime import cpu_flags, fast_bfloat16
from fute.surrogates.linear import product

_FEW = 32  # rows that weights are packed for
_MOST = 2 << 30  # bytes of packed weights that are kept of a model


def pack(layers: Sequence[nn.Linear]) -> None:
    """Keep these layers' weights packed too, for as long as the layers live; where that doesn't help, or they
    are too many to be kept twice more, none.
    """
    weights = [layer.weight for layer in layers]
    able = all(weight.device.type == "cpu" and weight.dtype in _packs() for weight in weights)
    if not able or 2 * sum(weight.nbytes for weight in weights) > _MOST:
        return
    for layer in layers:
        if _packed(layer) is None:
            _PACKED[layer] = _Packed(layer.weight)


def through(layer: nn.Linear, x: Tensor) -> Tensor:
    """`x Wᵀ + b` of a layer that nothing trains, in its weights' type, without gradients: (n, out)."""
    x, packed = x.to(layer.weight.dtype), _packed(layer)
    return layer(x) if packed is None else product(x, packed.ahead, layer.bias)


def back_through(layer: nn.Linear, grad: Tensor) -> Tensor:
    """`∂L/∂x = ∂L/∂y W` of such a layer: (n, in)."""
    grad, packed = grad.to(layer.weight.dtype), _packed(layer)
    return grad @ layer.weight if packed is None else product(grad, packed.back)


class _Packed:
    """A layer's weights, packed for both of its products."""

    def __init__(self, weight: Tensor) -> None:
        self._of, self._version = weight.detach(), weight._version
        self.ahead, self.back = (torch.ops.mkldnn._reorder_linear_weight(w, _FEW) for w in (weight, weight.T))

    def is_of(self, weight: Tensor) -> bool:
        """Whether these are still the weights."""
        return self._of.data_ptr() == weight.data_ptr() and self._version == weight._version


_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()


def _packed(layer: nn.Linear) -> _Packed | None:
    """The layer's weights, if they are kept packed as they are now."""
    packed = _PACKED.get(layer)
    return packed if packed is not None and packed.is_of(layer.weight) else None


@functools.cache
def _packs() -> tuple[torch.dtype, ...]:
    """The types of weights that oneDNN packs here."""
    if not torch.backends.mkldnn.is_available() or "avx2" not in cpu_flags():  # type: ignore[no-untyped-call]
        return ()
    return (torch.float32, torch.bfloat16) if fast_bfloat16() else (torch.float32,)
