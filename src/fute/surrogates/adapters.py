"""What of a surrogate may change when it adapts to examples: nothing, everything, biases, or low-rank steps.

Each adapter holds `tensors`, by name, that are trained, and `attached()`, within which the model runs with
them. Virtual tokens are in `prefix_attention`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fute.core.errors import ModelError
from fute.surrogates.base import at_least_single
from fute.surrogates.stack import top

# Layers that make queries and values, by the names that transformers' families give them.
_QUERY_VALUE = {"query", "value", "q", "v", "q_proj", "v_proj", "query_proj", "value_proj", "q_lin", "v_lin"}
_FUSED = {"c_attn", "Wqkv", "query_key_value", "qkv_proj"}
_KEY = {"key", "k", "k_proj", "k_lin", "pos_key_proj"}


Reach = Literal["nothing", "decoder", "all"]


class Adapter(Protocol):
    """Tensors that are trained, and the model with them."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is trained, by name."""
        ...

    @property
    def reach(self) -> Reach:
        """Which of the model's states depend on the tensors: what others are can be kept."""
        ...

    @property
    def below(self) -> int:
        """How many first layers of what reads the input stay as they are: their states can be kept."""
        ...

    def attached(self) -> contextlib.AbstractContextManager[None]:
        """While this is open, the model runs with the tensors."""
        ...


class Nothing:
    """The model stays as it is."""

    tensors: Mapping[str, Tensor] = {}
    reach: Reach = "nothing"
    below = 0

    def attached(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Whole:
    """These parameters of the model, in place: all that are its own."""

    reach: Reach = "all"
    below = 0

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.tensors: Mapping[str, Tensor] = parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)

    def attached(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class _Steps:
    """Tensors that forward hooks add to the outputs of layers: of all, or of the last `top_layers`."""

    reach: Reach = "all"

    def __init__(self, model: Any, top_layers: int) -> None:
        inside, self.below = top(model, top_layers) if top_layers else (set(model.modules()), 0)
        self._modules = [(name, module) for name, module in model.named_modules() if module in inside]
        self.tensors: dict[str, Tensor] = {}
        self._hooks: list[tuple[nn.Module, Any]] = []

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        handles = [module.register_forward_hook(hook) for module, hook in self._hooks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class BitFit(_Steps):
    """`b' = b + Δ` for every bias, Δ from 0, but those that only shift all scores of a query alike: softmax
    doesn't see them, and AdamW would make whole steps of what rounding leaves of their gradients.

    Source: Ben Zaken, Goldberg & Ravfogel 2022, aclanthology.org/2022.acl-short.1.

    Raises:
        ModelError: the model has no biases.
    """

    def __init__(self, model: Any, top_layers: int = 0) -> None:
        super().__init__(model, top_layers)
        for name, module in self._modules:
            bias = getattr(module, "bias", None)
            if not isinstance(bias, nn.Parameter) or "pooler" in name:
                continue
            places = _seen(model, name, len(bias)).nonzero()[:, 0].to(bias.device)
            if len(places):
                step = nn.Parameter(bias.new_zeros(len(places), dtype=at_least_single(bias.dtype)))
                self.tensors[f"{name}.bias"] = step
                self._hooks.append((module, functools.partial(_shifted, step, places)))
        if not self.tensors:
            raise ModelError(
                f"a {model.config.model_type} has no biases to train", fix="use `adapter: prefix` or `lora`"
            )


def _seen(model: Any, name: str, size: int) -> Tensor:
    """Which places of a layer's bias the model's scores tell apart, bool (size,): all, but those of keys that
    aren't rotated by where they stand.
    """
    parent, _, last = name.rpartition(".")
    seen = torch.ones(size, dtype=torch.bool)
    if last == "query_key_value":  # NeoX's are cut into heads first, and rotated in part
        attention = model.get_submodule(parent)
        seen.view(-1, 3, attention.head_size)[:, 1, attention.rotary_ndims :] = False
    elif any(module.endswith("rotary_emb") for module, _ in model.named_modules()):
        return seen
    elif last == "c_attn":  # GPT-2's queries, keys and values
        seen.view(3, -1)[1] = False
    return seen & (last not in _KEY)


def _shifted(step: Tensor, places: Tensor, _: nn.Module, __: Any, output: Tensor) -> Tensor:
    """The output, and at these places of its last axis the step too."""
    step = step.to(output.dtype)
    if len(step) < output.shape[-1]:
        step = step.new_zeros(output.shape[-1]).index_copy(0, places, step)
    return output + step


class LoRA(_Steps):
    """`y' = y + (x Aᵀ) Bᵀ` at the layers that make queries and values; A (rank, in) is drawn from the seed, B
    (out, rank) is 0.

    Source: Hu et al. 2022, doi:10.48550/arXiv.2106.09685.

    Raises:
        ModelError: the model's attention layers have names that fute doesn't know.
    """

    def __init__(self, model: Any, rank: int, seed: int, top_layers: int = 0) -> None:
        super().__init__(model, top_layers)
        generator = torch.Generator().manual_seed(seed)
        for name, module in self._modules:
            if name.rpartition(".")[2] not in _QUERY_VALUE | _FUSED or not isinstance(
                module, nn.Linear | Conv1D
            ):
                continue
            rows, columns = module.weight.shape[:: -1 if isinstance(module, Conv1D) else 1]
            start, where = torch.randn(rank, columns, generator=generator), module.weight.device
            down = nn.Parameter((start / columns**0.5).to(where))
            up = nn.Parameter(torch.zeros(rows, rank, device=where))
            self.tensors |= {f"{name}.A": down, f"{name}.B": up}
            self._hooks.append(
                (
                    module,
                    lambda _, x, y, down=down, up=up: y + ((x[0].to(down.dtype) @ down.T) @ up.T).to(y.dtype),
                )
            )
        if not self.tensors:
            raise ModelError(
                f"a {model.config.model_type} has no query and value layers that fute knows",
                fix="use `adapter: prefix`",
            )
