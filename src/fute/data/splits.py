"""Deterministic samples and splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import DataError

Indices = NDArray[np.int64]


def sample_indices(n: int, size: int | None, seed: int) -> Indices:
    """`size` of `range(n)` in ascending order, or all where `size` is None or at least n.

    A larger sample holds every smaller one of the same seed, so that asking for more loses no answer.
    """
    return np.sort(np.random.default_rng(seed).permutation(n)[:size])


def balanced_indices(classes: Indices, size: int | None, seed: int) -> Indices:
    """`size` of the rows in ascending order, or all where it is None or there are no more: one of every class
    in turn, for as long as it has any, drawn at random.

    A larger draw holds every smaller one of the same seed.

    Args:
        classes: (n,) class indices.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    turns = np.empty(len(classes), dtype=np.int64)
    for value in np.unique(classes):
        rows = classes[order] == value
        turns[rows] = np.arange(rows.sum())
    return np.sort(order[np.argsort(turns, kind="stable")[:size]])


def split_indices(classes: Indices, test: float, seed: int, name: str) -> tuple[Indices, Indices]:
    """Split row numbers into train and test, with the same share of every class in both.

    Args:
        classes: (n,) class indices.
        test: share of the rows that go into test, 0 to 1; 0 gives an empty test split.
        name: of the dataset, for messages.

    Raises:
        DataError: so few rows that a class would be missing from one side.
    """
    if test == 0:
        return np.arange(len(classes)), np.arange(0)
    rng = np.random.default_rng(seed)
    chosen = []
    for value in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == value))
        count = round(test * len(rows))
        if count in (0, len(rows)):
            raise DataError(
                f"dataset {name}: {len(rows)} rows of one class are too few to hold out a share of {test}",
                fix="add rows, or change `test`",
            )
        chosen.append(rows[:count])
    held_out = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(classes)), held_out), held_out
