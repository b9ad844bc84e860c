"""Sums of products of gradients by products.cpp: each gradient is used up in the cache it was made in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fute.core.native import call, compiled

_WIDTH = 64  # columns that its registers hold
_SOURCE = Path(__file__).with_suffix(".cpp")


def takes(total: Tensor) -> bool:
    """Whether products can be added to this here: on a CPU, with a compiler, and of a width that fits."""
    return total.device.type == "cpu" and total.shape[-1] % _WIDTH == 0 and compiled(_SOURCE) is not None


def add_products(g: Tensor, x: Tensor, weights: Tensor, total: Tensor) -> None:
    """Add `Σ_i Σ_ab w_iab P_ia ∘ P_ib`, over the pairs a ≤ b, to the total of each black box.

    `P_ia = Gⱼᵀ Xⱼ` with j = i R + a: the gradient of the a-th of example i's R values.

    In float32; of halves, where the CPU multiplies them (AVX512-BF16), the products of two tokens are added
    before they are rounded to it.

    Args:
        g, x: (n R, T, rows) and (n R, T, columns), bfloat16 or float32.
        weights: float32 (models, n, P), P = R (R + 1) / 2.
        total: float32 (models, rows, columns), one that `takes` has taken.
    """
    library = compiled(_SOURCE)
    assert library is not None
    models, n, _ = weights.shape
    sizes = [models, n, len(g) // n, *g.shape[1:], x.shape[2]]
    halves = g.dtype == x.dtype == torch.bfloat16 and hasattr(library, "add_products_of_halves")
    g, x = (side.to(torch.bfloat16 if halves else torch.float32).contiguous() for side in (g, x))
    name = "add_products_of_halves" if halves else "add_products"
    call(library, name, g, x, weights.contiguous(), *sizes, total, torch.get_num_threads())
