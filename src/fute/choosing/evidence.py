"""Ways that see the labels of the dataset's own rows: how well a model's answers, or its hidden states, tell
them apart. They need no labels in common, so they also say what to fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.choosing.case import Case, Scored, Way, answering, common_rows, some
from fute.core.errors import ConfigError
from fute.core.types import Floats, Output
from fute.data.corpus import fit
from fute.data.dataset import Dataset
from fute.models.hf import HFModel
from fute.selection.baselines.features import h_score, knn_accuracy, leep, linear_probe_accuracy, log_me
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
from fute.surrogates.token_states import token_states


def _by_answers(case: Case) -> Scored:
    boxes = {i: box for i, box in enumerate(case.boxes) if box.output == "class"}
    labelled = case.ask(list(boxes.values()), case.train)
    if not labelled.answered:
        raise next(iter(labelled.failures.values()), ConfigError("no candidate answers classes"))
    places = [i for i, box in boxes.items() if box.name in labelled.answered]
    places = [places[i] for i in answering([labelled.answered[boxes[i].name] for i in places])]
    answered = [labelled.answered[boxes[i].name] for i in places]
    kept = common_rows(answered, case.train)
    labels = case.train.classes[kept]
    scores = [leep(one.predictions[np.searchsorted(one.rows, kept)], labels) for one in answered]
    needs = "a class as the answer to half of the rows"
    return some("LEEP", case, places, np.array(scores), needs, labelled.failures)


def _by_states(name: str, score: Callable[[Floats, ArrayLike], float], case: Case) -> Scored:
    boxes = {i: box for i, box in enumerate(case.boxes) if isinstance(box, HFModel)}
    if not boxes:
        raise ConfigError("it needs hidden states", found="no candidate shows any: `transformers:` ones do")
    if name not in of_states(case.train.output):
        raise ConfigError("it needs classes to tell apart", found=f"`output: {case.train.output}`")
    scores = [score(*_told_apart(case, box)) for box in boxes.values()]
    return some(name, case, list(boxes), np.array(scores), "hidden states, of `transformers:` candidates")


def _told_apart(case: Case, box: HFModel) -> tuple[Floats, NDArray[Any]]:
    """A model's states of the rows (n, d), the mean over its layers and a text's tokens, and the truth. They
    are made once, then kept beside the surrogate's features. Where answers are spans, its states of tokens,
    which aren't kept, and where answers begin and end.
    """
    body = Surrogate(box.weights.id, dtype=box.dtype, max_tokens=box.max_tokens)
    if case.train.output == "span":
        return token_states(body, case.train.examples, layer=None)
    features = Features(body, case.project.state / "features.sqlite", layer=None)
    shaped = [fit(item, box.shape) for item in case.train.inputs]
    return features(shaped, case.progress), truth_of(case.train)


def truth_of(dataset: Dataset) -> NDArray[Any]:
    """A dataset's classes (n,), or its scores (n, 1)."""
    return dataset.examples.probabilities if dataset.output == "score" else dataset.classes


OF_STATES: Mapping[str, Callable[[Floats, ArrayLike], float]] = {
    "LogME": log_me,
    "H-score": partial(h_score, shrinkage=True),
    "kNN": knn_accuracy,
    "probe": linear_probe_accuracy,
}
_OF_NUMBERS = ("LogME",)  # those that see more in a target than which class it is


def of_states(output: Output) -> Sequence[str]:
    """Those of `OF_STATES` that can say something of targets of this kind."""
    return {"class": tuple(OF_STATES), "text": ()}.get(output, _OF_NUMBERS)


EVIDENCE: Mapping[str, Way] = {
    "LEEP": _by_answers,
    **{name: partial(_by_states, name, score) for name, score in OF_STATES.items()},
}
