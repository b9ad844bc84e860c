"""Which prompt or model, among those that answer a dataset's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.api import about_labels, answers_labels, right
from fute.choosing.asked import ASKED
from fute.choosing.case import Case, Scored, Way, answering, at, common_rows, scored, why
from fute.choosing.doubts import doubts
from fute.choosing.evidence import EVIDENCE
from fute.choosing.leaks import leaks
from fute.choosing.names import named
from fute.choosing.remarks import changes
from fute.choosing.trained import TRAINED
from fute.choosing.transfer import by_all, of_pairs, related
from fute.choosing.trying import DIRECT, racing
from fute.core.errors import BudgetError, ConfigError, FuteError, StorageError, listing
from fute.core.progress import Progress, silent
from fute.data.dataset import Dataset
from fute.labelling.runner import Answered, known
from fute.outcomes import remember
from fute.project import Project
from fute.selection.baselines.entropies import mutual_information_g
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from fute.selection.compare import Comparison, compare
from fute.selection.fusion import standardised
from fute.selection.rank import rank
from fute.space.similarity import Similarity

What = Literal["prompt", "model"]
OURS, SIMILAR, HYBRID = "fute", "similarity alone", "fute + MI_G"
RACE, HYBRID_RACE = "race", "fute + MI_G + race"
# Those that need more than the candidates' answers to texts without labels.
OTHERS: Mapping[str, Way] = {**ASKED, **EVIDENCE, **TRAINED, **DIRECT}
_ALL: Mapping[What, Sequence[str]] = {
    "prompt": [*PROMPT_BASELINES, *ASKED],
    "model": [*PROMPT_BASELINES, *EVIDENCE, *TRAINED],
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

    "fute" are the similarities of task embeddings; of prompts for the same labels, both standardised,
    similarity and MI_G of what they answered to U (`decided`), and "similarity alone" stands beside it.
    Neither asks for anything. For `transfer`, fute also goes by what candidates were trained on and by their
    hidden states, where these are there (`choosing.transfer.together`).
    "fute + MI_G" is similarity and MI_G of the answers to the dataset's own texts. Baselines see these texts
    too, without labels: those of the rows that `test` holds out, or all where it holds none out. That takes a
    call for each candidate and text, which is kept. A candidate that fails on these texts is left out, with a
    warning; one that answers fewer than half of those that it was asked for has no score by its answers.

    Args:
        project: after `run`.
        dataset: one of its datasets with classes; without labels there is neither truth nor race.
        what: which candidates.
        against: other ways, by name: of `PROMPT_BASELINES` ("baselines", or None, for all of them),
            "fute + MI_G" ("hybrid"), or of `OTHERS` ("direct" for all of `DIRECT`; "all" for the baselines
            and those of the others, but for `DIRECT`, that fit `what`). Those of `EVIDENCE` and `DIRECT` see
            the labels of the rows that are not held out. Without any, and without `truth` and `budget`,
            nothing is asked.
        truth: also the accuracy on the rows held out, and how good each way's order is by it. It is kept for
            what to expect on other datasets (`fute.outcomes`).
        budget: also race on this many labelled evaluations, on the rows that are not held out. Where the
            hybrid is scored too, "fute + MI_G + race" is what the race's evaluations say with it as prior.
        transfer: whether models that answer other labels are candidates, too: what to fine-tune on the
            dataset. Where its texts are pairs, similarities are then of linear probes with `pairs: relation`,
            unless fute.yaml has other embeddings; they are made from the answers that are kept. Candidates
            that show hidden states read the dataset's rows, 1,000 at most. Only `EVIDENCE` and `TRAINED` can
            be set beside "fute".
        similarity: as for `fute.selection.rank.rank`; unless given "map", and "inputs" for `transfer`.
        progress, offline: as for `labelling.runner.label`.

    Raises:
        ConfigError: no such dataset or candidates, no rows held out for the truth, no classes, an unknown
            baseline, or one that needs the same labels of all.
        ModelError: all candidates fail; the failure of the first.
    """
    groups = {
        "baselines": list(PROMPT_BASELINES),
        "hybrid": [HYBRID],
        "direct": list(DIRECT),
        "all": [*EVIDENCE, *TRAINED] if transfer else _ALL[what],
    }
    all_ways = [*PROMPT_BASELINES, HYBRID, *OTHERS]
    ways = named(["baselines"] if against is None else against, all_ways, groups)
    of_answers = [name for name in ways if name in PROMPT_BASELINES or name == HYBRID]
    by_labels = [*of_answers, *(name for name in ways if name in DIRECT)]
    if transfer and (by_labels or truth or budget is not None):
        raise ConfigError(
            "models that answer other labels have no accuracy here, and no such baselines",
            expected=f"`--transfer` alone, or against some of {listing([*EVIDENCE, *TRAINED])}",
            found=listing([*by_labels, *(["accuracy"] if truth else []), *(["budget"] if budget else [])]),
        )
    target = project.target(dataset)
    train, held_out = _rows(project, dataset, truth, budget)
    stored = {e.name: e for e in project.space.embeddings("model")}
    able = [m for m in project.models if m.name in stored and (what == "model" or "template" in m.provenance)]
    boxes = [m for m in able if transfer or answers_labels(m, train)]
    warnings = [] if transfer else about_labels(able, train)
    if not boxes:
        raise ConfigError(
            f"no {what} of the space answers the labels of {dataset}",
            expected=f"the labels {listing(train.labels)}",
            found=" ".join(warnings) or None,
            fix="`fute run` embeds the models; `fute rank` ranks those with other labels, too",
        )
    case = Case(project, boxes, train, held_out if len(held_out) else train, progress, offline)
    answered: Mapping[str, Answered] = {}
    if truth or of_answers:
        labelled = case.ask(boxes, case.seen)
        answered, boxes = labelled.answered, [box for box in boxes if box.name in labelled.answered]
        if not boxes:
            raise next(iter(labelled.failures.values()))
        case = replace(case, boxes=boxes)
        warnings += [f"{name} is left out, it fails: {why(f)}" for name, f in labelled.failures.items()]
    names = [box.name for box in boxes]
    of_u = known(boxes, project.corpus.inputs, project.embedder.predictions)
    warnings += changes(project, [dataset, *names])
    warnings += [*leaks(project, dataset, names), *doubts(project, names, of_u)]
    if transfer and of_pairs(project, train):
        try:
            target, stored = related(project, dataset, names, progress)
        except StorageError:
            raise
        except FuteError as error:
            warnings.append(f"Pairs are compared as fute.yaml says, not by relations: {why(error)}")
    similarity = similarity or ("inputs" if transfer else "map")
    ranking = rank(target, [stored[name] for name in names], similarity)
    by_name = {line.name: line.score for line in ranking.candidates}
    similar = np.array([by_name[name] for name in names])
    made = {OURS: Scored(similar)}
    if transfer:
        made = {OURS: by_all(case, dataset, similar, similarity), SIMILAR: Scored(similar)}
    elif what == "prompt":
        made = {OURS: _by_u([of_u.get(name) for name in names], similar), SIMILAR: Scored(similar)}
    rows_seen, performances, rows = 0, None, 0
    if answered:
        found, rows_seen = by_answers(case, answered, similar, of_answers)
        made |= found
        rows = rows_seen
    if truth:
        performances, rows = _truth(case, answered)
        if rows == len(held_out):
            remember(project, dataset, dict(zip(names, performances.tolist(), strict=True)))
    for name in [name for name in ways if name in OTHERS]:
        made[name] = scored(name, partial(OTHERS[name], case), len(boxes))
    if budget is not None:
        made |= _races(case, made[OURS].scores, budget, made.get(HYBRID))
    return compare(
        dataset,
        names,
        {name: one.scores for name, one in made.items()},
        performances,
        rows,
        [*warnings, *(note for one in made.values() for note in one.notes)],
        evaluated={name: one.evaluated for name, one in made.items() if one.evaluated is not None},
        ranking=ranking,
        ranked_by=SIMILAR if SIMILAR in made else OURS,
        rows_seen=rows_seen,
    )


