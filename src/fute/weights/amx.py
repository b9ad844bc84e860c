"""Llama layers in bfloat16 on a CPU with AMX (Sapphire Rapids and later), compiled from amx.cpp.

The same numbers as transformers' layers up to bfloat16's rounding, which here happens less often.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fute.core.native import call, compiled
from fute.core.runtime import DType, cpu_flags

FLAGS = {"amx_bf16", "amx_tile", "avx512_bf16"}
_ARCHITECTURE = "llama"
_SPARE_ROWS = 32  # that tiles may read after the last


def may_take(architecture: str | None, dtype: DType) -> bool:
    """Whether an LLM's layers probably run here, said without loading it."""
    return architecture == _ARCHITECTURE and dtype == "bfloat16" and cpu_flags() >= FLAGS


def takes(layers: list[Any]) -> bool:
    """Whether these layers can run here: transformers' Llama layers in bfloat16, without biases, with widths
    that fill tiles; on such a CPU, and with a compiler that knows it.
    """
    return all(_fits(layer) for layer in layers) and _library() is not None


def _fits(layer: Any) -> bool:
    import torch
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from fute.weights.attention import FUSED

    if type(layer) is not LlamaDecoderLayer:
        return False
    config, weights = layer.self_attn.config, list(layer.parameters())
    return (
        all(w.dtype == torch.bfloat16 and w.device.type == "cpu" for w in weights)
        and all(w.ndim == (1 if "norm" in name else 2) for name, w in layer.named_parameters())
        and all(size % 32 == 0 for w in weights for size in w.shape)
        and layer.self_attn.head_dim % 32 == 0
        and config.hidden_act == "silu"
        and config._attn_implementation in FUSED
    )


@functools.cache
def _library() -> Any:
    """amx.cpp; None where it can't be compiled, or may not run."""
    if not cpu_flags() >= FLAGS:
        return None
    import torch  # noqa: F401 -- first, so that both use its OpenMP

    library = compiled(Path(__file__).with_suffix(".cpp"), cpu="sapphirerapids")
    return library if library is not None and library.ask() else None


def replace_layers(layers: list[Any]) -> None:
    """Let these layers, which `takes` has taken, run as amx.cpp."""
    for layer in layers:
        layer.forward = _Layer(layer).forward
        its = layer.self_attn  # whose matrices are no longer needed
        its.q_proj = its.k_proj = its.v_proj = its.o_proj = layer.mlp = None


def _packed(weight: Any) -> Any:
    """(outputs, inputs) in AMX's tiles of 16 outputs × 32 inputs, two inputs side by side."""
    outputs, inputs = weight.shape
    tiles = weight.reshape(outputs // 16, 16, inputs // 32, 16, 2)
    return tiles.permute(0, 2, 3, 1, 4).contiguous()


def _side_by_side(left: Any, right: Any) -> Any:
    """Rows of both, 16 of each in turn."""
    import torch

    width = left.shape[-1]
    return torch.stack([left.reshape(-1, 16, width), right.reshape(-1, 16, width)], 1).reshape(-1, width)


def _halves_side_by_side(weight: Any, width: int) -> Any:
    """The rows of each head of `width`, such that the two that the rotation turns together are 16 apart."""
    inputs = weight.shape[-1]
    heads = weight.reshape(-1, 2, width // 2, inputs)
    return _side_by_side(heads[:, 0].reshape(-1, inputs), heads[:, 1].reshape(-1, inputs))


class _Layer:
    """One layer: its packed matrices, and what calls amx.cpp with them."""

    def __init__(self, layer: Any) -> None:
        import torch

        its, mlp = layer.self_attn, layer.mlp
        self.attention, self.width = its, its.head_dim
        self.heads = its.q_proj.weight.shape[0] // self.width
        self.groups = its.k_proj.weight.shape[0] // self.width
        turned = [_halves_side_by_side(p.weight, self.width) for p in (its.q_proj, its.k_proj)]
        self.qkv = _packed(torch.cat([*turned, its.v_proj.weight]))
        self.wo = _packed(its.o_proj.weight)
        self.up = _packed(_side_by_side(mlp.gate_proj.weight, mlp.up_proj.weight))
        self.down, self.middle = _packed(mlp.down_proj.weight), mlp.down_proj.weight.shape[1]
        self.norms = layer.input_layernorm, layer.post_attention_layernorm

    def forward(
        self,
        hidden_states: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As `LlamaDecoderLayer.forward`."""
        import torch

        texts, length, width = hidden_states.shape
        rows, n = texts * length, (self.heads + 2 * self.groups) * self.width
        x = hidden_states.contiguous()
        qkv = x.new_empty(rows + _SPARE_ROWS, n)
        cos, sin = (side.to(x.dtype).contiguous() for side in position_embeddings)
        turned = (self.heads + self.groups) * self.width
        first, second = self.norms
        _call("before_attention", x, rows, width, first.weight, first.variance_epsilon, self.qkv, n, turned,
              self.width, cos, sin, cos.shape[0] * length, qkv)  # fmt: skip
        if attention_mask is None and past_key_values is None:
            attended = x.new_empty(rows, self.heads * self.width)
            _call("attention", qkv, texts, length, n, self.heads, self.groups, self.width,
                  float(self.attention.scaling), attended)  # fmt: skip
        else:
            states = qkv[:rows].view(texts, length, -1, self.width)
            attended = self._attended(states, attention_mask, past_key_values)
        y = torch.empty_like(x)
        _call("after_attention", x, attended, rows, width, self.heads * self.width, self.wo, second.weight,
              second.variance_epsilon, self.up, self.middle, self.down, y)  # fmt: skip
        return y

    def _attended(self, qkv: Any, mask: Any, past: Any) -> Any:
        """Attention under a mask, or with keys and values that were kept."""
        from fute.weights.attention import attention

        sides = qkv.split([self.heads, self.groups, self.groups], dim=2)
        query, key, value = (side.transpose(1, 2) for side in sides)
        if past is not None:
            key, value = past.update(key, value, self.attention.layer_idx)
        its = self.attention
        return attention(its, query, key, value, mask, scaling=its.scaling)[0].contiguous()


def _call(name: str, *arguments: Any) -> None:
    """The function of amx.cpp with these arguments, on torch's threads."""
    import torch

    call(_library(), name, *arguments, torch.get_num_threads())
