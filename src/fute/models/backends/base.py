"""What local LLMs have in common: tokens in, texts out."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fute.core.batching import batches
from fute.core.errors import ModelError
from fute.core.runtime import DType
from fute.core.types import Floats
from fute.models.backends.packing import Question, TokenIds
from fute.text.prompt import Turn
from fute.weights.load import Quantize, load_tokenizer, quantiser, room
from fute.weights.locate import Weights

# Rows that are written together: more are faster for each, until the slowest keeps too many waiting.
_WRITING_ROWS = 32
_WRITING_TOKENS = 8192
_BEFORE_ANSWER = 2  # tokens at most that an encoder-decoder's answer begins with: see `Seq2SeqLM._beginning`


@dataclass(frozen=True)
class Written:
    """What an LLM wrote, and whether it came to its end by itself."""

    text: str
    finished: bool


def begun(prompt: TokenIds, lm: LanguageModel) -> TokenIds:
    """The prompt, or where it has no token (an empty text, nothing put before it) the token that texts begin
    with, else the one they end with: a word's probability has to be read from some state.

    Raises:
        ModelError: the tokenizer knows neither.
    """
    if prompt:
        return prompt
    known = lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id
    start = next((token for token in known if token is not None), None)
    if start is None:
        raise ModelError(
            f"{lm.weights.id} can't answer an empty prompt",
            expected="a tokenizer with a token that begins or ends a text",
            fix="let the template say more than the text",
        )
    return (start,)


def _units(items: Sequence[Sequence[TokenIds]]) -> list[list[TokenIds]]:
    """The prompts of each item, each prompt once, in parts that can be written for together."""
    seen: set[TokenIds] = set()
    units = []
    for item in items:
        fresh = [prompt for prompt in dict.fromkeys(item) if prompt not in seen]
        seen.update(fresh)
        units += [fresh[i : i + _WRITING_ROWS] for i in range(0, len(fresh), _WRITING_ROWS)]
    return units


class LanguageModel(ABC):
    """Weights that are loaded when first needed, then shared by all prompts on them.

    Attributes:
        writes_apart: whether what it writes stands in a row of its own, and not behind what it has read.
    """

    writes_apart: ClassVar[bool] = False

    def __init__(
        self, weights: Weights, dtype: DType, quantize: Quantize | None = None, compile: bool = False
    ) -> None:
        self.weights, self.dtype, self.quantize, self.compile = weights, dtype, quantize, compile
        self.quantiser = quantiser(quantize)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.weights)

    @functools.cached_property
    @abstractmethod
    def _model(self) -> Any:
        """The loaded weights."""

    def load(self) -> None:
        """Load the weights now. The first time this converts a GGUF file, after which its tokenizer, too,
        loads fast.
        """
        _ = self._model

    @functools.cached_property
    def room(self) -> int | None:
        """How many tokens it can read, and write after them; None where its architecture sets no limit."""
        return room(self.weights)

    def encode(self, texts: Sequence[str], special_tokens: bool) -> list[TokenIds]:
        """Token ids of each text; `special_tokens` adds those that the tokenizer puts around a text."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=special_tokens)["input_ids"]
        return [tuple(ids) for ids in encoded]

    def encode_words(self, words: Sequence[str]) -> list[TokenIds]:
        """Token ids of a verbalizer's words, as they follow a prompt."""
        return self.encode(words, special_tokens=False)

    def chat(self, turns: Sequence[Turn]) -> str:
        """The turns as the model's chat template writes them, up to where the answer begins.

        Raises:
            ModelError: the model has no chat template, or it takes no system prompt.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.weights.id} has no chat template", fix="leave `chat` out")
        said = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return str(self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program of its own
            raise ModelError(
                f"the chat template of {self.weights.id} refuses these turns", found=str(error)[:200]
            ) from error

    @abstractmethod
    def score(self, items: Sequence[Sequence[Question]]) -> list[list[Floats]]:
        """log p(word | prompt), in nats, for every word of every question of every item.

        Args:
            items: for each item its questions.

        Returns:
            for each item, for each question, float32 (number of words,).
        """

    @abstractmethod
    def log_likelihoods(self, texts: Sequence[TokenIds]) -> Floats:
        """`mean_{t ≥ 2} log p(token_t | tokens before it)` of each text, in nats: minus the logarithm of its
        perplexity. The first token is only read.

        Returns:
            float32 (n,).

        Raises:
            ModelError: a text of less than two tokens, or an LLM that gives no probability to what it reads.
        """

    def generate(self, items: Sequence[Sequence[TokenIds]], max_new_tokens: int) -> list[list[Written]]:
        """What the LLM writes after each prompt of each item, always its most probable next token.

        Equal to writing after each alone, up to rounding. Items of similar length are written for together,
        and equal prompts once.

        Raises:
            ModelError: it has no places for so long an answer.
        """
        if self.writes_apart and self.room is not None and max_new_tokens > self.room - _BEFORE_ANSWER:
            raise ModelError(
                f"{self.weights.id} can't write so long an answer",
                expected=f"at most {self.room - _BEFORE_ANSWER} tokens",
                found=f"{max_new_tokens} tokens",
                fix="lower `max_new_tokens`, or `max_tokens` of `reason`",
            )
        results: dict[TokenIds, Written] = {}
        units = _units(items)
        sizes = [max(map(len, unit)) + max_new_tokens for unit in units]
        for batch in batches(sizes, _WRITING_TOKENS, [len(unit) for unit in units], _WRITING_ROWS):
            part = [units[i] for i in batch]
            prompts = [prompt for unit in part for prompt in unit]
            results.update(zip(prompts, self._write(part, max_new_tokens), strict=True))
        return [[results[prompt] for prompt in item] for item in items]

    def _write(self, units: Sequence[Sequence[TokenIds]], max_new_tokens: int) -> list[Written]:
        import torch

        prompts = [begun(prompt, self) for unit in units for prompt in unit]
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            place = self._place(longest, len(prompt))
            ids[row, place] = torch.tensor(prompt)
            mask[row, place] = 1
        device = self._model.device
        with torch.inference_mode():
            read = self._read_before(units, longest - 1)
            out = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                **({} if read is None else {"past_key_values": read}),
                use_cache=self._continues,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                forced_eos_token_id=None,  # else a text that is cut off would look finished
                pad_token_id=pad,
            ).cpu()
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        return [self._read(row, ends) for row in out[:, self._written_from(longest) :].tolist()]

    def _read(self, tokens: Sequence[int], ends: set[int]) -> Written:
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return Written(text, end is not None)

    @property
    def _continues(self) -> bool:
        """Whether what it keeps of what it has read serves for what it writes; else all is read anew for
        every token.
        """
        return True

    def _read_before(self, units: Sequence[Sequence[TokenIds]], length: int) -> Any:
        """The keys and values of all tokens but the last of each prompt, as a cache of that length, or None:
        then `generate` reads the prompts itself.
        """
        return None

    @abstractmethod
    def _place(self, longest: int, length: int) -> slice:
        """Where a prompt of this length stands in a row of the longest's."""

    @abstractmethod
    def _written_from(self, longest: int) -> int:
        """The column of what `generate` gives where the new tokens begin."""
