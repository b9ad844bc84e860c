"""Which inputs stand in other texts, such as those that a model was trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fute.core.types import Input

_WORD = re.compile(r"\w+")


def overlapping(
    inputs: Sequence[Input], others: Iterable[Input], n: int = 8, share: float = 0.7
) -> NDArray[np.bool_]:
    """Which inputs are in other texts: those of whose runs of n words at least this share stand in them.

    Words are compared without case and punctuation, those of a pair and of options one after the other. An
    input of fewer than n words is one run, and is found only where it is a whole other text: short runs stand
    everywhere.

    Args:
        inputs: k inputs; only their runs are kept in memory.
        others: read once.
        n: words of a run.
        share: above 0, at most 1.

    Returns:
        bool (k,).

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 8 (70 % of 8-grams).
    """
    runs = [_runs(item, n) for item in inputs]
    found = dict.fromkeys((run for some in runs for run in some), False)
    for other in others:
        for run in _runs(other, n):
            if run in found:
                found[run] = True
    return np.array(
        [bool(some) and np.mean([found[run] for run in some]) >= share for some in runs], dtype=bool
    )


def _runs(item: Input, n: int) -> list[tuple[str, ...]]:
    whole = " ".join([item.text, item.text_pair or "", *item.options])
    words = tuple(_WORD.findall(unicodedata.normalize("NFKC", whole).casefold()))
    if len(words) < n:
        return [words] if words else []
    return [words[i : i + n] for i in range(len(words) - n + 1)]
