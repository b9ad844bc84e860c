"""What several models say together: pseudo-labels for inputs without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fute.core.types import Floats
from fute.labelling.runner import Answered


def ensemble(answers: Sequence[Answered], labels: Sequence[str]) -> tuple[NDArray[np.intp], Floats]:
    """`p_i = (1/|M_i|) Σ_{m ∈ M_i} p_m(x_i)`: the mean of the class probabilities of those models M_i that
    answered input i, each model's columns in the order of `labels`.

    Args:
        answers: of k models to the same n inputs; each answers just these labels, in any order.
        labels: the C label names.

    Returns:
        The m rows that any model answered, ascending, and their means, float32 (m, C).
    """
    n = len(answers[0].inputs)
    total, count = np.zeros((n, len(labels))), np.zeros(n)
    for one in answers:
        total[one.rows] += one.probabilities_of(labels)
        count[one.rows] += 1
    rows = np.flatnonzero(count)
    return rows, (total[rows] / count[rows, None]).astype(np.float32)
