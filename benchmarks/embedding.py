"""What a task embedding costs, against what one would do without fute, on the same texts in one run.

T5-base has random weights here: its speed is that of the trained one. `tupate-vs-peft` needs `pip install
peft`, `features-vs-st` needs `pip install sentence-transformers`.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figure import Figure
from benchmarks.texts import evaluation_data
from fute.core.progress import silent
from fute.core.runtime import fast_bfloat16
from fute.core.types import Examples, Input
from fute.data.corpus import Corpus
from fute.methods.linear_probe import LinearProbe
from fute.methods.task_emb import TaskEmb
from fute.methods.tupate import TuPaTE
from fute.surrogates.adapters import Nothing
from fute.surrogates.base import DEFAULT_SURROGATE, Surrogate
from fute.surrogates.features import Features
from fute.surrogates.fisher import Fisher
from fute.surrogates.frozen import Frozen
from fute.surrogates.training import Training
from fute.weights.load import load_base
from fute.weights.locate import locate

_TOKENS = 256


def measure(name: str) -> Figure:
    figure: Figure = _MEASURES[name](name)
    return figure


def _texts(n: int) -> list[Input]:
    corpus = Corpus.from_file(
        evaluation_data() / "unlabelled/corpus.jsonl", sample=n, seed=0, drop_empty=True
    )
    return list(corpus.inputs)


def _answers(inputs: Sequence[Input], seed: int) -> Examples:
    """Made-up soft labels: their values don't matter to the time that they take."""
    shares = np.random.default_rng(seed).random((len(inputs), 1)).astype(np.float32)
    return Examples(inputs, np.hstack([shares, 1 - shares]), ("negative", "positive"))


def _t5_base(folder: str) -> str:
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration, set_seed

    set_seed(0)
    config = T5Config(
        d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate(DEFAULT_SURROGATE).folder).save_pretrained(folder)
    return folder


