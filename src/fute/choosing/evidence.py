"""Ways that see the labels of the dataset's own rows: how well a model's answers, or its hidden states, tell
them apart. They need no labels in common, so they also say what to fine-tune.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fute.choosing.case import Case, Scored, Way, answering, common_rows, some
from fute.choosing.states import LOG_ME_OF_LAYERS, OF_STATES, of_states
from fute.core.errors import ConfigError
from fute.data.corpus import fit
from fute.data.dataset import Dataset
from fute.models.hf import HFModel
from fute.selection.baselines.features import leep
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features

# Rows that LogME of layers is made of, at most: of more it is dear, a kernel of theirs for each candidate.
_READ = 1000


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


def _by_states(name: str, case: Case) -> Scored:
    boxes = {i: box for i, box in enumerate(case.boxes) if isinstance(box, HFModel)}
    if not boxes:
        raise ConfigError("it needs hidden states", found="no candidate shows any: `transformers:` ones do")
    if name not in of_states(case.train.output):
        raise ConfigError("it needs classes to tell apart", found=f"`output: {case.train.output}`")
    if name == LOG_ME_OF_LAYERS:
        case = replace(case, train=case.train.few(_READ, case.project.config.seed))
    scores = [OF_STATES[name](*_states(case, box), case.progress) for box in boxes.values()]
    return some(name, case, list(boxes), np.array(scores), "hidden states, of `transformers:` candidates")


def _states(case: Case, box: HFModel) -> tuple[Features, Dataset]:
    """A model's states, kept beside the surrogate's features, and the rows as it reads them."""
    body = Surrogate(box.weights.id, dtype=box.dtype, max_tokens=box.max_tokens, segments=True)
    features = Features(body, case.project.state / "features.sqlite", layer=None)
    if case.train.output == "span":
        return features, case.train
    return features, replace(case.train, inputs=[fit(item, box.shape) for item in case.train.inputs])


EVIDENCE: Mapping[str, Way] = {
    "LEEP": _by_answers,
    **{name: partial(_by_states, name) for name in OF_STATES},
}
