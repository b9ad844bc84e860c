"""Transformers with a trained head on this machine: logits of batches of inputs."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fute.core.batching import cheapest_batches
from fute.core.errors import ConfigError, ModelError
from fute.core.runtime import DType
from fute.core.types import Floats, Input, Span
from fute.weights.load import load_empty, load_headed, load_tokenizer
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
    """The model's config.json.

    Raises:
        ConfigError: there is none beside a GGUF file.
    """
    if weights.gguf:
        raise ConfigError(
            f"{weights.id} is a GGUF file, which holds an LLM without a head",
            fix="an LLM with a prompt is `llm:`",
        )
    content: dict[str, Any] = json.loads((weights.folder / "config.json").read_text(encoding="utf-8"))
    return content


def outputs_of(config: dict[str, Any]) -> list[str]:
    """The names of a classifier's or a regressor's outputs, in their order."""
    names = sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))
    return [str(name) for _, name in names] or ["LABEL_0", "LABEL_1"]  # two aren't written down


def head_of(weights: Weights) -> Head:
    """The head that the config names.

    Raises:
        ConfigError: it names none that fute knows.
    """
    config = read_config(weights)
    for architecture in config.get("architectures") or []:
        for ending, head in _ENDINGS.items():
            if architecture.endswith(ending) and (head != "text" or config.get("is_encoder_decoder")):
                scores = config.get("problem_type") == "regression" or len(outputs_of(config)) == 1
                return "regression" if scores and head == "classification" else head
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
        tokenizer = load_tokenizer(self.weights)
        # Without its files transformers makes an empty one, to which every word is unknown.
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            raise ModelError(
                f"{self.weights.id} holds no tokenizer",
                fix="save the one that it was trained with beside it: tokenizer.save_pretrained(folder)",
            )
        return tokenizer

    @functools.cached_property
    def _model(self) -> Any:
        model = load_headed(self.weights, self.dtype, _CLASSES[self.head])
        if self.dtype != "float32":
            _narrow(model, self.dtype)
        return model

    @functools.cached_property
    def _pads(self) -> bool:
        """Whether a row with padding means the same as one without, to this model. Where it doesn't, or where
        nobody says so, rows are read one at a time.
        """
        pad = self.tokenizer.pad_token_id
        return (
            pad is not None
            and pad == getattr(self._model.config, "pad_token_id", None)
            and self.tokenizer.padding_side == "right"  # XLNet and its like answer at a text's last token
            and "attention_mask" in inspect.signature(self._model.forward).parameters  # FNet has none
        )

    @functools.cached_property
    def max_tokens(self) -> int:
        """The longest input: what was wanted, or the most that the model can."""
        empty = load_empty(self.weights, _CLASSES[self.head])
        places = getattr(empty.config, "max_position_embeddings", None)
        if places is None or places < 1:  # XLNet says -1 for "any"
            places = self._wanted
        return int(min(self._wanted, places - _first_place(empty), self.tokenizer.model_max_length))

    def tokens_to_classify(self, texts: Sequence[str], pairs: Sequence[str] | None) -> int:
        """How many tokens `classify` would read. This and the next two load no weights."""
        return _length(self._fitting(texts, pairs)) if texts else 0

    def tokens_to_choose(self, questions: Sequence[str], options: Sequence[Sequence[str]]) -> int:
        """How many tokens `choose` would read."""
        return self.tokens_to_classify(*_beside(questions, options))

    def tokens_to_find(self, items: Sequence[Input]) -> int:
        """How many tokens `find` would read."""
        return _length(self._windows(items)[0]) if items else 0

    def classify(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Floats, int]:
        """Logits, float32 (n, outputs), and how many inputs lost their end."""
        rows = self._fitting(texts, pairs)
        full = self._encode(texts, pairs, truncation=False)["input_ids"]
        cut = sum(len(ids) > self.max_tokens for ids in full)
        logits = self._run(rows, lambda out: out.logits)
        return np.stack(logits), cut

    def choose(self, questions: Sequence[str], options: Sequence[Sequence[str]]) -> tuple[list[Floats], int]:
        """For each question the logits of its options, and how many questions lost their end, or an
        option's.
        """
        texts, answers = _beside(questions, options)
        # One option is one sequence: transformers' (n, options) is a view of that.
        rows = self._fitting(texts, answers)
        full = self._encode(texts, answers, truncation=False)["input_ids"]
        ends = np.cumsum([len(own) for own in options])[:-1]
        cut = sum(map(np.any, np.split([len(ids) > self.max_tokens for ids in full], ends)))
        logits = np.concatenate(self._run(rows, lambda out: out.logits.reshape(-1, 1), one_choice=True))
        return np.split(logits, ends), int(cut)

    def find(self, items: Sequence[Input], no_answer: bool, threshold: float) -> tuple[list[Span], int]:
        """The most probable span of each context, and how many questions lost their end.

        A context that is too long is read in windows; a span's score is `start logit + end logit`, the best
        over all windows. With `no_answer` the score of none is that of the first token ([CLS]), the least
        over the windows, as for SQuAD 2.0, and none is the answer where it is above the best span's by more
        than `threshold`.
        """
        encoded, cut = self._windows(items)
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
                span = _span(str(items[index].text_pair), offsets[first][0], offsets[last][1])
                best[index] = (float(scores[first, last]), span)
        spans = [
            Span("", -1) if (no_answer and nothing > score + threshold) or not np.isfinite(score) else span
            for (score, span), nothing in zip(best, none, strict=True)
        ]
        return spans, cut

    def _windows(self, items: Sequence[Input]) -> tuple[Any, int]:
        """Tokens of the questions with their contexts, and how many questions lost their end.

        Windows overlap by a quarter of their length (128 tokens of 512), whatever else is in the batch: an
        answer must not depend on that.
        """
        questions, long = short_questions(self.tokenizer, [item.text for item in items], self.max_tokens)
        windows = self.tokenizer(
            questions,
            [str(item.text_pair) for item in items],
            truncation="only_second",
            max_length=self.max_tokens,
            stride=self.max_tokens // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        return windows, long

    def _fitting(self, texts: Sequence[str], pairs: Sequence[str] | None) -> dict[str, Any]:
        return self._encode(texts, pairs, truncation=True, max_length=self.max_tokens)

    def _encode(self, texts: Sequence[str], pairs: Sequence[str] | None, **options: Any) -> dict[str, Any]:
        return dict(self.tokenizer(list(texts), list(pairs) if pairs is not None else None, **options))

    def _run(
        self, rows: dict[str, list[Any]], read: Callable[[Any], Any], one_choice: bool = False
    ) -> list[NDArray[Any]]:
        """What `read` takes from the model's output for each row, float32, in batches of similar length."""
        import torch

        results: list[NDArray[Any]] = [np.empty(0)] * len(rows["input_ids"])
        device = self._model.device
        sizes = [len(ids) for ids in rows["input_ids"]]
        for batch in cheapest_batches(sizes, _BATCH_TOKENS if self._pads else 0):
            padded = self.tokenizer.pad(
                {key: [values[i] for i in batch] for key, values in rows.items()},
                padding=self._pads,
                return_tensors="pt",
            ).to(device)
            if one_choice:
                padded = {key: value[:, None] for key, value in padded.items()}
            try:
                with torch.inference_mode():
                    values = read(self._model(**padded)).float().cpu().numpy()
            except RuntimeError as error:
                if self.dtype == "float32" or "BFloat16" not in str(error):
                    raise
                raise ModelError(
                    f"{self.weights.id} can't be run in {self.dtype}",
                    found=str(error)[:200],
                    fix="dtype: float32",
                ) from error
            for index, value in zip(batch, values, strict=True):
                results[index] = value
        return results