def _seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _tupate_vs_peft(name: str) -> Figure:
    dtype = "float32" if name.endswith("float32") or not fast_bfloat16() else "bfloat16"
    inputs = _texts(1000)
    with tempfile.TemporaryDirectory() as folder:
        _t5_base(folder)
        with get_context("spawn").Pool(1) as alone:  # as it runs without fute
            theirs = len(inputs) / alone.apply(_peft_epoch, (folder, inputs))
        features = Features(Surrogate(folder, dtype=dtype))
        method = TuPaTE(where="decoder", steps=-(-900 // 32), max_tokens=_TOKENS)
        features.surrogate.model  # noqa: B018  loaded before the clock runs, as theirs is
        first = _seconds(lambda: method.embed(_answers(inputs, 0), features, 0, silent))
        second = _seconds(lambda: method.embed(_answers(inputs, 1), features, 0, silent))
    ours = len(inputs) / first
    print(
        f"T5-base, {dtype}: PEFT and a plain loop {theirs:.1f} examples/s, fute {ours:.1f}, a further model "
        f"on the same texts {len(inputs) / second:.1f}",
        file=sys.stderr,
    )
    if name == "tupate-further":
        return Figure(name, first / second, "× the speed of the first", 2.0, "higher")
    return Figure(
        name,
        ours / theirs,
        "× the speed of PEFT and a plain loop",
        2.5 if dtype == "float32" else 8.0,
        "higher",
    )


def _peft_epoch(folder: str, inputs: Sequence[Input]) -> float:
    """Prefix tuning as one would write it: float32, batches of 8, padded in the order of the texts."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model = get_peft_model(model, PrefixTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=16))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    labels = tokenizer(["negative", "positive"] * 4, return_tensors="pt").input_ids

    def epoch(some: Sequence[Input]) -> None:
        for start in range(0, len(some), 8):
            texts = [item.text for item in some[start : start + 8]]
            tokens = tokenizer(texts, truncation=True, max_length=_TOKENS, padding=True, return_tensors="pt")
            loss = model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, labels=labels[: len(texts)]
            ).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    epoch(inputs[:8])
    return _seconds(lambda: epoch(inputs))


def _fisher_vs_loop(name: str) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        surrogate = DEFAULT_SURROGATE if name.endswith("minilm") else _t5_base(folder)
        inputs = _texts(1000)[: 1000 if name.endswith("minilm") else 200]
        few = inputs[::20]
        with get_context("spawn").Pool(1) as alone:
            loop = alone.apply(_fisher_loop, (surrogate, few)) / len(few)
        with get_context("spawn").Pool(1) as alone:
            seconds, grown = alone.apply(_fisher_ours, (surrogate, inputs))
    ours = seconds / len(inputs)
    print(
        f"{1000 * loop:.0f} ms an example in a loop, {1000 * ours:.1f} ms here; peak memory {grown:.2f} × "
        "the model's",
        file=sys.stderr,
    )
    return Figure(
        name,
        loop / ours,
        "× the speed of a loop over single examples",
        8.0 if name.endswith("minilm") else 4.0,
        "higher",
    )


def _training(surrogate: str, inputs: Sequence[Input], dtype: str, plain: bool = False) -> Training:
    """With the surrogate's own model, or the one that transformers loads."""
    theta = Surrogate(surrogate, dtype=dtype)
    model = load_base(theta.weights, "float32") if plain else theta.load("float32")
    return Training(Frozen(theta, model, _TOKENS), _answers(inputs, 0), TuPaTE(), 0)


def _fisher_ours(surrogate: str, inputs: Sequence[Input]) -> tuple[float, float]:
    """Seconds, and the peak of memory above what was there before the model, over the model's size."""
    training = _training(surrogate, inputs, "auto")
    size = sum(p.nbytes for p in training.model.parameters())
    for p in training.model.parameters():
        p.sum()  # a file's pages are in memory once they were read
    before = _resident() - size
    fisher = Fisher(training.at_surrogates_precision())

    def run() -> None:
        for rows in training.passes():
            losses = partial(training.losses, Nothing(), training.head_start, rows, exact=True)
            fisher.add(len(rows), losses)

    seconds = _seconds(run)
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size


def _fisher_further(name: str) -> Figure:
    """Seconds of k models in one pass, against one model alone, on the same texts."""
    inputs, models = _texts(1000), 9
    many = [_answers(inputs, seed) for seed in range(models)]
    features, method = Features(Surrogate()), TaskEmb(adapt="none", max_tokens=_TOKENS)
    method.embed_many([_answers(inputs[:30], seed) for seed in range(2)], features, 0)
    first = _seconds(lambda: method.embed(many[0], features, 0))
    all_ = _seconds(lambda: method.embed_many(many, features, 0))
    further = 100 * (all_ - first) / (models - 1) / first
    print(f"{len(inputs)} texts: one model {first:.1f} s, {models} in one pass {all_:.1f} s", file=sys.stderr)
    return Figure(name, further, "% of the first model's time, for each further one", 5.0, "lower")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _fisher_loop(surrogate: str, inputs: Sequence[Input]) -> float:
    """One backward pass for each example, its gradients squared and added, as one would write it: float32."""
    training = _training(surrogate, inputs, "float32", plain=True)
    model = training.model.requires_grad_(True)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def run(rows: Sequence[int]) -> None:
        for row in rows:
            model.zero_grad()
            loss = training.losses(Nothing(), training.head_start, np.array([row]), exact=True)
            loss.sum().backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    total[name] += p.grad**2

    run([0])
    return _seconds(lambda: run(range(len(inputs))))


def _probe_further(name: str) -> Figure:
    inputs = _texts(10_000)
    features = Features(Surrogate(), Path("benchmarks/.cache/features.sqlite"))
    method = LinearProbe(replicates=0)
    method.embed(_answers(inputs, 0), features, 0)
    times = [_seconds(lambda s=s: method.embed(_answers(inputs, s), features, 0)) for s in range(1, 6)]
    print(f"{[round(1000 * t) for t in times]} ms", file=sys.stderr)
    return Figure(name, 1000 * float(np.median(times)), "ms", 50.0, "lower")


def _features_vs_st(name: str) -> Figure:
    from sentence_transformers import SentenceTransformer

    texts = [Input(" ".join(item.text.split()[:20])) for item in _texts(10_000)]
    folder = str(locate(DEFAULT_SURROGATE).folder)
    theirs = SentenceTransformer(folder, device="cpu")
    plain = [item.text for item in texts]
    theirs.encode(plain[:500])
    features = Features(Surrogate())
    features(texts[:500])
    slow = _seconds(lambda: theirs.encode(plain))
    fresh = Features(features.surrogate)
    fast = _seconds(lambda: fresh(texts))
    same = (fresh(texts[:50]) * theirs.encode(plain[:50], normalize_embeddings=True)).sum(1).min()
    print(f"sentence-transformers {slow:.1f} s, fute {fast:.1f} s; least cosine {same:.4f}", file=sys.stderr)
    return Figure(name, slow / fast, "× the speed of sentence-transformers", 1.5, "higher")


_MEASURES: dict[str, Callable[[str], Figure]] = {
    "tupate-vs-peft": _tupate_vs_peft,
    "tupate-vs-peft-float32": _tupate_vs_peft,
    "tupate-further": _tupate_vs_peft,
    "fisher-vs-loop-minilm": _fisher_vs_loop,
    "fisher-vs-loop-t5": _fisher_vs_loop,
    "fisher-further": _fisher_further,
    "probe-further": _probe_further,
    "features-vs-st": _features_vs_st,
}
