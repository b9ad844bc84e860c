"""A long run against what the machine's matrix products allow, measured in turns in one run."""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.figure import Figure
from benchmarks.label_shared import LLM
from benchmarks.texts import reviews
from fute.models.prompted import PromptedLLM
from fute.weights.load import load_causal_lm

_ROWS = 2048
_ROUNDS = 5


def measure(name: str) -> Figure:
    inputs = reviews("imdb", 128, 230)
    words = {"negative": " negative", "positive": " positive"}
    template = "Review: {{ text }}\nSentiment:"
    plain, box = PromptedLLM(LLM, template, words), PromptedLLM(LLM, template, words, compile=True)
    for either in (plain, box):
        either.predict(inputs[:16])
    tokens = box.count_tokens(inputs)
    model = load_causal_lm(box.weights, box.dtype)  # for its shapes
    head = model.get_output_embeddings().weight.numel()
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2) - head
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2 and p.numel() != head}
    rates, times, uncompiled = [], [], []
    for _ in range(_ROUNDS):
        rates.append(_flops(shapes, model.dtype))
        for either, found in ((plain, uncompiled), (box, times)):
            began = time.perf_counter()
            either.predict(inputs)
            found.append(time.perf_counter() - began)
    # Of both sides the best round: what else the machine does can only make a round slower.
    bound = tokens * 2 * weights / max(rates)
    shown = [" ".join(f"{t / bound:.2f}" for t in found) for found in (times, uncompiled)]
    print(
        f"{tokens:,} tokens; time over that of the weights' products alone: {shown[0]}; without `compile` "
        f"{shown[1]}",
        file=sys.stderr,
    )
    return Figure(name, min(times) / bound, f"× the {box.dtype} matrix-product bound", 2.0, "lower")


def _flops(shapes: set[tuple[int, ...]], dtype: torch.dtype) -> float:
    """The best rate (FLOP/s) of a product with a matrix of these shapes, 2,048 rows at a time."""
    best = 0.0
    with torch.inference_mode():
        for rows, columns in shapes:
            x, w = torch.randn(_ROWS, columns).to(dtype), torch.randn(rows, columns).to(dtype)
            for _ in range(8):
                began = time.perf_counter()
                torch.nn.functional.linear(x, w)
                best = max(best, 2 * _ROWS * rows * columns / (time.perf_counter() - began))
    return best
