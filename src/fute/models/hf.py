"""Hugging Face models with a trained head: classification, regression, answers in a context or by choice,
text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.hashing import digest
from fute.core.runtime import choose_dtype
from fute.core.section import Name
from fute.core.types import Answer, Answers, Failure, Floats, Input, Output, Shape
from fute.models.backends.heads import Head, HeadedModel, head_of, outputs_of, read_config
from fute.models.backends.language_model import language_model
from fute.models.backends.packing import TokenIds
from fute.models.backends.scores import softmax
from fute.models.base import BlackBox, Usage, check_labels
from fute.models.section import Here, ModelSection
from fute.weights.load import is_encoder_decoder
from fute.weights.locate import locate

_OUTPUTS: dict[Head, Output] = {
    "classification": "class",
    "regression": "score",
    "question-answering": "span",
    "multiple-choice": "class",
    "text": "text",
}
_SHAPES: dict[Head, Shape] = {
    "question-answering": "question-context",
    "multiple-choice": "question-options",
}


class HFModel(BlackBox):
    """A fine-tuned model. Nothing is trained, and no code that comes with the weights is run.

    Args:
        model: `pkg:NAME`, `hf:org/name` or a folder with safetensors.
        name: what rankings call it.
        head: by default what its config says: "classification", "regression", "question-answering" (a span of
            the context), "multiple-choice" (its labels are A, B, C, …), "text" (an encoder-decoder writes).
        labels: classification: names in the order of the model's classes, or a mapping from the model's
            names to yours; by default the model's. regression: the score's name. Other heads take none.
        pair: whether a classifier or a regressor reads two texts.
        options: the most options of a multiple choice.
        no_answer: whether a question may have no answer in its context (SQuAD 2.0).
        null_threshold: how much better than the best span "no answer" must score.
        max_tokens: longer inputs lose their end; contexts are read in windows of this length, of which a
            question takes a third at most.
        max_new_tokens: of a written answer.
        dtype: "auto", "float32" or "bfloat16".

    Raises:
        ConfigError: no head that fute knows, options that don't fit it, or a head that gives several labels
            or scores at once.
        MissingError: the weights aren't here.
    """

    kind = "transformers"
    batch = 64

    def __init__(
        self,
        model: str,
        *,
        name: str,
        head: Head | None = None,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        pair: bool = False,
        options: int = 4,
        no_answer: bool = False,
        null_threshold: float = 0.0,
        max_tokens: int = 512,
        max_new_tokens: int = 64,
        dtype: str = "auto",
    ) -> None:
        self.name, self.weights, self.dtype = name, locate(model), choose_dtype(dtype)
        self.head: Head = head or head_of(self.weights)
        self.output = _OUTPUTS[self.head]
        self.shape = _SHAPES.get(self.head, "pair" if pair else "text")
        self.options, self.no_answer, self.null_threshold = options, no_answer, null_threshold
        self.max_tokens, self.max_new_tokens = max_tokens, max_new_tokens
        if pair and self.head not in ("classification", "regression"):
            raise ConfigError(f"model {name}: `pair` is for classification and regression, not {self.head}")
        if self.head == "text" and not is_encoder_decoder(self.weights):
            raise ConfigError(
                f"model {name}: {model} is no encoder-decoder, so it writes no text",
                fix="an LLM with a prompt is `llm:`",
            )
        self.labels = self._labels(labels)
        if self.head == "text":
            self._lm = language_model(self.weights, self.dtype)
        else:
            self._headed = HeadedModel(self.weights, self.dtype, self.head, max_tokens)

    def _labels(self, given: Sequence[str] | Mapping[str, str] | None) -> tuple[str, ...]:
        if self.head not in ("classification", "regression"):
            if given:
                raise ConfigError(
                    f"model {self.name}: `head: {self.head}` takes no labels", found=listing(given)
                )
            letters = self.options if self.head == "multiple-choice" else 0
            return tuple(chr(ord("A") + i) for i in range(letters))
        config = read_config(self.weights)
        own = outputs_of(config)
        if self.head == "regression":
            if len(own) != 1:
                raise ConfigError(
                    f"model {self.name}: its head gives {len(own)} scores, not one", found=listing(own)
                )
            names = tuple(given.values() if isinstance(given, Mapping) else given or ["score"])
            if len(names) != 1:
                raise ConfigError(f"model {self.name}: a regressor has one score", found=listing(names))
            return names
        if config.get("problem_type") == "multi_label_classification":
            raise ConfigError(
                f"model {self.name}: its head gives several labels at once, not one of them",
                fix="wrap it in a function that picks one (`python:`)",
            )
        if isinstance(given, Mapping):
            unknown = [label for label in given if label not in own]
            if unknown:
                raise ConfigError(
                    f'model {self.name} has no label "{unknown[0]}"', expected=f"some of {listing(own)}"
                )
            return check_labels(self.name, [given.get(label, label) for label in own])
        names = check_labels(self.name, given if given is not None else own)
        if len(names) != len(own):
            raise ConfigError(
                f"model {self.name}: {len(names)} labels for {len(own)} classes",
                expected=f"names for {listing(own)}, in this order",
                found=listing(names),
            )
        return names

    @cached_property
    def fingerprint(self) -> str:
        options = {
            "multiple-choice": [self.options],
            "question-answering": [self.no_answer, self.null_threshold],
            "text": [self.max_new_tokens],
        }.get(self.head, [])
        made = [self.weights.digest, self.dtype, self.head, self.max_tokens, options]
        return digest(["transformers", 1, made, list(self.labels), self.shape])

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"model": self.weights.id, "head": self.head, "dtype": self.dtype}

    def predict(self, inputs: Sequence[Input]) -> Answers:
        if not inputs:
            return []
        if self.head == "question-answering":
            spans, cut = self._headed.find(inputs, self.no_answer, self.null_threshold)
            self.cut += cut
            return spans
        if self.head == "multiple-choice":
            return self._choices(inputs)
        if self.head == "text":
            return self._written(inputs)
        logits, cut = self._headed.classify(*self._texts(inputs))
        self.cut += cut
        if logits.shape[1] != len(self.labels):
            raise ModelError(
                f"model {self.name}: {logits.shape[1]} outputs for {len(self.labels)} labels",
                fix="check `head` and `labels`",
            )
        return logits if self.output == "score" else softmax(logits)

    def usage(self, inputs: Sequence[Input]) -> Usage:
        written = len(inputs) * self.max_new_tokens if self.head == "text" else 0
        return Usage(len(inputs), self.count_tokens(inputs), written)

    def count_tokens(self, inputs: Sequence[Input]) -> int:
        if self.head == "text":
            return sum(map(len, self._fitting(inputs)[0]))
        if self.head == "question-answering":
            return self._headed.tokens_to_find(inputs)
        if self.head == "multiple-choice":
            return self._headed.tokens_to_choose(*_choices([i for i in inputs if self._can_choose(i)]))
        return self._headed.tokens_to_classify(*self._texts(inputs))

    def _texts(self, inputs: Sequence[Input]) -> tuple[list[str], list[str] | None]:
        pairs = [str(item.text_pair) for item in inputs] if self.is_pair else None
        return [item.text for item in inputs], pairs

    def _can_choose(self, item: Input) -> bool:
        return len(item.options) <= self.options

    def _choices(self, inputs: Sequence[Input]) -> list[Answer | Failure]:
        able = [i for i, item in enumerate(inputs) if self._can_choose(item)]
        refused = Failure("refused", f"more than {self.options} options (see `options`)")
        answers: list[Answer | Failure] = [refused] * len(inputs)
        if not able:
            return answers
        logits, cut = self._headed.choose(*_choices([inputs[i] for i in able]))
        self.cut += cut
        for i, own in zip(able, logits, strict=True):
            row: Floats = np.zeros(self.options, dtype=np.float32)
            row[: len(own)] = softmax(own)
            answers[i] = row
        return answers

    def _written(self, inputs: Sequence[Input]) -> list[Answer | Failure]:
        fitting, cut = self._fitting(inputs)
        self.cut += cut
        answers: list[Answer | Failure] = []
        for (said,) in self._lm.generate([[ids] for ids in fitting], self.max_new_tokens):
            if not said.finished:
                answers.append(Failure("truncated", said.text[:200]))
            else:
                answers.append(
                    said.text if said.text.strip() else Failure("empty", "the model wrote nothing")
                )
        return answers

    def _fitting(self, inputs: Sequence[Input]) -> tuple[list[TokenIds], int]:
        """Token ids of the texts that are read to write, and how many of these lost their end."""
        encoded = self._lm.encode([item.text for item in inputs], special_tokens=True)
        # T5 has no last place; what is too long for BART or Marian would be an error there.
        most = min(self.max_tokens, self._lm.room or self.max_tokens)
        # The end token that closes an input stays.
        fitting = [ids if len(ids) <= most else (*ids[: most - 1], ids[-1]) for ids in encoded]
        return fitting, sum(len(ids) > most for ids in encoded)


def _choices(items: Sequence[Input]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The questions, each after its context if it has one, and their options."""
    questions = ["\n".join(filter(None, (item.text_pair, item.text))) for item in items]
    return questions, [item.options for item in items]


class HFSection(ModelSection):
    """`transformers:` a model with a trained head."""

    KEY: ClassVar[str] = "transformers"

    transformers: str
    head: Head | None = None
    labels: list[Name] | dict[Name, Name] | None = None
    pair: bool = False
    options: int = Field(default=4, ge=2, le=26)
    no_answer: bool = False
    null_threshold: float = 0.0
    max_tokens: int = Field(default=512, ge=16)
    max_new_tokens: int = Field(default=64, ge=1)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Where several of the model's labels are called the same; else they are renamed as they are read."""
        given = self.labels if isinstance(self.labels, dict) else {}
        return given if len(set(given.values())) < len(given) else {}

    def build(self, here: Here) -> BlackBox:
        given = self.model_dump(exclude={*ModelSection.model_fields, "transformers"})
        if self.aliases:
            given["labels"] = None
        return HFModel(here.local(self.transformers), name=self.name, dtype=here.dtype, **given)
