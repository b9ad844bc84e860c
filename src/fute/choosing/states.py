"""How well a model's hidden states tell a dataset's labels apart: higher is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import ArrayLike, NDArray

from fute.core.progress import Progress
from fute.core.types import Floats, Output
from fute.data.dataset import Dataset
from fute.selection.baselines.features import (
    h_score,
    knn_accuracy,
    linear_probe_accuracy,
    log_me,
    log_me_of_kernel,
)
from fute.surrogates.features import Features
from fute.surrogates.kernel import layer_kernel
from fute.surrogates.token_states import token_states

# Of the mean over a model's layers, and the rows.
OfStates = Callable[[Features, Dataset, Progress], float]


def _of_layers(features: Features, rows: Dataset, progress: Progress) -> float:
    """LogME of all layers side by side; where answers are spans that of the contexts' tokens, of which the
    mean over the layers is taken, and where answers begin and end.
    """
    if rows.output == "span":
        return log_me(*token_states(features.surrogate, rows.examples, layer=None))
    kernel = layer_kernel(features.surrogate, rows.inputs, features.path, progress)
    return log_me_of_kernel(kernel, _truth(rows))


def _of_mean(
    score: Callable[[Floats, ArrayLike], float], features: Features, rows: Dataset, progress: Progress
) -> float:
    return score(features(rows.inputs, progress), _truth(rows))


def _truth(rows: Dataset) -> NDArray[Any]:
    """A dataset's classes (n,), or its scores (n, 1)."""
    return rows.examples.probabilities if rows.output == "score" else rows.classes


LOG_ME_OF_LAYERS = "LogME of layers"
OF_STATES: Mapping[str, OfStates] = {
    LOG_ME_OF_LAYERS: _of_layers,
    "LogME": partial(_of_mean, log_me),
    "H-score": partial(_of_mean, partial(h_score, shrinkage=True)),
    "kNN": partial(_of_mean, knn_accuracy),
    "probe": partial(_of_mean, linear_probe_accuracy),
}
# Those that see more in a target than which class it is.
_OF_OTHERS: Mapping[Output, Sequence[str]] = {
    "score": (LOG_ME_OF_LAYERS, "LogME"),
    "span": (LOG_ME_OF_LAYERS,),
}


def of_states(output: Output) -> Sequence[str]:
    """Those of `OF_STATES` that can say something of targets of this kind."""
    return tuple(OF_STATES) if output == "class" else _OF_OTHERS.get(output, ())
