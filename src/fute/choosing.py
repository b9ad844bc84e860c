"""Choosing a prompt or a model for a dataset: by task embeddings, beside other ways, or by a race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.api import answers_labels, right
from fute.core.errors import ConfigError, listing
from fute.core.progress import Progress, silent
from fute.core.types import Floats
from fute.data.dataset import Dataset
from fute.labelling.runner import Answered
from fute.models.base import BlackBox
from fute.project import Project
from fute.selection.baselines.entropies import mutual_information_g
from fute.selection.baselines.prompts import score_prompts
from fute.selection.compare import Comparison, compare, doubts
from fute.selection.fusion import standardised
from fute.selection.racing import race
from fute.space.similarity import Similarity, cosine_matrix, cosines

What = Literal["prompt", "model"]
OURS, HYBRID, RACE = "fute", "fute + MI_G", "race"


def choose(
    project: Project,
    dataset: str,
    what: What = "prompt",
    *,
    against: Sequence[str] | None = (),
    truth: bool = False,
    budget: int | None = None,
    similarity: Similarity = "map",
    progress: Progress = silent,
    offline: bool = False,
) -> Comparison:
    """What each way to choose takes among the candidates: the models of the project that answer the dataset's
    labels, and of these those with a prompt where `what` is "prompt".

    "fute" are the similarities of task embeddings. "fute + MI_G" adds, both standardised, the mutual
    information of a candidate's answers to the dataset's texts. Baselines see these texts too, without
    labels: those of the rows that `test` holds out, or all where it holds none out. That takes a call for
    each candidate and text, which is kept.

    Args:
        project: after `run`.
        dataset: one of its datasets with classes; without labels there is neither truth nor race.
        what: which candidates.
        against: names of `PROMPT_BASELINES`, None for all; without any, and without `truth` and `budget`,
            nothing is asked.
        truth: also the accuracy on the rows held out, and how good each way's order is by it.
        budget: also race on this many labelled evaluations, on the rows that are not held out.
        similarity: as for `fute.selection.rank.rank`.
        progress, offline: as for `labelling.runner.label`.

    Raises:
        ConfigError: no such dataset or candidates, no rows held out for the truth, no classes, or an unknown
            baseline.
        ModelError: the failure of the first candidate that fails.
    """
    target = project.target(dataset)
    train, held_out = project.datasets[dataset]
    if train.output != "class":
        raise ConfigError(f"dataset {dataset} has no classes", found=f"output {train.output}")
    if train.targets is None and (truth or budget is not None):
        raise ConfigError(f"dataset {dataset} has no labels", fix="leave `--accuracy` and `--budget` out")
    if truth and not len(held_out):
        raise ConfigError(f"dataset {dataset} holds no rows out", fix="set `test: 0.5` in fute.yaml")
    stored = {e.name: e for e in project.space.embeddings("model")}
    boxes = [
        m
        for m in project.models
        if m.name in stored and answers_labels(m, train) and (what == "model" or "template" in m.provenance)
    ]
    if not boxes:
        raise ConfigError(
            f"no {what} of the space answers the labels of {dataset}",
            expected=f"the labels {listing(train.labels)}",
            fix="`fute run` embeds the models; `fute rank` ranks those with other labels, too",
        )
    embeddings = [stored[box.name] for box in boxes]
    scores: dict[str, NDArray[Any]] = {OURS: cosines(target, embeddings, similarity)}
    rows, warnings, performances = 0, list[str](), None
    if truth or against is None or against:
        seen = held_out if len(held_out) else train
        answers, kept = _answers(project, boxes, seen, progress, offline)
        rows = len(kept)
        warnings = doubts([box.name for box in boxes], answers, cosine_matrix(embeddings))
        scores[HYBRID] = standardised(scores[OURS]) + standardised([mutual_information_g(p) for p in answers])
        scores |= score_prompts(answers, against)
        if truth:
            performances = (answers.argmax(axis=2) == seen.classes[kept]).mean(axis=1)
    if budget is not None:
        scores[RACE] = _race(project, boxes, train, scores[OURS], budget, progress, offline)
    return compare(dataset, [box.name for box in boxes], scores, performances, rows, warnings)


def _answers(
    project: Project, boxes: Sequence[BlackBox], data: Dataset, progress: Progress, offline: bool
) -> tuple[Floats, NDArray[np.intp]]:
    """The probabilities (k, n, C) of the dataset's labels, and which n rows all have answered."""
    labelled = _label(project, boxes, data, progress, offline)
    answered = [labelled[box.name] for box in boxes]
    kept = np.array(sorted(set.intersection(*(set(a.rows) for a in answered))), dtype=np.intp)
    if not len(kept):
        raise ConfigError(
            f"there is no row of {data.name} that all candidates have answered",
            fix="run again: the caps of `budget:` may have stopped it",
        )
    return np.stack([a.probabilities_of(data.labels)[np.searchsorted(a.rows, kept)] for a in answered]), kept


def _label(
    project: Project, boxes: Sequence[BlackBox], data: Dataset, progress: Progress, offline: bool
) -> Mapping[str, Answered]:
    """The answers to the dataset's texts, by model. Raises the failure of the first that fails."""
    labelled = project.ask(boxes, data, progress, offline=offline)
    for failure in labelled.failures.values():
        raise failure
    return labelled.answered


def _race(
    project: Project,
    boxes: Sequence[BlackBox],
    train: Dataset,
    prior: NDArray[np.float64],
    budget: int,
    progress: Progress,
    offline: bool,
) -> NDArray[np.float64]:
    def evaluate(candidates: Sequence[int], rows: Sequence[int]) -> NDArray[np.bool_]:
        chosen = [boxes[i] for i in candidates]
        part = train.take(np.asarray(rows))
        answered = _label(project, chosen, part, progress, offline)
        return np.stack([right(box, part, answered[box.name]) for box in chosen])

    return race(prior, len(train), budget, evaluate, project.config.seed).scores
