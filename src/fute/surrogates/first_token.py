"""What T5's decoder makes of its first token behind a prefix, forward and backward written out.

A head reads a decoder's first token only. For so little, PyTorch takes as long to find its thousand
operations as to do them. Here each part of a layer is a function that returns what it makes, and how a
gradient goes back through it; no weight gets one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from fute.surrogates.base import at_least_single
from fute.surrogates.packed import back_through, pack, through

ARCHITECTURES = ("t5", "mt5")
_LATER = ("attention_mask", "past_key_values")  # what a decoder is given at later tokens
_BY_HEAD = ("EncDecAttention.k", "EncDecAttention.v")  # whose weights are multiplied head by head
Back = Callable[[Tensor], Tensor]  # from ∂L/∂y to ∂L/∂x
Part = Callable[[Any, Tensor], tuple[Tensor, Back]]  # of a layer: what it makes of x


def prepare(decoder: Any) -> None:
    """Pack the weights that `first_token` multiplies with, for all calls."""
    layers = [(name, layer) for name, layer in decoder.named_modules() if isinstance(layer, nn.Linear)]
    pack([layer for name, layer in layers if not name.endswith(_BY_HEAD)])


@contextlib.contextmanager
def short_cut(decoder: Any, keys: Tensor, values: Tensor) -> Iterator[None]:
    """While this is open, a decoder that is asked for its first token alone takes it from `first_token`."""

    def forward(**given: Any) -> Any:
        ids = given["input_ids"]
        if ids.shape[1] > 1 or any(given.get(name) is not None for name in _LATER):
            return type(decoder).forward(decoder, **given)
        read = given["encoder_hidden_states"], given["encoder_attention_mask"]
        made = first_token(decoder, ids, *read, keys, values)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=made)

    decoder.__dict__["forward"] = forward
    try:
        yield
    finally:
        del decoder.__dict__["forward"]


def first_token(
    decoder: Any, ids: Tensor, states: Tensor, mask: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """The decoder's last hidden state at its first token: (B, 1, d).

    Args:
        decoder: a T5's, none of whose parameters learns.
        ids: the first tokens, (B, 1).
        states: the encoder's, (B, T, d).
        mask: which of them are seen, (B, T).
        keys, values: the prefix of the last layers, (2 × layers, heads, virtual tokens, head size): for each
            what it attends to in the decoder, then in the encoder.
    """
    made: Tensor = _FirstToken.apply(decoder, ids, states, mask, keys, values)  # type: ignore[no-untyped-call]
    return made


@dataclass
class _Side:
    """One attention's virtual tokens, K_p and V_p (heads, virtual tokens, head size), and what a backward
    pass finds to be their gradients.
    """

    keys: Tensor
    values: Tensor
    grads: Sequence[Tensor] = ()


@dataclass
class _Read:
    """The encoder's states (B, T, d), what is added to the score of each, (B, T), whether they get a
    gradient, and what a backward pass has found of it so far.
    """

    states: Tensor
    seen: Tensor
    learns: bool
    grad: Tensor | float = 0.0


class _FirstToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, decoder: Any, ids: Tensor, states: Tensor, mask: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        to_states = ctx.needs_input_grad[2]
        sides = [_Side(*pair) for pair in zip(keys, values, strict=True)]
        below = len(decoder.block) - len(sides) // 2
        none = _Side(keys[0, :, :0], values[0, :, :0])
        seen = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, float("-inf"))
        read = _Read(states, seen, to_states)
        x = decoder.embed_tokens(ids[:, 0])
        x = x.to(at_least_single(x.dtype))
        bias = decoder.block[0].layer[0].SelfAttention.compute_bias(1, 1)[0].to(x.dtype)
        ctx.sides, ctx.read, ctx.backs = sides, read, []
        each = iter([none] * 2 * below + sides)
        for i, block in enumerate(decoder.block):
            learns = to_states or (i >= below and any(ctx.needs_input_grad))
            itself: Part = partial(_to_itself, bias, next(each))
            encoder: Part = partial(_to_encoder, read, next(each))
            for layer, part in zip(block.layer, (itself, encoder, _dense), strict=True):
                x, back = _added(part, layer, x)
                ctx.backs += [back] * learns
        x, back = _normed(decoder.final_layer_norm, x)
        ctx.backs.append(back)
        return x[:, None].to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, read = grads[0][:, 0], ctx.read
        read.grad = 0.0
        for back in reversed(ctx.backs):
            grad = back(grad)
        to_states = read.grad.to(read.states.dtype) if read.learns else None
        keys, values = zip(*(side.grads for side in ctx.sides), strict=True)
        return None, None, to_states, None, torch.stack(keys), torch.stack(values)


def _added(part: Part, layer: Any, x: Tensor) -> tuple[Tensor, Back]:
    """`x + part(norm(x))`."""
    normed, of_norm = _normed(layer.layer_norm, x)
    made, of_part = part(layer, normed)
    return x + made, lambda grad: grad + of_norm(of_part(grad))


def _normed(norm: Any, x: Tensor) -> tuple[Tensor, Back]:
    """`y = w ∘ x r`, `r = 1 / √(mean x² + ε)`; `∂L/∂x = r (g − x r mean(g ∘ x r))`, where `g = w ∘ ∂L/∂y`."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    weight, unit = norm.weight.to(x.dtype), x * scale

    def back(grad: Tensor) -> Tensor:
        grad = grad * weight
        return (grad - unit * (grad * unit).mean(-1, keepdim=True)) * scale

    return weight * unit, back


