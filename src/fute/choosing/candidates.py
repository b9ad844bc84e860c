"""Which prompt or model, among those that answer a dataset's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.api import answers_labels, right
from fute.choosing.asked import ASKED
from fute.choosing.case import Case, Way, common_rows, scored
from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.progress import Progress, silent
from fute.core.types import Floats
from fute.project import Project
from fute.selection.baselines.entropies import mutual_information_g
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from fute.selection.compare import Comparison, compare, doubts
from fute.selection.fusion import standardised
from fute.selection.racing import race
from fute.space.similarity import Similarity, cosine_matrix, cosines

What = Literal["prompt", "model"]
OURS, HYBRID, RACE = "fute", "fute + MI_G", "race"
# Baselines that need more than the candidates' answers.
OTHERS: Mapping[str, Way] = ASKED


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
        against: other ways, by name in any case: of `PROMPT_BASELINES` (None or "baselines" for all of them),
            or of `OTHERS`, which cost more calls ("all" for these too). Without any, and without `truth` and
            `budget`, nothing is asked.
        truth: also the accuracy on the rows held out, and how good each way's order is by it.
        budget: also race on this many labelled evaluations, on the rows that are not held out.
        similarity: as for `fute.selection.rank.rank`.
        progress, offline: as for `labelling.runner.label`.

    Raises:
        ConfigError: no such dataset or candidates, no rows held out for the truth, no classes, or an unknown
            baseline.
        ModelError: the failure of the first candidate that fails.
    """
    free, others = _ways(against)
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
    names = [box.name for box in boxes]
    case = Case(project, boxes, train, held_out if len(held_out) else train, progress, offline)
    scores: dict[str, NDArray[Any]] = {OURS: cosines(target, embeddings, similarity)}
    rows, warnings, performances = 0, list[str](), None
    if truth or free:
        answers, kept = _answers(case)
        rows = len(kept)
        warnings = doubts(names, answers, cosine_matrix(embeddings))
        scores[HYBRID] = standardised(scores[OURS]) + standardised([mutual_information_g(p) for p in answers])
        scores |= score_prompts(answers, free)
        if truth:
            performances = (answers.argmax(axis=2) == case.seen.classes[kept]).mean(axis=1)
    for name in others:
        made = scored(name, OTHERS[name], case)
        scores[name] = made.scores
        warnings += made.notes
    if budget is not None:
        scores[RACE] = _race(case, scores[OURS], budget)
    return compare(dataset, names, scores, performances, rows, warnings)


def _ways(against: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The baselines that are meant: those that need no more than the candidates' answers, and the others.

    Raises:
        ConfigError: a name that is none's.
    """
    known = [*PROMPT_BASELINES, *OTHERS]
    by_name = {name.casefold(): [name] for name in known}
    by_name |= {"baselines": list(PROMPT_BASELINES), "all": known}
    chosen: dict[str, None] = {}
    for given in ["baselines"] if against is None else against:
        for name in filter(None, (part.strip() for part in given.split(","))):
            if name.casefold() not in by_name:
                raise ConfigError(
                    f'there is no baseline "{name}".{did_you_mean(name, known)}',
                    expected=f"baselines, all, or some of {listing(known, 40)}",
                )
            chosen |= dict.fromkeys(by_name[name.casefold()])
    return [n for n in chosen if n in PROMPT_BASELINES], [n for n in chosen if n in OTHERS]


def _answers(case: Case) -> tuple[Floats, NDArray[np.intp]]:
    """The probabilities (k, n, C) of the dataset's labels, and which n rows all have answered."""
    asked = case.ask(case.boxes, case.seen)
    answered = [asked[box.name] for box in case.boxes]
    kept = common_rows(answered, case.seen)
    labels = case.seen.labels
    return np.stack([a.probabilities_of(labels)[np.searchsorted(a.rows, kept)] for a in answered]), kept


def _race(case: Case, prior: NDArray[np.float64], budget: int) -> NDArray[np.float64]:
    def evaluate(candidates: Sequence[int], rows: Sequence[int]) -> NDArray[np.bool_]:
        chosen = [case.boxes[i] for i in candidates]
        part = case.train.take(np.asarray(rows))
        answered = case.ask(chosen, part)
        return np.stack([right(box, part, answered[box.name]) for box in chosen])

    return race(prior, len(case.train), budget, evaluate, case.project.config.seed).scores
