"""Which prompt or model, among those that answer a dataset's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.api import about_labels, answers_labels, right
from fute.choosing.asked import ASKED
from fute.choosing.case import Case, Way, common_rows, scored
from fute.choosing.evidence import EVIDENCE
from fute.choosing.leaks import leaks
from fute.choosing.names import named
from fute.core.errors import ConfigError, listing
from fute.core.progress import Progress, silent
from fute.core.types import Floats
from fute.data.dataset import Dataset
from fute.labelling.runner import Answered
from fute.outcomes import remember
from fute.project import Project
from fute.selection.baselines.entropies import mutual_information_g
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from fute.selection.compare import Comparison, compare, doubts
from fute.selection.fusion import standardised
from fute.selection.racing import race
from fute.space.similarity import Similarity, cosine_matrix, cosines

What = Literal["prompt", "model"]
OURS, HYBRID, RACE = "fute", "fute + MI_G", "race"
# Those that need more than the candidates' answers to texts without labels.
OTHERS: Mapping[str, Way] = {**ASKED, **EVIDENCE}
_ALL: Mapping[What, Sequence[str]] = {
    "prompt": [*PROMPT_BASELINES, *ASKED],
    "model": [*PROMPT_BASELINES, *EVIDENCE],
}


def choose(
    project: Project,
    dataset: str,
    what: What = "prompt",
    *,
    against: Sequence[str] | None = (),
    truth: bool = False,
    budget: int | None = None,
    transfer: bool = False,
    similarity: Similarity | None = None,
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
        against: other ways, by name: of `PROMPT_BASELINES` ("baselines", or None, for all of them), or of
            `OTHERS` ("all" for those that fit `what`, too). Those of `EVIDENCE` see the labels of the rows
            that are not held out. Without any, and without `truth` and `budget`, nothing is asked.
        truth: also the accuracy on the rows held out, and how good each way's order is by it. It is kept for
            what to expect on other datasets (`fute.outcomes`).
        budget: also race on this many labelled evaluations, on the rows that are not held out.
        transfer: whether models that answer other labels are candidates, too: what to fine-tune on the
            dataset. Then only `EVIDENCE` can be set beside "fute".
        similarity: as for `fute.selection.rank.rank`; unless given "map", and "inputs" for `transfer`.
        progress, offline: as for `labelling.runner.label`.

    Raises:
        ConfigError: no such dataset or candidates, no rows held out for the truth, no classes, an unknown
            baseline, or one that needs the same labels of all.
        ModelError: the failure of the first candidate that fails.
    """
    groups = {"baselines": list(PROMPT_BASELINES), "all": list(EVIDENCE) if transfer else _ALL[what]}
    ways = named(["baselines"] if against is None else against, [*PROMPT_BASELINES, *OTHERS], groups)
    free = [name for name in ways if name in PROMPT_BASELINES]
    if transfer and (free or truth or budget is not None):
        raise ConfigError(
            "models that answer other labels have no accuracy here, and no such baselines",
            expected=f"`--transfer` alone, or against some of {listing(EVIDENCE)}",
            found=listing([*free, *(["accuracy"] if truth else []), *(["budget"] if budget else [])]),
        )
    target = project.target(dataset)
    train, held_out = _rows(project, dataset, truth, budget)
    stored = {e.name: e for e in project.space.embeddings("model")}
    able = [m for m in project.models if m.name in stored and (what == "model" or "template" in m.provenance)]
    boxes = [m for m in able if transfer or answers_labels(m, train)]
    others = [] if transfer else about_labels(able, train)
    if not boxes:
        raise ConfigError(
            f"no {what} of the space answers the labels of {dataset}",
            expected=f"the labels {listing(train.labels)}",
            found=" ".join(others) or None,
            fix="`fute run` embeds the models; `fute rank` ranks those with other labels, too",
        )
    embeddings = [stored[box.name] for box in boxes]
    names = [box.name for box in boxes]
    case = Case(project, boxes, train, held_out if len(held_out) else train, progress, offline)
    similar = cosines(target, embeddings, similarity or ("inputs" if transfer else "map"))
    scores: dict[str, NDArray[Any]] = {OURS: similar}
    rows, warnings, performances = 0, [*others, *leaks(project, dataset, names)], None
    if truth or free:
        answered = case.ask(boxes, case.seen)
        answers, rows = _probabilities(case, answered)
        warnings += doubts(names, answers, cosine_matrix(embeddings))
        scores[HYBRID] = standardised(similar) + standardised([mutual_information_g(p) for p in answers])
        scores |= score_prompts(answers, free)
        if truth:
            performances, rows = _truth(case, answered)
            if rows == len(held_out):
                remember(project, dataset, dict(zip(names, performances.tolist(), strict=True)))
    for name in [name for name in ways if name in OTHERS]:
        made = scored(name, partial(OTHERS[name], case), len(boxes))
        scores[name] = made.scores
        warnings += made.notes
    if budget is not None:
        scores[RACE] = _race(case, similar, budget)
    return compare(dataset, names, scores, performances, rows, warnings)


def _rows(project: Project, dataset: str, truth: bool, budget: int | None) -> tuple[Dataset, Dataset]:
    """The rows of the dataset's embedding, and those held out. Raises ConfigError where they don't serve."""
    train, held_out = project.datasets[dataset]
    if train.output != "class":
        raise ConfigError(f"dataset {dataset} has no classes", found=f"output {train.output}")
    if train.targets is None and (truth or budget is not None):
        raise ConfigError(f"dataset {dataset} has no labels", fix="leave `--accuracy` and `--budget` out")
    if truth and not len(held_out):
        raise ConfigError(f"dataset {dataset} holds no rows out", fix="set `test: 0.5` in fute.yaml")
    return train, held_out


def _probabilities(case: Case, answered: Mapping[str, Answered]) -> tuple[Floats, int]:
    """The probabilities (k, n, C) of the dataset's labels, for the n rows that all have answered; and n."""
    several = [answered[box.name] for box in case.boxes]
    kept = common_rows(several, case.seen)
    labels = case.seen.labels
    return np.stack([a.probabilities_of(labels)[np.searchsorted(a.rows, kept)] for a in several]), len(kept)


def _truth(case: Case, answered: Mapping[str, Answered]) -> tuple[NDArray[np.float64], int]:
    """The accuracy (k,) of each candidate on the n rows that all were asked for; and n. As for `fute rank`, a
    row without an answer is wrong.
    """
    asked = set.intersection(*(set(answered[box.name].asked.tolist()) for box in case.boxes))
    those = np.array(sorted(asked), dtype=np.intp)
    found = [right(box, case.seen, answered[box.name])[those].mean() for box in case.boxes]
    return np.array(found), len(those)


def _race(case: Case, prior: NDArray[np.float64], budget: int) -> NDArray[np.float64]:
    def evaluate(candidates: Sequence[int], rows: Sequence[int]) -> NDArray[np.bool_]:
        chosen = [case.boxes[i] for i in candidates]
        part = case.train.take(np.asarray(rows))
        answered = case.ask(chosen, part)
        return np.stack([right(box, part, answered[box.name]) for box in chosen])

    return race(prior, len(case.train), budget, evaluate, case.project.config.seed).scores
