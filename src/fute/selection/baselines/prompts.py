"""All label-free baselines for prompts, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fute.core.errors import ConfigError, DataError, did_you_mean, listing
from fute.selection.baselines.consensus import zps_log, zps_prob, zps_vote
from fute.selection.baselines.entropies import (
    description_length,
    global_entropy,
    local_entropy,
    mutual_information,
    mutual_information_g,
)
from fute.selection.baselines.per_input import (
    minimum_description_length,
    mutual_information_gl,
    mutual_information_l,
)
from fute.selection.baselines.ties import Array

PromptScore = Callable[[Array], Array]


def _each(score: Callable[[Array], float]) -> PromptScore:
    """Of all prompts, from the score of one."""
    return lambda probabilities: np.array([score(p) for p in probabilities])


def _calibrated(score: PromptScore) -> PromptScore:
    """The score after calibration by marginalisation (`models.backends.scores.by_marginalisation`), each
    prompt by its own mean.
    """

    def calibrated(probabilities: Array) -> Array:
        odds = probabilities / probabilities.mean(axis=1, keepdims=True).clip(1e-12)
        return score(odds / odds.sum(axis=2, keepdims=True))

    return calibrated


_PLAIN: dict[str, PromptScore] = {
    "MI": _each(mutual_information),
    "GlobalE": _each(global_entropy),
    "LocalE": _each(local_entropy),
    "MDL": minimum_description_length,
    "MDL_M": _each(description_length),
    "ZPS-Log": zps_log,
    "ZPS-Prob": zps_prob,
    "ZPS-Vote": zps_vote,
    "MI_G": _each(mutual_information_g),
    "MI_L": mutual_information_l,
    "MI_GL": mutual_information_gl,
}
# From P (k prompts, n inputs, C labels) to scores (k,), higher is better. "+ CBM": on calibrated P.
PROMPT_BASELINES: Mapping[str, PromptScore] = {
    **_PLAIN,
    **{f"{name} + CBM": _calibrated(score) for name, score in _PLAIN.items()},
}


def score_prompts(
    probabilities: ArrayLike | Sequence[ArrayLike], names: Sequence[str] | None = None
) -> dict[str, Array]:
    """Scores of k prompts by all label-free baselines, or some of them.

    Args:
        probabilities: P (k, n, C): what each of k prompts answers to the same n inputs of the dataset, as
            probabilities of the same C labels in the same order. Hard answers are one-hot rows.
        names: of `PROMPT_BASELINES`; None for all.

    Returns:
        for each name, in the order asked for, scores (k,), higher is better. Scores of two baselines have
        different units: only the order within one can be compared.

    Raises:
        ConfigError: a name that isn't a baseline's.
        DataError: P has another shape, or rows that are no probabilities, as those of failed answers.
    """
    chosen = list(PROMPT_BASELINES) if names is None else list(names)
    for name in chosen:
        if name not in PROMPT_BASELINES:
            raise ConfigError(
                f'there is no baseline "{name}".{did_you_mean(name, PROMPT_BASELINES)}',
                expected=f"some of {listing(PROMPT_BASELINES, 40)}",
            )
    p = _checked(probabilities)
    return {name: PROMPT_BASELINES[name](p) for name in chosen}


def _checked(probabilities: ArrayLike | Sequence[ArrayLike]) -> Array:
    """P as float64, once it is sure that it is P.

    Raises:
        DataError: it isn't.
    """
    shape = "an array (k prompts, n inputs, C labels), with k and n at least 1 and C at least 2"
    try:
        p = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            "these answers aren't one array of probabilities",
            expected=shape,
            found="prompts with different numbers of inputs or labels, or something that is no number",
            fix="give all prompts the same labels and inputs, without inputs that one of them failed on",
        ) from None
    if p.ndim != 3 or not p.size or p.shape[2] < 2:
        raise DataError("answers of prompts have the wrong shape", expected=shape, found=f"shape {p.shape}")
    finite = np.isfinite(p).all(axis=2)
    if not finite.all():
        prompts, inputs = np.nonzero(~finite)
        raise DataError(
            "some answers are missing",
            expected="a probability of each label for each input and prompt",
            found=f"NaN or infinity in {len(prompts)} rows, the first of prompt {prompts[0]} "
            f"(counted from 0), input {inputs[0]}",
            fix="leave out the inputs that a prompt failed on, for all prompts",
        )
    wrong = (p < 0).any(axis=2) | (np.abs(p.sum(axis=2) - 1) > 1e-3)
    if wrong.any():
        prompt, item = (int(i[0]) for i in np.nonzero(wrong))
        raise DataError(
            "some answers are no probabilities",
            expected="rows of numbers from 0 to 1 that sum to 1",
            found=f"prompt {prompt} (counted from 0), input {item}: {p[prompt, item].tolist()}",
        )
    return p
