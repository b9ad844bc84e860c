"""How long asking takes: as it took before, or else a guess from what it uses."""

from __future__ import annotations

import math

from fute.models.base import BlackBox, Usage
from fute.models.hf import HFModel
from fute.models.http import HTTPModel
from fute.models.openai import OpenAIModel
from fute.models.prompted import PromptedLLM

# Guesses. A token that is written takes as long as this many that are read together;
_WRITTEN_COSTS = 4
# functions, estimators and programs give so many answers a second;
_ANSWERS = 2000.0
# small models on two cores reach so many multiplications and additions a second, by dtype;
_FLOPS = {"bfloat16": 2.5e11, "float32": 1.2e11}
# and a server takes so many seconds for a call.
_CALL = 1.0


def seconds(box: BlackBox, items: int, usage: Usage, rate: float | None = None) -> float:
    """About how long a box takes for so many items, which use `usage` at most.

    A server takes at least what its limits allow: `calls · 60 / requests_per_minute` and `tokens · 60 /
    tokens_per_minute`. Weights on this machine take `2 · parameters` operations a token.

    Args:
        rate: items a second as once measured, if they were.
    """
    if not items:
        return 0.0
    if isinstance(box, OpenAIModel | HTTPModel):
        manners, tokens = box.manners, usage.tokens_in + usage.tokens_out
        return max(
            items / rate if rate else math.ceil(usage.calls / manners.concurrency) * _CALL,
            usage.calls * 60 / (manners.requests_per_minute or math.inf),
            tokens * 60 / (manners.tokens_per_minute or math.inf),
        )
    if rate:
        return items / rate
    if isinstance(box, PromptedLLM | HFModel):
        tokens = usage.tokens_in + usage.tokens_out * _WRITTEN_COSTS
        return tokens * 2 * box.weights.parameters / _FLOPS[box.dtype]
    return items / _ANSWERS
