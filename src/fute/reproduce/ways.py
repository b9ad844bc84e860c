"""Task embeddings of several kinds, set beside each other: fute's own, and the paper's as it means and as it
made them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fute.api import Embedder, Work
from fute.core.progress import Progress, silent
from fute.core.types import Examples, TaskEmbedding
from fute.data.splits import sample_indices
from fute.space.similarity import Similarity


@dataclass(frozen=True)
class Way:
    """Task embeddings of one kind.

    Attributes:
        method, options: f.
        rows: of a dataset or of U at most, since each costs much.
        of_models: MTEs are compared with DTEs; else the sources' own DTEs are, as before FUTE.
        similarity: as for `fute.space.similarity.cosine`.
        own_starts: each embedding starts from other noise, as published.
    """

    method: str
    options: Mapping[str, Any]
    rows: int = 100_000
    of_models: bool = True
    similarity: Similarity = "inputs"
    own_starts: bool = False


STEPS = {"steps": 30}  # 5 epochs of 200 rows
# FUTE as the paper has it. As published: the code's estimator, and its vector that isn't the change from the
# start.
PAPERS = {
    "FUTE+TaskEmb": Way("task-emb", {}, rows=200),
    "FUTE+TaskEmb, as published": Way(
        "task-emb", {"estimator": "squared_mean", "head": "noise"}, rows=200, own_starts=True
    ),
    "FUTE+TuPaTE": Way("tupate", STEPS, rows=200),
    "FUTE+TuPaTE, as published": Way(
        "tupate", {**STEPS, "vector": "end", "head": "noise"}, rows=200, own_starts=True
    ),
}


def drawn(way: Way, work: Work, seed: int) -> Work:
    """With as many of the examples as the way takes; the seed says which."""
    return work._replace(examples=some(work.examples, way.rows, seed))


def embedded(way: Way, embedder: Embedder, work: Work, progress: Progress = silent) -> TaskEmbedding:
    """The embedding of that kind."""
    progress(f"{way.method}: {work.name}", 0, 1)
    if way.own_starts:
        return embedder.embed_from(zlib.crc32(work.name.encode()) + embedder.seed, work, progress)
    return embedder.embed(*work, progress)


def some(examples: Examples, most: int, seed: int = 0) -> Examples:
    """A draw of so many examples, or all."""
    rows = sample_indices(len(examples.inputs), most, seed=seed)
    targets = examples.targets
    return Examples(
        [examples.inputs[row] for row in rows],
        targets[rows] if isinstance(targets, np.ndarray) else [targets[row] for row in rows],
        examples.labels,
        examples.output,
    )
