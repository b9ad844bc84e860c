"""The same texts, prompts, choices and dtype through lm-evaluation-harness, at its best batch size.

Needs `pip install lm-eval==0.4.13` and the evaluation data.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from benchmarks.figure import Figure
from benchmarks.label_shared import paper_prompts, together
from benchmarks.texts import reviews
from fute.core.runtime import choose_dtype
from fute.core.types import Floats, Input
from fute.models.prompted import PromptedLLM
from fute.weights import amx
from fute.weights.load import load_causal_lm, load_tokenizer

_TEXTS = 60
_SIZES = (1, 8, 16, 32, 64)


@dataclass(frozen=True)
class _Theirs:
    """What the harness took: items per second of a few items by batch size, then all at the best of them."""

    rates: dict[int, float]
    best: int
    seconds: float
    scores: list[Floats]


def measure(name: str) -> Figure:
    # Where layers run as amx.cpp, compiling takes a second; elsewhere half a minute, as long as fute's run.
    boxes = paper_prompts("auto", compile=amx.may_take("llama", choose_dtype("auto")))
    inputs = sorted([*reviews("imdb", _TEXTS // 2, 230), *reviews("rotten_tomatoes", _TEXTS // 2)], key=len)
    with tempfile.TemporaryDirectory() as folder:
        load_causal_lm(boxes[0].weights, boxes[0].dtype).save_pretrained(folder)
        load_tokenizer(boxes[0].weights).save_pretrained(folder)
        with get_context("spawn").Pool(1) as alone:  # fute changes how its own process keeps memory
            theirs = alone.apply(_run_harness, (folder, inputs))
    together(boxes, inputs[:4])
    began = time.perf_counter()
    ours = together(boxes, inputs)
    fast = time.perf_counter() - began
    ratio = theirs.seconds / fast
    agree = np.mean([(a.argmax(1) == b.argmax(1)).mean() for a, b in zip(ours, theirs.scores, strict=True)])
    rates = {size: round(rate, 1) for size, rate in theirs.rates.items()}
    print(
        f"{len(boxes)} prompts × {len(inputs)} texts, {boxes[0].dtype}: lm-eval {theirs.seconds:.1f} s at "
        f"batch size {theirs.best} (items/s by size: {rates}), fute {fast:.1f} s; against its default batch "
        f"size of 1 about {ratio * rates[theirs.best] / rates[1]:.1f} ×; same argmax {agree:.3f}",
        file=sys.stderr,
    )
    return Figure(name, ratio, "× the throughput of lm-eval 0.4.13 at its best batch size", 3.0, "higher")


def _run_harness(folder: str, inputs: Sequence[Input]) -> _Theirs:
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    boxes = paper_prompts("auto")
    few = inputs[:: len(inputs) // 6]

    def harness(size: int) -> object:
        return HFLM(pretrained=folder, dtype=boxes[0].dtype, device="cpu", batch_size=size)

    def timed(
        model: object, some: Sequence[PromptedLLM], texts: Sequence[Input]
    ) -> tuple[float, list[Floats]]:
        began = time.perf_counter()
        scores = _ask(model, some, texts)
        return time.perf_counter() - began, scores

    timed(harness(1), boxes[:1], few)  # warm
    rates = {size: len(few) * 4 / timed(harness(size), boxes[:4], few)[0] for size in _SIZES}
    best = max(rates, key=lambda size: rates[size])
    return _Theirs(rates, best, *timed(harness(best), boxes, inputs))


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
