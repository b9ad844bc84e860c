"""How the loss falls while a surrogate adapts to a dataset: what CurveGrad compares sources by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fute.core.progress import Progress, silent
from fute.core.types import Examples
from fute.surrogates.adapters import Adapter, Whole
from fute.surrogates.base import Surrogate
from fute.surrogates.frozen import Frozen
from fute.surrogates.training import Schedule, Training


@dataclass(frozen=True)
class FineTuning:
    """How long and how fast a whole surrogate is tuned, with AdamW.

    Attributes:
        steps: the same for all datasets that are compared, whatever their size.
        batch_size: examples per step.
        learning_rate: constant.
        max_tokens: longer inputs are cut.
        epochs, stop_early, head: as for the methods that train; curves of one length have neither of the
            first two.
    """

    steps: int = 100
    batch_size: int = 32
    learning_rate: float = 3e-5
    max_tokens: int = 128
    epochs: int = 0
    stop_early: bool = False
    head: str = "labels"


def _whole(training: Training) -> Adapter:
    return Whole(training.parameters)


def loss_curve(
    examples: Examples,
    surrogate: Surrogate,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: Progress = silent,
    *,
    adapter: Callable[[Training], Adapter] = _whole,
) -> NDArray[np.float64]:
    """The mean loss of each step's batch, from step 1 to the last, while a fresh copy of the surrogate is
    tuned on the examples: float64 (steps,). See `Training` for the loss; nothing stops the run early.

    Args:
        examples: with targets of any kind that the surrogate can learn.
        surrogate: Θ_T; it stays as it is.
        schedule: `FineTuning()` unless given.
        seed: of the order of examples.
        progress: told of every step.
        adapter: makes of the training what is tuned beside the head: all of it, unless given.

    Raises:
        ConfigError: targets that can't be trained on.
        ModelError: the loss is no number, or in the end far from what it was; says at which step.

    Source: Vu et al. 2020, doi:10.18653/v1/2020.emnlp-main.635 (BERT, 10,000 steps).
    """
    schedule = schedule or FineTuning()
    frozen = Frozen.load(surrogate, schedule.max_tokens, examples.output)
    training = Training(frozen, examples, schedule, seed)
    once = np.ones(len(examples.inputs), dtype=np.int64)
    return np.array(training.fit(adapter(training), once, progress).losses)