def _dense(layer: Any, x: Tensor) -> tuple[Tensor, Back]:
    """`W_o a(W_i x)`, or gated: `W_o (a(W_i0 x) ∘ W_i1 x)`."""
    within = layer.DenseReluDense
    gates = [within.wi_0, within.wi_1] if hasattr(within, "wi_0") else [within.wi]
    with torch.enable_grad():
        given = [through(gate, x).requires_grad_() for gate in gates]
        inner = within.act(given[0])
        for gate in given[1:]:
            inner = inner * gate

    def back(grad: Tensor) -> Tensor:
        grads = torch.autograd.grad(inner, given, back_through(within.wo, grad), retain_graph=True)
        to_x = [back_through(gate, of) for gate, of in zip(gates, grads, strict=True)]
        return sum(to_x[1:], to_x[0]).to(grad.dtype)

    return through(within.wo, inner.detach()).to(x.dtype), back


def _to_itself(bias: Tensor, side: _Side, layer: Any, x: Tensor) -> tuple[Tensor, Back]:
    """Attention to the virtual tokens and to the one token that there is, at distance 0."""
    own = layer.SelfAttention
    heads = len(bias)
    query, key, value = (_by_head(through(made, x), heads).to(x.dtype) for made in (own.q, own.k, own.v))
    scores = (query * key).sum(-1, keepdim=True) + bias
    shares = torch.cat([query @ side.keys.mT, scores], -1).softmax(-1)
    first, last = shares[..., :-1], shares[..., -1:]
    mixed = first @ side.values + last * value

    def back(grad: Tensor) -> Tensor:
        grad = _by_head(back_through(own.o, grad), heads).to(grad.dtype)
        to_shares = torch.cat([grad @ side.values.mT, (grad * value).sum(-1, keepdim=True)], -1)
        slopes = _slopes(shares, to_shares)
        to_first, to_last = slopes[..., :-1], slopes[..., -1:]
        side.grads = to_first.mT @ query, first.mT @ grad
        to_query = to_first @ side.keys + to_last * key
        to_each = (own.q, to_query), (own.k, to_last * query), (own.v, last * grad)
        to_x = [back_through(made, _rows(of)).to(grad.dtype) for made, of in to_each]
        return to_x[0] + to_x[1] + to_x[2]

    return through(own.o, _rows(mixed)).to(x.dtype), back


def _to_encoder(read: _Read, side: _Side, layer: Any, x: Tensor) -> tuple[Tensor, Back]:
    """Attention to the virtual tokens and to the encoder's states H, which needs no product of H with the
    weights: `q (H W_kᵀ)ᵀ = (q W_k) Hᵀ` and `s (H W_vᵀ) = (s H) W_vᵀ`.
    """
    own, states, size = layer.EncDecAttention, read.states, side.keys.shape[1]
    kind, heads = own.q.weight.dtype, len(side.keys)
    to_key, to_value = (made.weight.view(heads, -1, made.in_features) for made in (own.k, own.v))
    query = _by_head(through(own.q, x), heads)
    raw = (query @ to_key).transpose(0, 1)  # (B, heads, d)
    query = query.to(x.dtype)
    scores = (raw @ states.mT).transpose(0, 1).to(x.dtype) + read.seen
    shares = torch.cat([query @ side.keys.mT, scores], -1).softmax(-1)
    first, rest = shares[..., :size], shares[..., size:].transpose(0, 1).to(kind)
    mixed = first @ side.values + ((rest @ states).transpose(0, 1) @ to_value.mT).to(x.dtype)
    kept = raw if read.learns else None  # else it is gone, and more stays in the caches

    def back(grad: Tensor) -> Tensor:
        grad = _by_head(back_through(own.o, grad), heads)
        to_mixed = (grad @ to_value).transpose(0, 1)
        grad = grad.to(x.dtype)
        to_rest = (to_mixed @ states.mT).transpose(0, 1).to(x.dtype)
        slopes = _slopes(shares, torch.cat([grad @ side.values.mT, to_rest], -1))
        to_first, to_scores = slopes[..., :size], slopes[..., size:].transpose(0, 1).to(kind)
        side.grads = to_first.mT @ query, first.mT @ grad
        if kept is not None:
            read.grad = read.grad + (to_scores.mT @ kept + rest.mT @ to_mixed).to(x.dtype)
        to_query = to_first @ side.keys + ((to_scores @ states).transpose(0, 1) @ to_key.mT).to(x.dtype)
        return back_through(own.q, _rows(to_query)).to(x.dtype)

    return through(own.o, _rows(mixed)).to(x.dtype), back


def _slopes(shares: Tensor, grad: Tensor) -> Tensor:
    """`∂L/∂S = P ∘ (∂L/∂P − Σ P ∘ ∂L/∂P)` for P = softmax(S)."""
    return shares * (grad - (shares * grad).sum(-1, keepdim=True))


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """(B, heads × size) as (heads, B, size)."""
    return rows.view(len(rows), heads, -1).transpose(0, 1)


def _rows(by_head: Tensor) -> Tensor:
    """(heads, B, size) as (B, heads × size)."""
    return by_head.transpose(0, 1).flatten(1)
