"""What choosing prompts costs for k prompts and d datasets, by each way, and from how many datasets on fute
costs less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fute.api import model_examples
from fute.core.progress import Progress, silent
from fute.core.types import Input
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.base import BlackBox
from fute.project import Project

_TIMED = 48  # texts, asked of all prompts anew
LABELLED = (32, 128)  # rows that direct evaluation asks for
COSTS = ("calls", "tokens", "seconds")


class Cost(NamedTuple):
    """Of one way: `once + d · each` for d datasets.

    Attributes:
        way: its name.
        calls: questions to the LLM.
        tokens: that it reads.
        seconds: on this machine; the LLM's, and fute's own for embeddings.
    """

    way: str
    calls: tuple[float, float]
    tokens: tuple[float, float]
    seconds: tuple[float, float]

    def of(self, what: str, datasets: int) -> float:
        once, each = getattr(self, what)
        return float(once + datasets * each)


def costs(folder: Path, progress: Progress = silent) -> list[Cost]:
    """The costs of a prompt grid that was run, from its own prompts, U and datasets.

    Tokens are counted on all texts. The time of a text is measured on some of U and of each dataset, each
    asked of all prompts at once and not from the cache; so is that of an embedding. Baselines without labels
    ask for all rows of a dataset; direct evaluation asks for `LABELLED` of them, and their labels.
    """
    project = Project(folder)
    boxes, u = project.models, project.corpus.inputs
    sets = {name: train for name, (train, _) in project.datasets.items()}
    of_u = _measured(boxes, u, progress)
    each = [_measured(boxes, data.inputs, progress) for data in sets.values()]
    rows = [len(data) for data in sets.values()]

    def mean(share: Sequence[float]) -> tuple[tuple[float, float], ...]:
        """Once nothing, and for a dataset the mean over these, with that share of its rows."""
        totals = [sum(m[i] * s for m, s in zip(each, share, strict=True)) / len(each) for i in range(3)]
        return tuple((0.0, total) for total in totals)

    answered = project.embedder.label(boxes, project.corpus, progress)  # from the project's cache
    fresh = replace(project.embedder, folder=None)  # that has no features yet
    began = time.perf_counter()
    for box in boxes:
        fresh.embed(box.name, "model", model_examples(box, answered), {})
    mtes = time.perf_counter() - began
    began = time.perf_counter()
    for data in sets.values():
        fresh.embed_dataset(data)
    dte = (time.perf_counter() - began) / len(sets)
    found = [Cost("fute", (of_u[0], 0), (of_u[1], 0), (of_u[2] + mtes, dte))]
    found.append(Cost("label-free baselines", *mean([1.0] * len(rows))))
    for n in LABELLED:
        found.append(Cost(f"direct evaluation, {n} labels", *mean([min(1, n / of) for of in rows])))
    return found


def crossing(fute: Cost, other: Cost, what: str) -> int | None:
    """The least number of datasets from which on fute costs no more; None if it never does."""
    once, each = (a - b for a, b in zip(getattr(fute, what), getattr(other, what), strict=True))
    if once + each <= 0:
        return 1
    return math.ceil(once / -each) if each < 0 else None


def _measured(
    boxes: Sequence[BlackBox], inputs: Sequence[Input], progress: Progress
) -> tuple[float, float, float]:
    """Calls, tokens read and seconds that these inputs take of all boxes."""
    usages = [box.usage(inputs) for box in boxes]
    some = inputs[:: max(1, len(inputs) // _TIMED)]
    began = time.perf_counter()
    label(boxes, some, PredictionCache(None), progress)
    seconds = (time.perf_counter() - began) * len(inputs) / len(some)
    return sum(u.calls for u in usages), sum(u.tokens_in for u in usages), seconds
