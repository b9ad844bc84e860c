"""Several ways to choose one of the same candidates, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import DataError, listing
from fute.selection.metrics import measure

# A label that so many texts get leaves nothing to tell them apart by.
_CONSTANT = 0.98
# A cosine of two models above this: they are one model under two names, or nearly.
_ALIKE = 0.999


@dataclass(frozen=True)
class Way:
    """One way to choose.

    Attributes:
        name: such as "fute" or "MI".
        scores: (k,), one per candidate, higher is better; units are its own. None where it can't score one.
        picks: the candidates with the highest score; several are a tie, and none is where it can score none.
        metrics: how good its order is (`fute.selection.metrics.measure`), where the truth is known; those
            that it can't score stand last, tied.
    """

    name: str
    scores: tuple[float | None, ...]
    picks: tuple[str, ...]
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """What each way chooses for a dataset.

    Attributes:
        dataset: its name.
        candidates: k names.
        ways: how they were scored.
        performances: (k,), what each candidate reaches in truth; None where it isn't known.
        rows: how many rows of the dataset the performances come from, or without these how many the baselines
            saw, without labels.
        warnings: what to know of the candidates.
    """

    dataset: str
    candidates: tuple[str, ...]
    ways: tuple[Way, ...]
    performances: tuple[float, ...] | None
    rows: int
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "ways": [vars(way) for way in self.ways]}


def compare(
    dataset: str,
    candidates: Sequence[str],
    scores: Mapping[str, ArrayLike],
    performances: ArrayLike | None,
    rows: int,
    warnings: Sequence[str] = (),
) -> Comparison:
    """Who picks what, and how good that is.

    Args:
        dataset: its name.
        candidates: k names.
        scores: of each way, (k,), higher is better; NaN where it can't score a candidate.
        performances: (k,), not negative, or None.
        rows, warnings: as in `Comparison`.

    Raises:
        DataError: no candidates, or scores that are infinite or too few.
    """
    truth = None if performances is None else tuple(np.asarray(performances, dtype=float).tolist())
    ways = []
    for name, given in scores.items():
        values = np.asarray(given, dtype=float)
        if values.shape != (len(candidates),) or not len(values) or np.isinf(values).any():
            raise DataError(
                f"{name} gives no score to each of the {len(candidates)} candidates",
                found=f"{values.shape} with {int(np.isinf(values).sum())} infinite",
            )
        ways.append(_way(name, candidates, values, truth))
    return Comparison(dataset, tuple(candidates), tuple(ways), truth, rows, tuple(warnings))


def _way(
    name: str, candidates: Sequence[str], values: NDArray[np.float64], truth: Sequence[float] | None
) -> Way:
    known = ~np.isnan(values)
    if not known.any():
        return Way(name, (None,) * len(values), ())
    ordered = np.where(known, values, values[known].min() - 1)
    picks = tuple(c for c, value in zip(candidates, ordered, strict=True) if value == ordered.max())
    scores = tuple(v if there else None for v, there in zip(values.tolist(), known, strict=True))
    return Way(name, scores, picks, None if truth is None else measure(ordered, truth))


def doubts(names: Sequence[str], probabilities: NDArray[Any], similar: NDArray[np.float64]) -> list[str]:
    """What makes candidates doubtful: answers that hardly depend on the text, and pairs that answer alike.

    Args:
        names: k.
        probabilities: (k, n, C), their answers to the dataset's texts.
        similar: (k, k), cosines of their task embeddings.
    """
    found = []
    constant = [
        name for name, answers in zip(names, probabilities, strict=True) if _most(answers) >= _CONSTANT
    ]
    if constant:
        found.append(f"Nearly all texts get the same label from {listing(constant)}.")
    for i in range(len(names)):
        twins = [names[j] for j in range(i) if similar[i, j] > _ALIKE]
        if twins:
            found.append(f"{names[i]} answers U like {listing(twins)}.")
    return found


def _most(answers: NDArray[Any]) -> float:
    """The share of the label that most of the answers (n, C) are."""
    return float(np.bincount(answers.argmax(axis=1)).max() / len(answers))
