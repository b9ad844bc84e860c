"""The layers of a surrogate one by one: which are its last ones, and running these alone on what the others
made before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from fute.core.errors import ConfigError, ModelError
from fute.surrogates.base import family, states

# Their layers hand on other things beside the states, or are one layer that is run many times.
_UNKNOWN = {"mpnet", "deberta-v2", "albert"}


def stacks(model: Any) -> list[nn.ModuleList]:
    """The layers of the model, first to last; of an encoder-decoder those of the encoder, then those of the
    decoder.

    Raises:
        ModelError: this architecture's layers can't be run apart.
    """
    parts = [model]
    if family(model) == "encoder-decoder":
        parts = [model.get_encoder(), model.get_decoder()]
    kind = model.config.model_type
    lists = [[m for m in part.modules() if isinstance(m, nn.ModuleList)] for part in parts]
    if kind in _UNKNOWN or not all(lists):
        raise ModelError(
            f"the surrogate's layers can't be run apart (a {kind})",
            fix="leave `top_layers` out, or use a BERT, a Llama or a T5",
        )
    return [found[0] for found in lists]  # an outer one comes before those within its layers


def top(model: Any, layers: int) -> tuple[set[nn.Module], int]:
    """The modules within the last so many layers of each stack, and how many layers of what reads the input
    stand below.

    Raises:
        ConfigError: there are fewer layers.
        ModelError: as `stacks`.
    """
    every = stacks(model)
    most = min(map(len, every))
    if layers > most:
        raise ConfigError(f"the surrogate has no {layers} layers", expected=f"`top_layers` of at most {most}")
    chosen = [layer for stack in every for layer in stack[len(stack) - layers :]]
    return {module for layer in chosen for module in layer.modules()}, len(every[0]) - layers


def states_below(model: Any, tokens: Any, below: int) -> Tensor:
    """What the first `below` layers make of the tokens, the input of the next one: (n, T, d)."""
    layers = stacks(model)[0]
    given: list[Tensor] = []
    handle = layers[below].register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        with _passed([*layers][below:]):
            states(model, tokens)
    finally:
        handle.remove()
    return given[0]


def resumed(model: Any, below: int, made: Tensor) -> contextlib.AbstractContextManager[None]:
    """While this is open, the model's first `below` layers do nothing, and give (n, T, d) what they made."""
    return _passed([*stacks(model)[0]][:below], made)


@contextlib.contextmanager
def _passed(layers: Sequence[Any], made: Tensor | None = None) -> Iterator[None]:
    """While this is open, these layers hand on the states that they are given, or those made before."""
    for layer in layers:
        layer.forward = functools.partial(_pass, layer, made)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _pass(layer: Any, made: Tensor | None, states: Tensor, *rest: Any, **_: Any) -> Any:
    made = states if made is None else made
    if type(layer).__name__ not in ("T5Block", "MT5Block"):
        return made
    bias, length = rest[1], states.shape[1]
    if bias is None:  # which the first layer makes for all
        bias = layer.layer[0].SelfAttention.compute_bias(length, length, device=states.device)
    return made, bias, None
