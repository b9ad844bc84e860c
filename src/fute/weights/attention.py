"""Attention in bfloat16, without gradients, by attention.cpp: thrice as fast as PyTorch's on AMD's CPUs."""

from __future__ import annotations

import functools
from ctypes import CDLL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fute.core.native import call, compiled_for_halves

IMPLEMENTATION = "fute"
FUSED = ("sdpa", IMPLEMENTATION)  # both take masks of bools
_LANES = 16  # numbers that its registers hold


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
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = bool(causal) and attention_mask is None
    if not _takes(query, key, value, attention_mask, causal, kwargs):
        made: tuple[Tensor, Any] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return made
    bias, scaling = kwargs.get("position_bias"), kwargs.get("scaling")
    return attend(query, key, value, attention_mask, bias, scaling, causal), None


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
    library = _library()
    assert library is not None
    (batch, heads, queries, size), keys = query.shape, key.shape[2]
    out = query.new_empty(batch, queries, heads, size)
    given: list[Any] = []
    for side in (query, key, value):
        side = side if side.stride(3) == 1 else side.contiguous()
        given += [side, *side.stride()[:3]]
    if bias is not None:
        bias = bias.to(query.dtype).contiguous().expand(1, heads, queries, keys)
    if mask is not None:
        mask = mask.contiguous().expand(batch, 1, queries, keys)
    given += [bias, *((0, 0) if bias is None else bias.stride()[1:3])]
    given += [mask, *((0, 0) if mask is None else mask.stride()[:3:2]), int(causal)]
    given += [batch, heads, heads // key.shape[1], queries, keys, size]
    scaling = size**-0.5 if scaling is None else float(scaling)
    call(library, "attend", *given, scaling, out, torch.get_num_threads())
    return out


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    batch, heads, queries, size = query.shape
    return query.new_empty(batch, queries, heads, size)


def _takes(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, kwargs: dict[str, Any]
) -> bool:
    """Whether `attend` can do it, and is worth it: for one query keys and values aren't worth packing."""
    sides, bias = (query, key, value), kwargs.get("position_bias")
    return (
        all(side.dtype == torch.bfloat16 and side.device.type == "cpu" for side in sides)
        and not (torch.is_grad_enabled() and any(side.requires_grad for side in sides))
        and query.shape[2] > 1
        and query.shape[3] == value.shape[3]
        and query.shape[3] % _LANES == 0
        and (mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1))
        and (bias is None or bias.shape[0] == 1)
        and not (causal and query.shape[2] != key.shape[2])
        and not kwargs.get("dropout")
        and all(kwargs.get(name) is None for name in ("softcap", "s_aux", "cache"))
        and (torch.compiler.is_compiling() or _library() is not None)
    )


@functools.cache
def _library() -> CDLL | None:
    """attention.cpp; None where it can't be compiled or isn't faster."""
    return compiled_for_halves(Path(__file__).with_suffix(".cpp"))
