"""Intervals from bootstrap replicates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.9


def interval(
    score: float, replicates: NDArray[np.float64], level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval that holds the score with probability `level`, or None without replicates.

    `score + quantiles of (replicates − their mean)`: resampling adds noise to both vectors, which pulls
    every replicate's cosine towards 0, so their spread is kept and their shift is not.
    Source: Efron & Tibshirani 1993, chapters 10 and 13 (bias correction; percentile interval).
    """
    if len(replicates) < 2:
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(replicates - replicates.mean(), [tail, 1 - tail])
    return max(-1.0, score + float(low)), min(1.0, score + float(high))
