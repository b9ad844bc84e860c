"""Prefix tuning for any architecture, through transformers' attention interface.

In every attention layer, trainable `K_p` and `V_p` are put in front of the keys and values:
`K' = [K_p; K]`, `V' = [V_p; V]`. One attention function does it, whatever the family.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fute.core.errors import ConfigError, ModelError
from fute.surrogates.adapters import Reach
from fute.surrogates.base import family, represent
from fute.surrogates.first_token import ARCHITECTURES, prepare, short_cut
from fute.surrogates.stack import top
from fute.weights.attention import fused, learns

IMPLEMENTATION = "fute_prefix"
# The attribute of an attention module that gives its (K_p, V_p), call after call: ALBERT's layers share one.
_PREFIX = "fute_prefix"
_RAW = "fute_raw"  # that of one which is given what it attends to as it is, in the place of keys and values
_NONE = itertools.repeat(None)
# The attribute of an attention module that maps its position bias, T5's or MPNet's, to the one that is used.
POSITION_BIAS = "fute_position_bias"


def _prefix_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention over `[K_p; K]`, `[V_p; V]`. query, key, value: (B, heads, T, head size)."""
    prefix = next(module.__dict__.get(_PREFIX, _NONE))
    bias, track = kwargs.get("position_bias"), getattr(module, POSITION_BIAS, None)
    if bias is not None and track is not None:
        bias = kwargs["position_bias"] = track(bias)
    if prefix is not None and module.__dict__.get(_RAW):
        own = _Raw(key.transpose(1, 2).flatten(2), *_projections(module))
        return _one_query(query, own, prefix, attention_mask, bias, kwargs.get("scaling")), None
    if prefix is not None and query.shape[2] == 1 and query.shape[1] == key.shape[1]:
        return _one_query(query, _Made(key, value), prefix, attention_mask, bias, kwargs.get("scaling")), None
    if prefix is not None and prefix[0].shape[1]:
        batch, length = query.shape[0], prefix[0].shape[1]
        if attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
            square = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            attention_mask = square.tril(key.shape[2] - query.shape[2])[None, None]
        if attention_mask is not None:
            visible = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = nn.functional.pad(attention_mask, (length, 0), value=visible)
        if bias is not None:  # virtual tokens stand at no distance
            kwargs["position_bias"] = nn.functional.pad(bias, (length, 0))
        key = torch.cat([prefix[0].to(key.dtype).expand(batch, -1, -1, -1), key], dim=2)
        value = torch.cat([prefix[1].to(value.dtype).expand(batch, -1, -1, -1), value], dim=2)
    made = fused(module, query, key, value, attention_mask, **kwargs)
    if made is not None:
        return made, None
    is_slow = query.dtype == torch.bfloat16 and query.device.type == "cpu" and learns(query, key, value)
    by = _in_single if is_slow else sdpa_attention_forward
    return by(module, query, key, value, attention_mask, **kwargs)[0], None


