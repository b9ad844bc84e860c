"""Which backend some weights need."""

from __future__ import annotations

import functools

from fute.core.runtime import DType
from fute.models.backends.base import LanguageModel
from fute.models.backends.seq2seq import Seq2SeqLM
from fute.models.backends.transformers import CausalLM
from fute.weights.load import Quantize, is_encoder_decoder
from fute.weights.locate import Weights


@functools.lru_cache(maxsize=2)
def language_model(weights: Weights, dtype: DType, quantize: Quantize | None = None) -> LanguageModel:
    """The one `LanguageModel` of these weights: prompts on the same LLM share it.

    Raises:
        MissingError: nothing here can quantise.
    """
    return (Seq2SeqLM if is_encoder_decoder(weights) else CausalLM)(weights, dtype, quantize)
