"""Ways that see the labels of the dataset's own rows: how well a model's answers, or its hidden states, tell
them apart. They need no labels in common, so they also say what to fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from fute.choosing.case import Case, Scored, Way, answering, common_rows, some
from fute.core.errors import ConfigError
from fute.core.types import Floats
from fute.data.corpus import fit
from fute.models.hf import HFModel
from fute.selection.baselines.features import h_score, knn_accuracy, leep, linear_probe_accuracy, log_me
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features


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
    scores = [score(_states(case, box), case.train.classes) for box in boxes.values()]
    return some(name, case, list(boxes), np.array(scores), "hidden states, of `transformers:` candidates")


def _states(case: Case, box: HFModel) -> Floats:
    """The mean over its layers and a text's tokens of a model's states, float32 (n, d). Made once, then kept
    beside the surrogate's features.
    """
    body = Surrogate(box.weights.id, dtype=box.dtype, max_tokens=box.max_tokens)
    features = Features(body, case.project.state / "features.sqlite", layer=None)
    return features([fit(item, box.shape) for item in case.train.inputs], case.progress)


OF_STATES: Mapping[str, Callable[[Floats, ArrayLike], float]] = {
    "LogME": log_me,
    "H-score": partial(h_score, shrinkage=True),
    "kNN": knn_accuracy,
    "probe": linear_probe_accuracy,
}
EVIDENCE: Mapping[str, Way] = {
    "LEEP": _by_answers,
    **{name: partial(_by_states, name, score) for name, score in OF_STATES.items()},
}
