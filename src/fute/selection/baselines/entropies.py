"""Label-free scores from one prompt's class probabilities P (n, C) on the dataset's own texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr


def marginal_entropy(probabilities: ArrayLike) -> float:
    """`H(mean_i p_i)`, in nats, 0 to log C: how evenly the labels are used, probabilities counted.

    It is the global term of `mutual_information`, which Yang et al. 2024 call GE_M.
    """
    return float(entr(np.asarray(probabilities, dtype=float).mean(axis=0)).sum())


def global_entropy(probabilities: ArrayLike) -> float:
    """GlobalE: `H(share of rows that get each label)`, in nats, 0 to log C, higher is better.

    A row's label is its most probable one, the first of several that are equally probable.

    Source: Lu et al. 2022, doi:10.18653/v1/2022.acl-long.556, equation 5.
    """
    p = np.asarray(probabilities, dtype=float)
    shares = np.bincount(p.argmax(axis=1), minlength=p.shape[1]) / len(p)
    return float(entr(shares).sum())


def local_entropy(probabilities: ArrayLike) -> float:
    """LocalE: `mean_i H(p_i)`, in nats, 0 to log C, higher is better.

    Source: Lu et al. 2022, doi:10.18653/v1/2022.acl-long.556, equation 7.
    """
    return float(entr(np.asarray(probabilities, dtype=float)).sum(axis=1).mean())


def description_length(probabilities: ArrayLike) -> float:
    """MDL_M: `−mean_i H(p_i)`, in nats, −log C to 0, higher is better: the surer a prompt is, the better.

    It is `−LocalE`, so it ranks prompts in exactly the reverse order: LocalE punishes a prompt that is sure
    of everything, MDL prefers it. It is the mean over inputs of what MDL chooses by
    (`per_input.minimum_description_length`); Yang et al. 2024 call it MDL_M.

    Source: Wu et al. 2023, doi:10.18653/v1/2023.acl-long.79; Yang et al. 2024, doi:10.1162/tacl_a_00666.
    """
    return -local_entropy(probabilities)


def mutual_information(probabilities: ArrayLike) -> float:
    """MI: `H(mean_i p_i) − mean_i H(p_i)`, in nats, 0 to log C, higher is better.

    Source: Sorensen et al. 2022, doi:10.18653/v1/2022.acl-long.60, equation 1.
    """
    return marginal_entropy(probabilities) - local_entropy(probabilities)


def mutual_information_g(probabilities: ArrayLike) -> float:
    """MI_G: `GlobalE − LocalE`: MI whose global term counts labels instead of probabilities ("one-hot").

    In nats, −log C to log C, higher is better.

    Source: Yang et al. 2024, doi:10.1162/tacl_a_00666 (there MI_AG), and the authors' code,
    github.com/soheeyang/unified-prompt-selection.
    """
    return global_entropy(probabilities) - local_entropy(probabilities)
