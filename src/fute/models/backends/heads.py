"""Transformers with a trained head on this machine: logits of batches of inputs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError, ModelError
from fute.core.runtime import DType
from fute.core.types import Floats, Input, Span
from fute.models.backends.packing import batches
from fute.weights.load import load_headed, load_tokenizer
from fute.weights.locate import Weights

Head = Literal["classification", "regression", "question-answering", "multiple-choice", "text"]
_BATCH_TOKENS = 4096
_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
}
# What an architecture's name ends with → its head.
_ENDINGS: dict[str, Head] = {
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForConditionalGeneration": "text",
    "MTModel": "text",
}
_LONGEST_ANSWER = 30  # tokens of a span, as in SQuAD's scripts


def read_config(weights: Weights) -> dict[str, Any]:
    """The model's config.json."""
    content: dict[str, Any] = json.loads((weights.folder / "config.json").read_text(encoding="utf-8"))
    return content


def head_of(weights: Weights) -> Head:
    """The head that the config names.

    Raises:
        ConfigError: it names none that fute knows.
    """
    config = read_config(weights)
    for architecture in config.get("architectures") or []:
        for ending, head in _ENDINGS.items():
            if architecture.endswith(ending):
                one = len(config.get("id2label") or {0: 0, 1: 1}) == 1
                return "regression" if one and head == "classification" else head
    raise ConfigError(
        f"{weights.id}: its config doesn't tell which head it has",
        found=f"architectures: {config.get('architectures')}",
        fix=f"say it: head: one of {', '.join(get_args(Head))}; an LLM with a prompt is `llm:`",
    )


