"""An LLM's output head in float32: bfloat16 logits are only good to 0.1 nats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fute.core.native import call, compiled_for_halves

_SOURCE = Path(__file__).with_suffix(".cpp")
_ROWS = 512  # states at a time: bounds the (rows, vocabulary) matrix


class Head:
    """Of the states h (d,) the logits `W h + b`, float32 (vocabulary,).

    Args:
        layer: linear, (d) to (vocabulary).
    """

    def __init__(self, layer: Any) -> None:
        self._fused = layer.bias is None and _takes(layer.weight)
        self._weight = layer.weight.contiguous() if self._fused else layer.weight.float()
        self._bias = None if layer.bias is None else layer.bias.float()

    def logits(self, states: Tensor) -> Tensor:
        """(n, vocabulary) of states (n, d)."""
        return torch.nn.functional.linear(states.float(), self._weight.float(), self._bias)

    def log_probabilities(self, states: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """`log softmax(W h_row + b)_token`, float32 (m,), on the CPU.

        Args:
            states: (n, d).
            rows, tokens: int64 (m,); rows in any order.
        """
        values = torch.empty(len(rows))
        if self._fused and states.dtype == torch.bfloat16:
            total = log_sum_exp(states, self._weight)
            for start in range(0, len(rows), _ROWS):
                some = slice(start, start + _ROWS)
                chosen = states[rows[some]].float() * self._weight[tokens[some]].float()
                values[some] = chosen.sum(-1) - total[rows[some]]
            return values
        for start in range(0, len(states), _ROWS):
            logs = self.logits(states[start : start + _ROWS]).log_softmax(-1).cpu()
            here = (rows >= start) & (rows < start + _ROWS)
            values[here] = logs[rows[here] - start, tokens[here]]
        return values


def log_sum_exp(states: Tensor, weight: Tensor) -> Tensor:
    """`log Σ_v exp(w_v · h)` with logits in float32, by head.cpp: float32 (n,).

    Args:
        states, weight: bfloat16 (n, d) and (vocabulary, d), d even.
    """
    library = compiled_for_halves(_SOURCE)
    assert library is not None
    (vocabulary, size), states = weight.shape, states.contiguous()
    out = torch.empty(len(states))
    call(library, "log_sum_exp", states, len(states), weight, vocabulary, size, out, torch.get_num_threads())
    return out


def _takes(weight: Tensor) -> bool:
    """Whether `log_sum_exp` can do it, and is worth it."""
    return (
        type(weight) in (Tensor, torch.nn.Parameter)
        and weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and weight.shape[1] % 2 == 0
        and compiled_for_halves(_SOURCE) is not None
    )
