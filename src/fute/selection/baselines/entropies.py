"""Label-free scores from a prompt's class probabilities P (n, C) on the dataset's own texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr


def mutual_information(probabilities: ArrayLike) -> float:
    """MI: `H(mean_i p_i) − mean_i H(p_i)`, in nats, 0 to log C, higher is better.

    Source: Sorensen et al. 2022, doi:10.18653/v1/2022.acl-long.60, equation 1.
    """
    p = np.asarray(probabilities, dtype=float)
    return float(entr(p.mean(axis=0)).sum() - entr(p).sum(axis=1).mean())


def global_entropy(probabilities: ArrayLike) -> float:
    """GlobalE: `H(share of rows that get each label)`, in nats, 0 to log C, higher is better.

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
