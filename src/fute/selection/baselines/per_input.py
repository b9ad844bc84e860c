"""Scores of prompts that are chosen for each input anew: MDL, and MI's local variants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import entr

from fute.selection.baselines.entropies import global_entropy, marginal_entropy
from fute.selection.baselines.ties import Array, winners


def minimum_description_length(probabilities: Array) -> Array:
    """MDL: the share of inputs for which a prompt is the one with the lowest `H(p(· | x))`: the surest.

    Where it comes from, the prompt is chosen for each input anew; how often it is chosen stands for it, as in
    `mutual_information_l`. Its mean over the inputs is `description_length`.

    Args:
        probabilities: (k, n, C).

    Returns:
        (k,), 0 to 1, sums to 1; higher is better.

    Source: Wu et al. 2023, doi:10.18653/v1/2023.acl-long.79; Yang et al. 2024, doi:10.1162/tacl_a_00666, and
    the authors' code.
    """
    return _chosen(probabilities, lambda p: 0.0)


def mutual_information_l(probabilities: Array) -> Array:
    """MI_L: the share of inputs for which a prompt is the one with the highest `H(mean_x p) − H(p(· | x))`.

    MI whose local term is that of one input: so the prompt is chosen for each input anew, and a prompt has
    no score of its own in the paper. (Its mean over the inputs is MI again.) What stands for it here is how
    often it is chosen; inputs on which several are equal are shared between them.

    Args:
        probabilities: (k, n, C).

    Returns:
        (k,), 0 to 1, sums to 1; higher is better.

    Source: Yang et al. 2024, doi:10.1162/tacl_a_00666 (there MI_AL), and the authors' code,
    github.com/soheeyang/unified-prompt-selection.
    """
    return _chosen(probabilities, marginal_entropy)


def mutual_information_gl(probabilities: Array) -> Array:
    """MI_GL: as `mutual_information_l`, with GlobalE as the global term: `GlobalE − H(p(· | x))`.

    Args:
        probabilities: (k, n, C).

    Returns:
        (k,), 0 to 1, sums to 1; higher is better.

    Source: Yang et al. 2024, doi:10.1162/tacl_a_00666 (there MI_AGL), and the authors' code.
    """
    return _chosen(probabilities, global_entropy)


def _chosen(probabilities: Array, global_term: Callable[[Array], float]) -> Array:
    spread = np.array([global_term(p) for p in probabilities])
    values = spread[:, None] - entr(probabilities).sum(axis=-1)
    return np.asarray(winners(values, axis=0).mean(axis=1))
