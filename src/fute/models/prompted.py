"""An LLM with a prompt: one black box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fute.core.errors import ConfigError
from fute.core.hashing import digest
from fute.core.runtime import choose_dtype
from fute.core.types import Floats, Input
from fute.models.backends.packing import Question, TokenIds
from fute.models.backends.transformers import causal_lm
from fute.models.base import BlackBox
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer, check_distinct
from fute.weights.locate import locate


class PromptedLLM(BlackBox):
    """LLM + template + verbalizer. A label's score is the log-probability of its words after the prompt.

    `p(label | x) ∝ Σ_w p(w | prompt(x))` over the label's words w, with `p(w | …)` the product over the
    word's tokens. Nothing is generated.

    Args:
        llm: `pkg:NAME`, `hf:org/name`, a model folder or a `.gguf` file: a decoder-only LLM.
        template: Jinja; `{{ text }}` is the input, `{{ text_pair }}` a pair's second text.
        labels: for each label its word, or several. `" good"` and `"good"` differ: after a plain prompt
            words usually begin with a space, after a chat template they don't.
        name: what rankings call it; by default the template.
        chat: wrap the prompt as a user's turn in the model's chat template.
        system: a system prompt; needs `chat`.
        max_tokens: longer prompts are made to fit by cutting the text (never the template).
        dtype: "auto" (bfloat16 where the CPU is fast at it), "float32" or "bfloat16".

    Raises:
        ConfigError: bad template or verbalizer, or `system` without `chat`.
        MissingError: the LLM isn't on this machine.
    """

    kind = "llm"
    batch = 32

    def __init__(
        self,
        llm: str,
        template: str,
        labels: Mapping[str, str | Sequence[str]],
        *,
        name: str | None = None,
        chat: bool = False,
        system: str | None = None,
        max_tokens: int = 1024,
        dtype: str = "auto",
    ) -> None:
        self.name = name or template
        self.template = PromptTemplate(template)
        self.verbalizer = Verbalizer({k: (v,) if isinstance(v, str) else tuple(v) for k, v in labels.items()})
        self.labels = self.verbalizer.labels
        self.shape = "pair" if self.template.is_pair else "text"
        self.chat, self.system, self.max_tokens = chat, system, max_tokens
        if system is not None and not chat:
            raise ConfigError(f"model {self.name}: `system` needs `chat: true`")
        self.weights = locate(llm)
        self.dtype = choose_dtype(dtype)
        self._lm = causal_lm(self.weights, self.dtype)
        self.group = f"{self.weights.folder}/{self.weights.gguf}:{self.dtype}"

    @cached_property
    def fingerprint(self) -> str:
        words = [[label, list(words)] for label, words in self.verbalizer.words.items()]
        prompt = [self.template.source, self.chat, self.system, self.max_tokens]
        return digest(["prompted-llm", 1, self.weights.digest, self.dtype, prompt, words])

    @property
    def provenance(self) -> Mapping[str, Any]:
        words = {label: list(words) for label, words in self.verbalizer.words.items()}
        return {
            "llm": self.weights.id,
            "template": self.template.source,
            "words": words,
            "chat": self.chat,
            "system": self.system,
            "dtype": self.dtype,
        }

    @cached_property
    def _words(self) -> list[tuple[TokenIds, ...]]:
        """Token ids of each label's words."""
        pairs = {
            label: list(zip(words, self._lm.encode(words, special_tokens=False), strict=True))
            for label, words in self.verbalizer.words.items()
        }
        check_distinct(pairs)
        return [tuple(ids for _, ids in pairs[label]) for label in self.labels]

    def predict(self, inputs: Sequence[Input]) -> Floats:
        return self.predict_together([self], inputs)[0]

    @classmethod
    def predict_together(cls, boxes: Sequence[PromptedLLM], inputs: Sequence[Input]) -> list[Floats]:
        """Probabilities of every box; a text is read once for all prompts that begin alike."""
        boxes[0]._lm.load()
        prompts = []
        for box in boxes:
            encoded, cut = box._encode(inputs)
            prompts.append(encoded)
            box.cut += cut
        words = [tuple(word for label in box._words for word in label) for box in boxes]
        items = [[Question(p[i], w) for p, w in zip(prompts, words, strict=True)] for i in range(len(inputs))]
        scores = boxes[0]._lm.score(items)
        return [box._normalise(np.stack([item[b] for item in scores])) for b, box in enumerate(boxes)]

    def count_tokens(self, inputs: Sequence[Input]) -> int:
        return sum(len(ids) for ids in self._encode(inputs)[0])

    def _normalise(self, scores: Floats) -> Floats:
        """From log-probabilities of words (n, words) to probabilities of labels (n, C)."""
        ends = np.cumsum([len(words) for words in self._words])
        per_label = [
            np.logaddexp.reduce(part, axis=1) for part in np.split(scores.astype(float), ends[:-1], axis=1)
        ]
        logits = np.stack(per_label, axis=1)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)

    def _prompt(self, item: Input) -> str:
        prompt = self.template.render(item)
        return self._lm.chat(self.system, prompt) if self.chat else prompt

    def _encode(self, inputs: Sequence[Input]) -> tuple[list[TokenIds], int]:
        """Token ids of the prompts, and how many texts had to be cut."""
        encoded = self._lm.encode([self._prompt(item) for item in inputs], special_tokens=not self.chat)
        long = [i for i, ids in enumerate(encoded) if len(ids) > self.max_tokens]
        for i in long:
            encoded[i] = self._cut(inputs[i], len(encoded[i]))
        return encoded, len(long)

    def _cut(self, item: Input, length: int) -> TokenIds:
        """The prompt with the text's end cut off until it has at most `max_tokens` tokens."""
        keep = 1.0
        while keep > 1e-6:
            keep *= 0.98 * self.max_tokens / length
            pair = None if item.text_pair is None else item.text_pair[: int(keep * len(item.text_pair))]
            cut = Input(item.text[: int(keep * len(item.text))], pair)
            ids = self._lm.encode([self._prompt(cut)], special_tokens=not self.chat)[0]
            if len(ids) <= self.max_tokens:
                return ids
            length = len(ids)
        raise ConfigError(
            f"model {self.name}: the template alone has more than {self.max_tokens} tokens",
            fix="raise `max_tokens`",
        )
