"""Attention in bfloat16 and its gradients by attention.cpp: thrice as fast as PyTorch's on AMD's CPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fute.core.native import call, compiled, is_faster
from fute.core.runtime import cpu_flags

IMPLEMENTATION = "fute"
FUSED = ("sdpa", IMPLEMENTATION)  # both take masks of bools
_LANES = 16  # numbers that its registers hold
_MEASURED = (8, 12, 64, 64)  # texts, heads, tokens and head size of what both are measured on


def install(model: Any) -> None:
    """Let a model attend so from now on, if it would ask PyTorch, in bfloat16 on a CPU where this is faster.
    Architectures with attention of their own keep it.
    """
    if (
        model.config._attn_implementation == "sdpa"
        and model.dtype == torch.bfloat16
        and model.device.type == "cpu"
        and _library() is not None
    ):
        model.set_attn_implementation(IMPLEMENTATION)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Any]:
    """What transformers calls for attention: (B, T, heads, head size). Ours where it can, or PyTorch's."""
    made = fused(module, query, key, value, attention_mask, **kwargs)
    if made is not None:
        return made, None
    of_torch: tuple[Tensor, Any] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return of_torch


def fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Tensor | None:
    """`attend` for what transformers gives an attention module; None where it can't, or isn't worth it."""
    if not _takes(module, query, key, value, attention_mask, **kwargs):
        return None
    given = attention_mask, kwargs.get("position_bias"), kwargs.get("scaling")
    by: Callable[..., Tensor] = _Attend.apply if learns(query, key, value) else attend
    return by(query, key, value, *given, _is_causal(module, attention_mask, kwargs))


def _is_causal(module: nn.Module, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    said = kwargs.get("is_causal")
    return mask is None and bool(getattr(module, "is_causal", True) if said is None else said)


def learns(*sides: Tensor) -> bool:
    """Whether any of these gets a gradient."""
    return torch.is_grad_enabled() and any(side.requires_grad for side in sides)


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@torch.library.custom_op("fute::attend", mutates_args=())  # so that `torch.compile` doesn't look inside
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scaling: float | None = None,
    causal: bool = False,
) -> Tensor:
    """`softmax(s Q Kᵀ + bias) V` with scores in float32, in bfloat16 (B, T, heads, head size); 0 for a query
    that sees no key.

    Args:
        query: bfloat16 (B, heads, T, head size); the head size is a multiple of 16.
        key, value: the same of (B, heads or fewer, keys, head size): each is that of several heads, if fewer.
        mask: bool (B or 1, 1, T or 1, keys), which keys a query sees; None: all.
        bias: (1, heads, T or 1, keys).
        scaling: s; None: 1 / √head size.
        causal: query i sees no key behind the i-th.
    """
    (batch, heads, queries, size), library = query.shape, _library()
    assert library is not None
    out = query.new_empty(batch, queries, heads, size)
    given = _given(query, key, value, mask, bias, scaling, causal)
    call(library, "attend", *given, out, torch.get_num_threads())
    return out


def _given(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scaling: float | None,
    causal: bool,
) -> list[Any]:
    """What both functions of attention.cpp take first."""
    (batch, heads, queries, size), keys = query.shape, key.shape[2]
    given = [part for side in (query, key, value) for part in _rows(side)]
    if bias is not None:
        bias = bias.to(query.dtype).contiguous().expand(1, heads, queries, keys)
    if mask is not None:
        mask = mask.contiguous().expand(batch, 1, queries, keys)
    given += [bias, *((0, 0) if bias is None else bias.stride()[1:3])]
    given += [mask, *((0, 0) if mask is None else mask.stride()[:3:2]), int(causal)]
    given += [batch, heads, heads // key.shape[1], queries, keys, size]
    return [*given, size**-0.5 if scaling is None else float(scaling)]


def _rows(side: Tensor) -> list[Any]:
    """A tensor whose rows are whole, and how far they are apart."""
    side = side if side.stride(3) == 1 else side.contiguous()
    return [side, *side.stride()[:3]]


class _Attend(torch.autograd.Function):
    """`attend` with gradients: `∂L/∂S = P ∘ (∂L/∂P − Σ P ∘ ∂L/∂P)`, where P = softmax(S) is made anew."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        ctx.save_for_backward(*given[:5])
        ctx.rest = given[5:]
        made: Tensor = attend(*given)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given, library = ctx.saved_tensors, _library()
        assert library is not None
        made = [torch.empty(side.shape, dtype=side.dtype) for side in given[:3]]
        grad = _rows(grads[0].transpose(1, 2))
        call(library, "attend_back", *_given(*given, *ctx.rest), *grad, *made, torch.get_num_threads())
        return (*made, None, None, None, None)


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    batch, heads, queries, size = query.shape
    return query.new_empty(batch, queries, heads, size)


def _takes(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> bool:
    """Whether `attend` can do it, and is worth it: for one query keys and values aren't worth packing. The
    bias gets no gradient from it.
    """
    sides, bias = (query, key, value), kwargs.get("position_bias")
    return (
        all(side.dtype == torch.bfloat16 and side.device.type == "cpu" for side in sides)
        and query.shape[2] > 1
        and query.shape[3] == value.shape[3]
        and query.shape[3] % _LANES == 0
        and (mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1))
        and (bias is None or (bias.shape[0] == 1 and not learns(bias)))
        and not (_is_causal(module, mask, kwargs) and query.shape[2] != key.shape[2])
        and not kwargs.get("dropout")
        and all(kwargs.get(name) is None for name in ("softcap", "s_aux", "cache"))
        and (torch.compiler.is_compiling() or _library() is not None)
    )


@functools.cache
def _library() -> CDLL | None:
    """attention.cpp; None where it can't be compiled, or isn't faster: which is measured where there is AMX,
    since PyTorch uses that.
    """
    library = compiled(Path(__file__).with_suffix(".cpp")) if "avx512_bf16" in cpu_flags() else None
    if library is None or "amx_bf16" not in cpu_flags():
        return library
    seeded = torch.Generator().manual_seed(0)  # no draw of the caller's
    query, key, value = torch.randn(3, *_MEASURED, generator=seeded).bfloat16().unbind()
    given, out = _given(query, key, value, None, None, None, False), query.transpose(1, 2).contiguous()

    def ours() -> Tensor:
        call(library, "attend", *given, out, torch.get_num_threads())
        return out.transpose(1, 2)

    def theirs() -> Tensor:
        return scaled_dot_product_attention(query, key, value)

    return library if is_faster(library, ours, theirs, version=torch.__version__) else None