def _in_single(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """PyTorch's attention in float32: its gradients in bfloat16 take a CPU ten times as long."""
    query, key, value = query.float(), key.float(), value.float()
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    if kwargs.get("position_bias") is not None:
        kwargs["position_bias"] = kwargs["position_bias"].float()
    with torch.autocast("cpu", enabled=False):
        output: Tensor = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    return output.bfloat16(), None


class _Made(NamedTuple):
    """Keys and values (B, heads, T, head size)."""

    keys: Tensor
    values: Tensor

    def scores(self, query: Tensor) -> Tensor:
        return query @ self.keys.transpose(-1, -2)

    def mixed(self, shares: Tensor) -> Tensor:
        return shares @ self.values


class _Raw(NamedTuple):
    """What is attended to, (B, T, d), and the layers that would make its keys and values: for one query
    `q (H W_kᵀ)ᵀ = (q W_k) Hᵀ` and `s (H W_vᵀ) = (s H) W_vᵀ` need no product of H with the weights.
    """

    states: Tensor
    key: nn.Linear
    value: nn.Linear

    def scores(self, query: Tensor) -> Tensor:
        """(B, heads, 1, T) for queries (B, heads, 1, head size)."""
        weight, bias = self._by_head(self.key, query)
        scores = torch.einsum("bhqd,hdm->bhm", query, weight) @ self.states.transpose(1, 2)
        return scores[:, :, None] + torch.einsum("bhqd,hd->bhq", query, bias)[..., None]

    def mixed(self, shares: Tensor) -> Tensor:
        """(B, heads, 1, head size) for shares (B, heads, 1, T)."""
        weight, bias = self._by_head(self.value, shares)
        mixed = torch.einsum("bhm,hdm->bhd", shares[:, :, 0] @ self.states, weight)
        return (mixed + shares.sum(-1) * bias)[:, :, None]

    @staticmethod
    def _by_head(layer: nn.Linear, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's weight, (heads, head size, d), and bias, (heads, head size)."""
        weight = layer.weight.to(like.dtype).view(like.shape[1], -1, layer.in_features)
        bias = weight.new_zeros(weight.shape[:2]) if layer.bias is None else layer.bias.to(like.dtype)
        return weight, bias.view(weight.shape[:2])


def _one_query(
    query: Tensor,
    own: _Made | _Raw,
    prefix: tuple[Tensor, Tensor],
    mask: Tensor | None,
    bias: Tensor | None,
    scaling: float | None,
) -> Tensor:
    """The same for a single query, as a decoder's first token is: (B, 1, heads, head size). The scores of the
    prefix and of the keys are made apart, so that keys and values needn't be copied behind the prefix; fused
    attention is many times slower at the gradients of so little.
    """
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = own.scores(query)  # (B, heads, 1, keys)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    keys, values = (side.to(query.dtype) for side in prefix)  # (heads, virtual tokens, head size)
    first = torch.einsum("bhqd,hpd->bhqp", query, keys)
    shares = torch.cat([first, scores], dim=-1).float().softmax(-1).to(query.dtype)
    size = keys.shape[1]
    output = torch.einsum("bhqp,hpd->bhqd", shares[..., :size], values) + own.mixed(shares[..., size:])
    return output.transpose(1, 2).contiguous()


def _projections(module: Any) -> tuple[nn.Linear, nn.Linear]:
    """The layers that make an attention module's keys and values: T5's names, or else BART's."""
    if hasattr(module, "k"):
        return module.k, module.v
    return module.k_proj, module.v_proj


def _give_raw(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a cross-attention module runs: a single query gets what it attends to as it is."""
    query = args[0] if args else kwargs["hidden_states"]
    raw = module.__dict__[_RAW] = query.shape[1] == 1
    for layer in _projections(module):
        if raw:
            layer.__dict__["forward"] = lambda states: states
        else:
            layer.__dict__.pop("forward", None)


def _forget_raw(module: nn.Module) -> None:
    """Leave nothing of `_give_raw` behind."""
    module.__dict__.pop(_RAW, None)
    for layer in _projections(module):
        layer.__dict__.pop("forward", None)


AttentionInterface.register(IMPLEMENTATION, _prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def switch(model: Any) -> None:
    """Let a model attend by the function above from now on, for good."""
    model.set_attn_implementation(IMPLEMENTATION)
    for module in model.modules():
        if type(module).__name__ == "MPNetSelfAttention":
            module.forward = functools.partial(_mpnet_attention, module)


def _mpnet_attention(
    module: Any, states: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, **_: Any
) -> tuple[Tensor]:
    """What MPNet's attention module does, which makes its scores itself, through the attention interface."""
    shape = (*states.shape[:-1], -1, module.attention_head_size)
    made = [layer(states).view(shape).transpose(1, 2) for layer in (module.q, module.k, module.v)]
    attend = ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]
    mixed, _ = attend(module, *made, mask, position_bias=bias, is_causal=False)
    return (module.o(mixed.flatten(2)),)


class Prefix(nn.Module):
    """Virtual tokens for the attention layers of a model.

    Args:
        model: a transformers model; it is switched to the prefix attention for good.
        num_virtual_tokens: tokens per layer.
        seed: the start is drawn from it, normal with deviation 0.02, so that equal seeds start alike.
        where: "all" attention layers, or of an encoder-decoder only those of its "encoder" or "decoder"
            (which attends to itself and to the encoder).
        top_layers: only the last so many layers of each part; 0: all.

    Attributes:
        keys, values: (layers, key-value heads, num_virtual_tokens, head size).

    Raises:
        ConfigError: `where` names a part that the model doesn't have.
        ModelError: the model makes its attention itself (DeBERTa).
    """

    def __init__(
        self, model: Any, num_virtual_tokens: int, seed: int, where: str = "all", top_layers: int = 0
    ) -> None:
        super().__init__()
        switch(model)
        self.reach: Reach = "decoder" if where == "decoder" else "all"
        self._layers = _attention_layers(model)
        if not self._layers:
            raise ModelError(
                f"a {model.config.model_type}'s attention can't be given a prefix",
                fix="use `adapter: bitfit` or `lora`",
            )
        if where != "all":
            if family(model) != "encoder-decoder":
                raise ConfigError(
                    f"`where: {where}` needs an encoder-decoder as surrogate", fix="leave it out"
                )
            inside = set(model.get_encoder().modules())
            self._layers = [layer for layer in self._layers if (layer[0] in inside) == (where == "encoder")]
        self.below = 0
        if top_layers:
            last, self.below = top(model, top_layers)
            self._layers = [layer for layer in self._layers if layer[0] in last]
        heads, size = self._layers[0][1]
        shape = (2, len(self._layers), heads, num_virtual_tokens, size)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
        self.keys = nn.Parameter(start[0].clone())
        self.values = nn.Parameter(start[1].clone())
        self._short_cuts: list[tuple[Any, int]] = []  # a decoder, and its first layer's place in the prefix
        if where != "encoder" and model.config.model_type in ARCHITECTURES:
            decoder = model.get_decoder()
            inside = set(decoder.modules())
            self._short_cuts.append((decoder, sum(layer not in inside for layer, _, _ in self._layers)))
            prepare(decoder)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"keys": self.keys, "values": self.values}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, the model attends to the prefix too."""
        sides = zip(self.keys.unbind(), self.values.unbind(), strict=True)  # cut once: one gradient, not many
        of: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        with contextlib.ExitStack() as opened:
            for (layer, _, crossing), side in zip(self._layers, sides, strict=True):
                of[layer].append(side)
                layer.__dict__[_PREFIX] = itertools.cycle(of[layer])
                opened.callback(layer.__dict__.pop, _PREFIX, None)
                if crossing:
                    opened.callback(_forget_raw, layer)
                    opened.callback(layer.register_forward_pre_hook(_give_raw, with_kwargs=True).remove)
            for decoder, first in self._short_cuts:
                opened.enter_context(short_cut(decoder, self.keys[first:], self.values[first:]))
            yield


def _attention_layers(model: Any) -> list[tuple[nn.Module, tuple[int, int], bool]]:
    """The modules that call the attention function, in the order they do, with (heads, head size) of their
    keys, and whether they attend to an encoder's states and can be given those raw: found by watching one
    forward pass.
    """
    seen: list[tuple[nn.Module, tuple[int, int], bool]] = []

    def watch(
        module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        crossing = query.shape[2] != key.shape[2]  # the decoder's one token to the encoder's two
        if crossing:  # what isn't cut into keys must be cut alike
            crossing = _projections(module)[0].in_features % key.shape[3] == 0
        seen.append((module, (key.shape[1], key.shape[3]), crossing))
        return _prefix_attention(module, query, key, *rest, **kwargs)

    AttentionInterface.register(IMPLEMENTATION, watch)
    two = torch.ones(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            represent(model, {"input_ids": two, "attention_mask": two})
    finally:
        AttentionInterface.register(IMPLEMENTATION, _prefix_attention)
    return seen
