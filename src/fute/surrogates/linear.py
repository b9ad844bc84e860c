"""Linear layers in float32 by oneDNN, on CPUs where PyTorch's own products are slow."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

from fute.core.runtime import cpu_flags, cpu_vendor


def is_faster() -> bool:
    """Whether oneDNN is faster than what PyTorch takes for float32, MKL: on AMD's CPUs MKL leaves AVX-512
    alone, and has half the speed or less.
    """
    return (
        cpu_vendor() == "AuthenticAMD"
        and "avx512f" in cpu_flags()
        and bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def by_onednn(model: Any) -> Any:
    """The model, whose linear layers from now on use oneDNN where they multiply float32 on a CPU."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
    return model


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    single = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, layer.weight))
    if not single or not x.numel() or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, layer.weight, layer.bias)
    made: Tensor = _Linear.apply(x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return made


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b`."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


class _Linear(torch.autograd.Function):
    """`y = x Wᵀ + b`; `∂L/∂x = G W`, `∂L/∂W = Gᵀ X` and `∂L/∂b = Σ G` over all rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T) if to_x else None,
            product(rows.T, x.reshape(-1, x.shape[-1]).T) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )
