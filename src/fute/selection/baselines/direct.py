"""The honest alternative: label a few rows of the target, and try every candidate on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import ConfigError, DataError


def drawn_rows(rows: int, n: int, seed: int) -> NDArray[np.int64]:
    """Which n of so many rows are labelled, without repeats: int64 (n,). A larger n of the same seed begins
    with the rows of a smaller one.

    Raises:
        ConfigError: n isn't 1 to `rows`.
    """
    if not 1 <= n <= rows:
        raise ConfigError(
            f"{n} rows can't be labelled: there are {rows}", expected=f"1 to {rows}", found=str(n)
        )
    return np.random.default_rng(seed).permutation(rows)[:n]


def direct_evaluation(correct: ArrayLike, n: int, seeds: Sequence[int] = (0,)) -> NDArray[np.float64]:
    """The mean correctness of every candidate on n labelled rows, higher is better; all see the same rows.

    To tell what n rows are worth, take a metric of each draw's scores and then its mean over the draws: the
    scores' own mean over many draws is that of all rows. What candidates really reach belongs to the rows
    that `drawn_rows` leaves out.

    Args:
        correct: (k, rows), True or 1 where the candidate is right; or any per-row quality.
        n: number of labelled rows.
        seeds: of the draws.

    Returns:
        float64 (draws, k).

    Raises:
        DataError: another shape, or NaN: a row that a candidate has no answer for.
        ConfigError: n isn't 1 to the number of rows.
    """
    made = np.asarray(correct, dtype=np.float64)
    if made.ndim != 2 or made.size == 0:
        raise DataError("correctness must be a matrix", expected="(k, rows)", found=f"shape {made.shape}")
    if not np.isfinite(made).all():
        candidate, row = np.argwhere(~np.isfinite(made))[0]
        raise DataError(
            "correctness must be known for every row",
            found=f"{made[candidate, row]} for candidate {candidate} in row {row} (from 0)",
            fix="count a missing answer as wrong, 0, or leave the row out for all",
        )
    return np.array([made[:, drawn_rows(made.shape[1], n, seed)].mean(axis=1) for seed in seeds])
