"""Several ways to choose one of the same candidates, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import DataError
from fute.selection.metrics import measure
from fute.selection.rank import Ranking

# Scores closer than this are equal: sums in another order differ by less.
_DIGITS = 9


@dataclass(frozen=True)
class Way:
    """One way to choose.

    Attributes:
        name: such as "fute" or "MI".
        scores: (k,), one per candidate, higher is better, with 9 digits after the point; units are its own.
            None where it can't score one.
        picks: the candidates with the highest score; several are a tie, and none is where it can score none.
        metrics: how good its order is (`fute.selection.metrics.measure`), where the truth is known; those
            that it can't score stand last, tied. Where all candidates reach 0 there is no rate and no regret.
        evaluated: (k,), on how many labelled rows each candidate was evaluated, if its scores come from that.
    """

    name: str
    scores: tuple[float | None, ...]
    picks: tuple[str, ...]
    metrics: Mapping[str, float] | None = None
    evaluated: tuple[int, ...] | None = None

    @property
    def evaluations(self) -> int:
        """How many labelled evaluations, each of one candidate on one row, it took."""
        return sum(self.evaluated or ())

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "evaluations": self.evaluations}


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
        ranking: the candidates by the similarity of task embeddings, with what a bootstrap says of it.
        ranked_by: the way that has the ranking's scores.
        rows_seen: how many rows the baselines saw: those that all candidates with a score have answered.
    """

    dataset: str
    candidates: tuple[str, ...]
    ways: tuple[Way, ...]
    performances: tuple[float, ...] | None
    rows: int
    warnings: tuple[str, ...] = ()
    ranking: Ranking | None = None
    ranked_by: str | None = None
    rows_seen: int = 0

    @property
    def intervals(self) -> tuple[tuple[float, float], ...] | None:
        """The 90 % interval of each performance, if that is a share of the rows."""
        if self.performances is None or not self.rows or max(self.performances) > 1:
            return None
        return tuple(share_interval(share, self.rows) for share in self.performances)

    def beside(self, scores: Mapping[str, ArrayLike]) -> Comparison:
        """The same with more ways: their scores (k,), as for `compare`."""
        more = compare(self.dataset, self.candidates, scores, self.performances, self.rows)
        return replace(self, ways=(*self.ways, *more.ways))

    def as_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "ways": [way.as_dict() for way in self.ways],
            "intervals": self.intervals,
            "ranking": None if self.ranking is None else self.ranking.as_dict(),
        }


def compare(
    dataset: str,
    candidates: Sequence[str],
    scores: Mapping[str, ArrayLike],
    performances: ArrayLike | None,
    rows: int,
    warnings: Sequence[str] = (),
    *,
    evaluated: Mapping[str, ArrayLike] = MappingProxyType({}),
    ranking: Ranking | None = None,
    ranked_by: str | None = None,
    rows_seen: int = 0,
) -> Comparison:
    """Who picks what, and how good that is. Scores that differ by rounding are equal.

    Args:
        dataset: its name.
        candidates: k names.
        scores: of each way, (k,), higher is better; NaN where it can't score a candidate.
        performances: (k,), not negative, or None.
        evaluated: as in `Way`, of the ways that have it.
        rows, warnings, ranking, ranked_by, rows_seen: as in `Comparison`.

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
        way = _way(name, candidates, values.round(_DIGITS), truth)
        if name in evaluated:
            way = replace(way, evaluated=tuple(np.asarray(evaluated[name]).tolist()))
        ways.append(way)
    return Comparison(
        dataset, tuple(candidates), tuple(ways), truth, rows, tuple(warnings), ranking, ranked_by, rows_seen
    )


def _way(
    name: str, candidates: Sequence[str], values: NDArray[np.float64], truth: Sequence[float] | None
) -> Way:
    known = ~np.isnan(values)
    if not known.any():
        return Way(name, (None,) * len(values), ())
    ordered = np.where(known, values, values[known].min() - 1)
    picks = tuple(c for c, value in zip(candidates, ordered, strict=True) if value == ordered.max())
    scores = tuple(v if there else None for v, there in zip(values.tolist(), known, strict=True))
    return Way(name, scores, picks, None if truth is None else _measured(ordered, truth))


def _measured(ordered: NDArray[np.float64], truth: Sequence[float]) -> dict[str, float]:
    """All metrics; where the best performance is 0, those that aren't relative to it."""
    if max(truth) > 0:
        return measure(ordered, truth)
    kept = measure(ordered, np.ones(len(truth)))  # equal performances, whatever they are
    relative = ("performance_rate", "regret")
    return {name: value for name, value in kept.items() if not name.startswith(relative)} | {
        "performance": 0.0
    }


def share_interval(share: float, n: int, level: float = 0.9) -> tuple[float, float]:
    """The interval of a share of n rows that holds the share of all rows there could be, in `level` of cases:
    `(p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)`, z the normal quantile; within 0 and 1.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
