"""Ways that see what a model was trained on, where `trained_on:` in fute.yaml tells: how much, and how like
the dataset. They need no labels in common, so they also say what to fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fute.choosing.case import Case, Scored, Way, some
from fute.choosing.leaks import texts_of
from fute.core.errors import ConfigError
from fute.core.types import Floats, Input
from fute.data.splits import sample_indices
from fute.models.section import TrainedOn
from fute.selection.baselines.sources import data_size
from fute.surrogates.base import DEFAULT_SURROGATE

# A mean over more texts than this hardly changes.
_MOST = 2000


def _by_training(name: str, score: Callable[[Case, Sequence[Input]], float], case: Case) -> Scored:
    """The score of each candidate's training texts."""
    files = {section.name: tuple(section.trained_on) for section in case.project.sections}
    places = [i for i, box in enumerate(case.boxes) if files.get(box.name)]
    if not places:
        raise ConfigError(
            "it needs what models were trained on", found="no candidate of fute.yaml has `trained_on:`"
        )
    known: dict[tuple[TrainedOn, ...], float] = {}
    for i in places:
        those = files[case.boxes[i].name]
        if those not in known:
            known[those] = score(case, texts_of(case.project, those))
    scores = np.array([known[files[case.boxes[i].name]] for i in places])
    return some(name, case, places, scores, "`trained_on:` of a model")


def _by_size(case: Case, texts: Sequence[Input]) -> float:
    return data_size(texts)


def _by_likeness(surrogate: str | None, case: Case, texts: Sequence[Input]) -> float:
    """The cosine of the mean features of the training texts and of the dataset's, of 2,000 each at most."""
    features = case.project.embedder_of("text-emb", surrogate).features

    def mean(inputs: Sequence[Input]) -> NDArray[np.float64]:
        rows = sample_indices(len(inputs), _MOST, case.project.config.seed)
        phi: Floats = features([inputs[row] for row in rows], case.progress)
        return np.asarray(phi.mean(axis=0, dtype=np.float64))

    a, b = mean(texts), mean(case.train.inputs)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _by_sentences(case: Case) -> Scored:
    made = _by_training("SEmb", partial(_by_likeness, DEFAULT_SURROGATE), case)
    notes = [SAME] if case.project.embedder.surrogate.id == DEFAULT_SURROGATE else []
    return Scored(made.scores, (*made.notes, *notes))


SAME = "SEmb is the same as TextEmb here: the project's surrogate is the one that SEmb reads."
TRAINED: Mapping[str, Way] = {
    "DataSize": partial(_by_training, "DataSize", _by_size),
    "TextEmb": partial(_by_training, "TextEmb", partial(_by_likeness, None)),
    "SEmb": _by_sentences,
}
