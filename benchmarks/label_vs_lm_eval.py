"""The same texts, prompts, choices and dtype through lm-evaluation-harness, at its best batch size.

Needs `pip install lm-eval==0.4.13` and the evaluation data.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.figure import Figure
from benchmarks.label_shared import paper_prompts, together
from benchmarks.texts import reviews
from fute.core.types import Floats, Input
from fute.models.prompted import PromptedLLM
from fute.weights.load import load_causal_lm, load_tokenizer

_TEXTS = 60
_SIZES = (1, 8, 16, 32, 64)


def measure(name: str) -> Figure:
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    boxes = paper_prompts("auto")
    inputs = sorted([*reviews("imdb", _TEXTS // 2, 230), *reviews("rotten_tomatoes", _TEXTS // 2)], key=len)
    together(boxes, inputs[:4])
    model, tokenizer = load_causal_lm(boxes[0].weights, boxes[0].dtype), load_tokenizer(boxes[0].weights)
    rates = {}
    for size in _SIZES:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        few = inputs[:: len(inputs) // 6]
        began = time.perf_counter()
        _ask(harness, boxes[:4], few)
        rates[size] = len(few) * 4 / (time.perf_counter() - began)
    best = max(rates, key=lambda size: rates[size])
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=best)
    began = time.perf_counter()
    theirs = _ask(harness, boxes, inputs)
    slow = time.perf_counter() - began
    began = time.perf_counter()
    ours = together(boxes, inputs)
    fast = time.perf_counter() - began
    agree = np.mean([(a.argmax(1) == b.argmax(1)).mean() for a, b in zip(ours, theirs, strict=True)])
    print(
        f"{len(boxes)} prompts × {len(inputs)} texts, {boxes[0].dtype}: lm-eval {slow:.1f} s at batch size "
        f"{best} (items/s by size: { {s: round(r, 1) for s, r in rates.items()} }), fute {fast:.1f} s; "
        f"against its default batch size of 1 about {slow / fast * rates[best] / rates[1]:.1f} ×; "
        f"same argmax {agree:.3f}",
        file=sys.stderr,
    )
    return Figure(
        name, slow / fast, "× the throughput of lm-eval 0.4.13 at its best batch size", 3.0, "higher"
    )


def _ask(harness: object, boxes: Sequence[PromptedLLM], inputs: Sequence[Input]) -> list[Floats]:
    """For each prompt the log-probabilities of the labels (n, C), as lm-eval scores choices."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (box.prompt.plain(item), word), 0)
        for box in boxes
        for item in inputs
        for words in box.prompt.verbalizer.words.values()
        for word in words
    ]
    scores = iter(harness.loglikelihood(requests, disable_tqdm=True))  # type: ignore[attr-defined]

    def label_scores(box: PromptedLLM) -> list[float]:
        words = box.prompt.verbalizer.words.values()
        return [np.logaddexp.reduce([next(scores)[0] for _ in own]) for own in words]

    return [np.array([label_scores(box) for _ in inputs]) for box in boxes]