def short_questions(tokenizer: Any, questions: Sequence[str], max_tokens: int) -> tuple[list[str], int]:
    """The questions, each cut to a third of the tokens that are read, so that there is room for a context.

    Returns:
        The questions, and how many lost their end.
    """
    most, short = max_tokens // 3, list(questions)
    encoded = tokenizer(short, add_special_tokens=False, return_offsets_mapping=True)
    long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > most]
    for i in long:
        short[i] = short[i][: encoded["offset_mapping"][i][most - 1][1]]
    return short, len(long)


def _beside(questions: Sequence[str], options: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Each option, with its question beside it."""
    texts = [question for question, own in zip(questions, options, strict=True) for _ in own]
    return texts, [option for own in options for option in own]


def _length(rows: Mapping[str, Any]) -> int:
    return sum(map(len, rows["input_ids"]))


def _first_place(model: Any) -> int:
    """How many places come before a text's first: RoBERTa and its relatives count those of their padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _narrow(model: Any, dtype: DType) -> None:
    """Let the body run in `dtype`, some parameters of DeBERTa and XLNet included, which transformers leaves
    out, and the head in float32: it is small, and bfloat16 scores are steps of up to 0.8 % of their size.
    """
    import torch

    def widen(_: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for value in values
        )

    model.to(getattr(torch, dtype))
    for child in model.children():
        if child is not model.base_model:
            child.float().register_forward_pre_hook(widen)


def _stacked(start: Any, end: Any) -> Any:
    import torch

    return torch.stack([start, end], dim=1)


def _span(context: str, begin: int, end: int) -> Span:
    """What stands there, without the space that some tokenizers count to the word after it."""
    text = context[begin:end]
    return Span(text.strip(), begin + len(text) - len(text.lstrip()))


def _span_scores(start: Floats, end: Floats, in_context: NDArray[np.bool_]) -> NDArray[Any]:
    """start[i] + end[j] where i ≤ j < i + 30 and both stand in the context, else −inf: (tokens, tokens)."""
    scores = start[:, None].astype(np.float64) + end[None, :]
    first, last = np.indices(scores.shape)
    allowed = (last >= first) & (last < first + _LONGEST_ANSWER) & in_context[:, None] & in_context[None, :]
    return np.where(allowed, scores, -np.inf)