class HeadedModel:
    """Weights with a head, loaded when first needed."""

    def __init__(self, weights: Weights, dtype: DType, head: Head, max_tokens: int) -> None:
        self.weights, self.dtype, self.head = weights, dtype, head
        self._wanted = max_tokens

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.weights)

    @functools.cached_property
    def _model(self) -> Any:
        return load_headed(self.weights, self.dtype, _CLASSES[self.head])

    @functools.cached_property
    def max_tokens(self) -> int:
        """The longest input: what was wanted, or the most that the model can."""
        places = getattr(self._model.config, "max_position_embeddings", None) or self._wanted
        # RoBERTa counts its padding's places too
        offset = 2 if "roberta" in self._model.config.model_type else 0
        return int(min(self._wanted, places - offset, self.tokenizer.model_max_length))

    def classify(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Floats, int]:
        """Logits, float32 (n, outputs), and how many inputs lost their end."""
        rows = self._encode(texts, pairs, truncation=True, max_length=self.max_tokens)
        full = self._encode(texts, pairs, truncation=False)["input_ids"]
        cut = sum(len(ids) > self.max_tokens for ids in full)
        logits = self._run(rows, lambda out: out.logits)
        return np.stack(logits), cut

    def choose(self, questions: Sequence[str], options: Sequence[Sequence[str]]) -> tuple[list[Floats], int]:
        """For each question the logits of its options, and how many (question, option) pairs lost their
        end.
        """
        texts = [question for question, own in zip(questions, options, strict=True) for _ in own]
        answers = [option for own in options for option in own]
        # One option is one sequence: transformers' (n, options) is a view of that.
        rows = self._encode(texts, answers, truncation=True, max_length=self.max_tokens)
        cut = sum(
            len(ids) > self.max_tokens for ids in self._encode(texts, answers, truncation=False)["input_ids"]
        )
        logits = np.concatenate(self._run(rows, lambda out: out.logits.reshape(-1, 1), one_choice=True))
        ends = np.cumsum([len(own) for own in options])
        return np.split(logits, ends[:-1]), cut

    def find(self, items: Sequence[Input], no_answer: bool, threshold: float) -> list[Span]:
        """The most probable span of each context.

        A context that is too long is read in windows that overlap by half; a span's score is `start logit +
        end logit`, the best over all windows. With `no_answer` the score of none is that of the first token
        ([CLS]), the least over the windows, as for SQuAD 2.0, and none is the answer where it is above the
        best span's by more than `threshold`.
        """
        encoded = self._windows(items)
        rows = {
            key: encoded[key]
            for key in ("input_ids", "token_type_ids", "attention_mask")
            if key in encoded and key in self.tokenizer.model_input_names
        }
        both = self._run(rows, lambda out: _stacked(out.start_logits, out.end_logits))
        best: list[tuple[float, Span]] = [(-np.inf, Span("", -1))] * len(items)
        none = [np.inf] * len(items)
        for window, logits in enumerate(both):
            index = encoded["overflow_to_sample_mapping"][window]
            in_context = [kind == 1 for kind in encoded.sequence_ids(window)]
            offsets = encoded["offset_mapping"][window]
            length = len(in_context)
            start, end = logits[0, :length], logits[1, :length]
            none[index] = min(none[index], float(start[0] + end[0]))
            scores = _span_scores(start, end, np.array(in_context))
            first, last = np.unravel_index(scores.argmax(), scores.shape)
            if scores[first, last] > best[index][0]:
                begin, stop = offsets[first][0], offsets[last][1]
                context = str(items[index].text_pair)
                best[index] = (float(scores[first, last]), Span(context[begin:stop], int(begin)))
        return [
            Span("", -1) if (no_answer and nothing > score + threshold) or not np.isfinite(score) else span
            for (score, span), nothing in zip(best, none, strict=True)
        ]

    def _windows(self, items: Sequence[Input]) -> Any:
        questions = [item.text for item in items]
        asked = max(len(ids) for ids in self.tokenizer(questions, add_special_tokens=True)["input_ids"])
        room = self.max_tokens - asked - 2
        if room < 8:
            raise ModelError(
                f"{self.weights.id}: a question leaves no room for its context",
                found=f"{asked} tokens of {self.max_tokens}",
                fix="raise `max_tokens`, or shorten the question",
            )
        return self.tokenizer(
            questions,
            [str(item.text_pair) for item in items],
            truncation="only_second",
            max_length=self.max_tokens,
            stride=room // 2,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def _encode(self, texts: Sequence[str], pairs: Sequence[str] | None, **options: Any) -> dict[str, Any]:
        return dict(self.tokenizer(list(texts), list(pairs) if pairs is not None else None, **options))

    def _run(
        self, rows: dict[str, list[Any]], read: Callable[[Any], Any], one_choice: bool = False
    ) -> list[NDArray[Any]]:
        """What `read` takes from the model's output for each row, float32, in batches of similar length."""
        import torch

        results: list[NDArray[Any]] = [np.empty(0)] * len(rows["input_ids"])
        device = self._model.device
        for batch in batches([len(ids) for ids in rows["input_ids"]], _BATCH_TOKENS):
            padded = self.tokenizer.pad(
                {key: [values[i] for i in batch] for key, values in rows.items()}, return_tensors="pt"
            ).to(device)
            if one_choice:
                padded = {key: value[:, None] for key, value in padded.items()}
            with torch.inference_mode():
                values = read(self._model(**padded)).float().cpu().numpy()
            for index, value in zip(batch, values, strict=True):
                results[index] = value
        return results


def _stacked(start: Any, end: Any) -> Any:
    import torch

    return torch.stack([start, end], dim=1)


def _span_scores(start: Floats, end: Floats, in_context: NDArray[np.bool_]) -> NDArray[Any]:
    """start[i] + end[j] where i ≤ j < i + 30 and both stand in the context, else −inf: (tokens, tokens)."""
    scores = start[:, None].astype(np.float64) + end[None, :]
    first, last = np.indices(scores.shape)
    allowed = (last >= first) & (last < first + _LONGEST_ANSWER) & in_context[:, None] & in_context[None, :]
    return np.where(allowed, scores, -np.inf)
