"""What to fine-tune on a dataset: all that is known of how well models transfer to it, as one score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.choosing.case import Case, Scored, scored
from fute.choosing.evidence import EVIDENCE
from fute.choosing.states import LOG_ME_OF_LAYERS
from fute.core.errors import listing
from fute.core.progress import Progress
from fute.core.types import TaskEmbedding
from fute.data.dataset import Dataset
from fute.project import Project
from fute.selection.fusion import standardised
from fute.space.similarity import Similarity, cosines


def together(similar: ArrayLike, trained: ArrayLike, states: ArrayLike) -> NDArray[np.float64]:
    """`z(s) + z(s') + 3 z(LogME)`, z standardised over the k candidates of which it is known, and 0 for the
    others: how alike the tasks are, in two ways, and how well a candidate's states tell the dataset's labels
    apart, which says more than both.

    Args:
        similar: s (k,), of the candidates' task embeddings to the dataset's.
        trained: s' (k,), of the embeddings of the datasets that they were trained on; NaN: not known.
        states: LogME of all layers (k,), higher is better; NaN: there are no states.
    """
    s, s2, log_me = map(_standardised, (similar, trained, states))
    return s + s2 + 3 * log_me


def _standardised(scores: ArrayLike) -> NDArray[np.float64]:
    s = np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(s)
    made = np.zeros_like(s)
    made[known] = standardised(s[known]) if known.any() else 0
    return made


def by_all(case: Case, dataset: str, similar: NDArray[np.float64], similarity: Similarity) -> Scored:
    """`together` of the case's candidates, with a note on what it goes without; similarity, where no more is
    known.
    """
    trained = _trained(case, dataset, similarity)
    by_states = partial(EVIDENCE[LOG_ME_OF_LAYERS], case)
    states = scored(LOG_ME_OF_LAYERS, by_states, len(case.boxes)).scores
    if np.isnan([trained, states]).all():
        return Scored(similar, ("fute goes by similarity alone: no more is known of the candidates.",))
    lacking = {"by `trained_on:`": trained, "by hidden states": states}
    notes = []
    for what, scores in lacking.items():
        names = [box.name for box, score in zip(case.boxes, scores, strict=True) if np.isnan(score)]
        if names:
            notes.append(f"fute can't go {what} for {listing(names)}: there they count as the mean.")
    return Scored(together(similar, trained, states), tuple(notes))


def _trained(case: Case, dataset: str, similarity: Similarity) -> NDArray[np.float64]:
    """How alike the dataset is to those of the project that each candidate was trained on (k,): the mean of
    the similarities of their embeddings; NaN where `trained_on:` names none.
    """
    project = case.project
    paths = {d.name: (project.folder / d.path).resolve() for d in project.config.datasets if d.path}
    learnt = {
        section.name: {(project.folder / file.path).resolve() for file in section.trained_on}
        for section in project.sections
    }
    of_each = [learnt.get(box.name, set()) for box in case.boxes]
    told = set().union(*of_each)
    names = [n for n, path in paths.items() if path in told and n != dataset and n in project.space]
    others = [project.space.get(name) for name in names]
    alike = cosines(project.target(dataset), others, similarity) if others else ()
    of = dict(zip(names, alike, strict=True))
    known = [[score for name, score in of.items() if paths[name] in files] for files in of_each]
    return np.array([np.mean(some) if some else np.nan for some in known])


def related(
    project: Project, dataset: str, names: Sequence[str], progress: Progress
) -> tuple[TaskEmbedding, dict[str, TaskEmbedding]]:
    """The dataset's embedding and the models', by how the texts of pairs are related. Raises FuteError where
    answers aren't kept.
    """
    embedder = project.embedder_of("linear-probe", options={"pairs": "relation"})
    target, *models = project.embedded(embedder, [dataset, *names], progress)
    return target, dict(zip(names, models, strict=True))


def of_pairs(project: Project, train: Dataset) -> bool:
    """Whether how the texts of a pair are related is to be looked at: where they come in pairs, and fute.yaml
    doesn't say how these are read.
    """
    method = project.config.method
    usual = method.name == "linear-probe" and "pairs" not in method.options
    return usual and any(item.text_pair is not None for item in train.inputs)