def decided(similar: NDArray[np.float64], answers: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """`z(s) + z(MI_G)`, z standardised over the k candidates: how alike a candidate's task is, and how surely
    and evenly it answers. One weight for both, fitted to nothing.

    Args:
        similar: s (k,).
        answers: the k candidates' probabilities (n, C) for the same labels.
    """
    return standardised(similar) + standardised([mutual_information_g(p) for p in answers])


def _by_u(of_u: Sequence[Answered | None], similar: NDArray[np.float64]) -> Scored:
    """`decided` by what was answered to U; by similarity where that isn't kept any more, with a note."""
    kept = [one.named for one in of_u if one is not None and 2 * len(one.rows) >= len(one.inputs)]
    if len(kept) < len(of_u):
        lost = f"answers to U are kept of {len(kept)} of {len(of_u)} candidates"
        return Scored(similar, (f"fute goes by similarity alone: {lost}.",))
    return Scored(decided(similar, kept))


def by_answers(
    case: Case, answered: Mapping[str, Answered], similar: NDArray[np.float64], names: Sequence[str]
) -> tuple[dict[str, Scored], int]:
    """The hybrid's scores and those of the baselines of these names, from the rows that all have answered who
    answer at least half; and how many rows these are.
    """
    several = [answered[box.name] for box in case.boxes]
    places = answering(several)
    free = [name for name in names if name != HYBRID]
    few = listing(box.name for i, box in enumerate(case.boxes) if i not in places)
    notes = [f"Fewer than half of the rows are answered by {few}: no score by answers."] if few else []
    if not places:
        nothing = np.full(len(several), np.nan)
        return {HYBRID: Scored(nothing, tuple(notes)), **{name: Scored(nothing) for name in free}}, 0
    kept = common_rows([several[i] for i in places], case.seen)
    labels = case.seen.labels
    answers = [
        several[i].probabilities_of(labels)[np.searchsorted(several[i].rows, kept)].astype(np.float64)
        for i in places
    ]
    if 2 * len(kept) < len(case.seen):
        notes.append(
            f"Scores by answers compare {len(kept)} of {len(case.seen)} rows: those that all have answered."
        )
    found = {HYBRID: decided(similar[places], answers), **score_prompts(answers, free)}
    made = {name: Scored(at(places, scores, case)) for name, scores in found.items()}
    made[HYBRID] = replace(made[HYBRID], notes=tuple(notes))
    return made, len(kept)


def _races(case: Case, prior: NDArray[np.float64], budget: int, hybrid: Scored | None) -> dict[str, Scored]:
    other = None if hybrid is None or np.isnan(hybrid.scores).all() else hybrid.scores
    names = [RACE] if other is None else [RACE, HYBRID_RACE]
    try:
        return dict(zip(names, racing(case, prior, budget, other), strict=True))
    except BudgetError as error:
        return {RACE: Scored(np.full(len(prior), np.nan), (f"race can't choose: {why(error)}",))}


def _rows(project: Project, dataset: str, truth: bool, budget: int | None) -> tuple[Dataset, Dataset]:
    """The rows of the dataset's embedding, and those held out. Raises ConfigError where they don't serve."""
    train, held_out = project.datasets[dataset]
    if train.output != "class":
        raise ConfigError(f"dataset {dataset} has no classes", found=f"output {train.output}")
    if truth and not len(held_out) and train.targets is not None:
        raise ConfigError(f"dataset {dataset} holds no rows out", fix="set `test: 0.5` in fute.yaml")
    if (train.targets is None and budget is not None) or (truth and held_out.targets is None):
        raise ConfigError(f"dataset {dataset} has no labels", fix="leave `--accuracy` and `--budget` out")
    return train, held_out


def _truth(case: Case, answered: Mapping[str, Answered]) -> tuple[NDArray[np.float64], int]:
    """The accuracy (k,) of each candidate on the n rows that all were asked for; and n. As for `fute rank`, a
    row without an answer is wrong.
    """
    asked = set.intersection(*(set(answered[box.name].asked.tolist()) for box in case.boxes))
    those = np.array(sorted(asked), dtype=np.intp)
    found = [right(box, case.seen, answered[box.name])[those].mean() for box in case.boxes]
    return np.array(found), len(those)
