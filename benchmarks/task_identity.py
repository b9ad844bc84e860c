"""Does a dataset's embedding find the model that was trained on it by other means?

For each of 14 datasets a TF-IDF + logistic regression is trained on up to 1,000 rows; it answers 2,500
texts of U, and is embedded by that. Each dataset is embedded by other rows of its own, up to 1,000. The
figure is the mean rank of its own model among the 14 (1 is best; 7.5 is chance).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.figure import Figure
from benchmarks.texts import evaluation_data
from fute.api import Embedder
from fute.core.types import Examples, Input, TaskEmbedding
from fute.data.corpus import Corpus, fit
from fute.data.dataset import Dataset
from fute.space.similarity import Similarity, cosine

_DATASETS = (
    *("cr/snli", "cr/mnli", "cr/qqp", "cr/qnli", "cr/sst2", "cr/scitail", "cr/cola", "cr/mrpc", "cr/rte"),
    *("prompt_selection/rotten_tomatoes", "prompt_selection/imdb", "prompt_selection/cb"),
    *("cross_domain/financial_phrasebank", "cross_domain/medical_questions_pairs"),
)
_ROWS, _U = 1000, 2500


@dataclass(frozen=True)
class _Way:
    """One method as it is measured: `rows` bounds the examples where each costs much."""

    method: str
    options: Mapping[str, Any]
    similarity: Similarity = "map"
    anonymous: bool = False
    rows: int = _U
    target: float = 7.5


_WAYS = {
    "task-identity": _Way("linear-probe", {"replicates": 0}, target=1.3),
    "task-identity-loo": _Way("linear-probe", {"replicates": 0, "regularisation": "loo"}),
    "task-identity-anonymous": _Way("linear-probe", {"replicates": 0}, "inputs", anonymous=True),
    "task-identity-relation": _Way("linear-probe", {"replicates": 0, "pairs": "relation"}),
    "task-identity-text-emb": _Way("text-emb", {"replicates": 0}),
    "task-identity-tupate": _Way("tupate", {}, rows=1000),
    "task-identity-bitfit": _Way("tupate", {"adapter": "bitfit", "learning_rate": 0.003}, rows=1000),
    "task-identity-lora": _Way("tupate", {"adapter": "lora", "learning_rate": 0.003}, rows=1000),
    "task-identity-task-emb": _Way("task-emb", {}, rows=300),
    "task-identity-task-emb-outputs": _Way("task-emb", {"of": "outputs"}, rows=300),
}


def measure(name: str) -> Figure:
    way = _WAYS[name]
    embedder = Embedder.create(way.method, way.options, folder=Path("benchmarks/.cache"))
    datasets, models = [], []
    for number, task in enumerate(examples_of_tasks(way.rows), start=1):
        datasets.append(_embed(embedder, way, task.name, task.dataset, "dataset"))
        models.append(_embed(embedder, way, task.name, task.model, "model"))
        print(f"\r{name}: {number}/{len(_DATASETS)}", end="", file=sys.stderr, flush=True)
    scores = np.array([[cosine(d, m, way.similarity) for m in models] for d in datasets])
    # Of equal scores each counts half: a method that can't tell models apart is at chance.
    own = scores.diagonal()[:, None]
    ranks = (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) + 1) / 2
    each = ", ".join(f"{path.split('/')[1]} {rank:g}" for path, rank in zip(_DATASETS, ranks, strict=True))
    print(f"\n{name}: first {int((ranks == 1).sum())} times; {each}", file=sys.stderr)
    return Figure(name, float(ranks.mean()), "mean rank of 14", way.target, "lower")


class Task(NamedTuple):
    """A dataset's rows, and the answers on U of a model that was trained on others of its rows."""

    name: str
    dataset: Examples
    model: Examples


def examples_of_tasks(texts: int = _U) -> Iterator[Task]:
    """For each of the 14 datasets; `texts` of U are answered."""
    data = evaluation_data()
    corpus = Corpus.from_file(data / "unlabelled/corpus.jsonl", sample=_U, seed=0, drop_empty=True)
    for path in _DATASETS:
        file = data / path / "train.jsonl"
        whole = Dataset.from_file(file, name=path, sample=2 * _ROWS, **_columns(file))
        mine, others = whole.split(0.5, seed=0)
        box = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2), LogisticRegression(max_iter=1000))
        box.fit(_joined(mine.inputs[:_ROWS]), [mine.labels[c] for c in mine.classes[:_ROWS]])
        shape = "pair" if mine.inputs[0].text_pair is not None else "text"
        asked = [fit(item, shape) for item in corpus.inputs[:texts]]
        answers = box.predict_proba(_joined(asked)).astype(np.float32)
        yield Task(path, others.examples, Examples(asked, answers, tuple(box.classes_)))


def _columns(file: Path) -> dict[str, str]:
    with file.open(encoding="utf-8") as lines:
        keys = json.loads(next(lines))
    pairs = (("premise", "hypothesis"), ("sentence1", "sentence2"))
    return next(({"text": a, "text_pair": b} for a, b in pairs if a in keys), {})


def _joined(inputs: Sequence[Input]) -> list[str]:
    return [f"{item.text} {item.text_pair or ''}" for item in inputs]


def _embed(embedder: Embedder, way: _Way, name: str, examples: Examples, kind: Any) -> TaskEmbedding:
    labels = examples.labels
    if way.anonymous:
        labels = tuple(f"class {chr(ord('A') + i)}" for i in range(len(labels)))
    some = Examples(examples.inputs[: way.rows], examples.probabilities[: way.rows], labels)
    return embedder.embed(name, kind, some, {})
