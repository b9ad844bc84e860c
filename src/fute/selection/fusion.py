"""Several rankings of the same candidates made into one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import ConfigError, DataError


def standardised(scores: ArrayLike) -> NDArray[np.float64]:
    """`(s − mean) / standard deviation` of k scores, so that those of different units can be added; zeros
    where all are equal.
    """
    s = np.asarray(scores, dtype=np.float64)
    return np.asarray((s - s.mean()) / s.std() if s.std() > 0 else np.zeros_like(s))


def reciprocal_rank_fusion(scores: ArrayLike, constant: float = 60.0) -> NDArray[np.float64]:
    """`Σ_r 1 / (constant + rank of the candidate in ranking r)`, higher is better. The highest score has
    rank 1; equal scores share the mean of their ranks.

    Args:
        scores: (rankings, k), higher is better; only their order counts, so each ranking may have its own
            scale.
        constant: not negative; the smaller, the more a first place counts.

    Returns:
        float64 (k,).

    Raises:
        DataError: scores of another shape, or NaN.
        ConfigError: a negative constant.

    Source: Cormack, Clarke & Büttcher 2009, doi:10.1145/1571941.1572114.
    """
    from scipy.stats import rankdata

    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.size == 0:
        raise DataError(
            "rankings to fuse must be a matrix", expected="(rankings, k)", found=f"shape {s.shape}"
        )
    if np.isnan(s).any():
        row, column = np.argwhere(np.isnan(s))[0]
        raise DataError("a score is NaN", found=f"candidate {column} of ranking {row} (from 0)")
    if constant < 0:
        raise ConfigError("the constant of reciprocal rank fusion can't be negative", found=str(constant))
    fused: NDArray[np.float64] = (1 / (constant + rankdata(-s, axis=1))).sum(axis=0)
    return fused
