"""Racing: few labelled evaluations, spent on the candidates that may still be the best."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import DataError
from fute.selection.fusion import standardised

Doubles = NDArray[np.float64]
# From candidates and rows to whether each is right: (candidates, m), of m of these rows: fewer than
# asked for where no more can be had, which ends the race.
Evaluate = Callable[[Sequence[int], Sequence[int]], NDArray[np.bool_]]
# The prior counts like this many labelled rows, and one standard deviation of similarity like this much in
# log-odds: at an accuracy of a half, 0.05. Fixed in advance, never fitted to the dataset at hand.
_PRIOR_ROWS = 10.0
_PRIOR_SPREAD = 0.2


@dataclass(frozen=True)
class Raced:
    """How a race ended.

    Attributes:
        scores: (k,), the estimated accuracy of each candidate, 0 to 1, higher is better; those that went out
            early are below all that stayed longer.
        right: (k,), on how many rows each was right.
        seen: (k,), on how many rows each was evaluated; 0 for those that never started.
        short: whether it ended because `evaluate` gave fewer rows than it was asked for.
    """

    scores: Doubles
    right: NDArray[np.int64]
    seen: NDArray[np.int64]
    short: bool = False

    @property
    def evaluations(self) -> int:
        """How many there were in all."""
        return int(self.seen.sum())

    def with_prior(self, prior: ArrayLike) -> Doubles:
        """The scores (k,) that the same evaluations give with another prior."""
        return _staged(_estimates(self.right, self.seen, standardised(prior)), self.seen)


def race(prior: ArrayLike, rows: int, budget: int, evaluate: Evaluate, seed: int = 0) -> Raced:
    """Successive halving that starts from a prior.

    In each round an equal part of the budget is spent on those that are left, all on the same
    rows; then the better half stays. A candidate's estimate is `(right + r q) / (seen + r)`, with
    `logit q = logit m + s z`, m the mean accuracy so far (of a row right and a row wrong more than there
    were), z its standardised prior, r = 10 rows and s = 0.2: similarity decides while few rows are seen, and
    hardly later. A budget that doesn't pay for a row of each candidate starts with the round that it pays
    for, with those of the highest prior.

    Args:
        prior: (k,), such as similarities, higher is better.
        rows: how many labelled rows there are.
        budget: evaluations, each of one candidate on one row; never more. At least one for each of two.
        evaluate: answers and compares with the label. Asked for each candidate and row once at most.
        seed: of the order of the rows.

    Raises:
        DataError: no candidates, no rows, or too small a budget.

    Source: Karnin, Koren & Somekh 2013 (successive halving), proceedings.mlr.press/v28/karnin13.html.
    """
    z = np.asarray(prior, dtype=float)
    k = len(z)
    if not k or rows < 1 or budget < min(k, 2):
        raise DataError(
            "a race needs candidates, labelled rows, and an evaluation for each of two",
            found=f"{k} candidates, {rows} rows, {budget} evaluations",
        )
    z = standardised(z)
    order = np.random.default_rng(seed).permutation(rows)
    right, seen = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
    left, short = np.argsort(-z, kind="stable"), False
    sizes = _sizes(k)
    for size, more in zip(sizes, _plan(sizes, rows, budget), strict=True):
        left = left[:size]
        if more:
            start = int(seen[left[0]])
            found = np.asarray(evaluate(left.tolist(), order[start : start + more].tolist()))
            right[left] += found.sum(axis=1)
            seen[left] += found.shape[1]
            short = found.shape[1] < more
        if short:
            break
        left = left[np.argsort(-_estimates(right[left], seen[left], z[left]), kind="stable")]
    return Raced(_staged(_estimates(right, seen, z), seen), right, seen, short)


def _estimates(right: NDArray[np.int64], seen: NDArray[np.int64], z: Doubles) -> Doubles:
    """The estimated accuracies of candidates with a standardised prior z; see `race`. The mean accuracy is
    that of all that stayed as long.
    """
    estimates = np.empty(len(z))
    for stage in np.unique(seen):
        here, stayed = seen == stage, seen >= stage
        mean = (right[stayed].sum() + 1) / (seen[stayed].sum() + 2)
        prior = scipy.special.expit(scipy.special.logit(mean) + _PRIOR_SPREAD * z[here])
        estimates[here] = (right[here] + _PRIOR_ROWS * prior) / (stage + _PRIOR_ROWS)
    return estimates


def _sizes(k: int) -> list[int]:
    """How many run in each round: half of the round before, down to two."""
    sizes = [k]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


def _plan(sizes: Sequence[int], rows: int, budget: int) -> list[int]:
    """How many more rows each round sees: as equal a spending as can be, with as little as can be left over
    where the last rounds have seen all rows.
    """

    def with_share(share: int) -> list[int]:
        seen, plan = 0, []
        for size in sizes:
            plan.append(min(share // size, rows - seen))
            seen += plan[-1]
        return plan

    def cost(share: int) -> int:
        return sum(size * more for size, more in zip(sizes, with_share(share), strict=True))

    shares = range(budget + 1)
    return with_share(shares[bisect.bisect_right(shares, budget, key=cost) - 1])


def _staged(scores: Doubles, seen: NDArray[np.int64]) -> Doubles:
    """Scores (k,), above 0, in which whoever was seen longer stands above whoever was seen less: an early
    estimate on few rows says less than having stayed.
    """
    staged = scores.copy()
    stages = np.unique(seen)[::-1]
    for before, stage in itertools.pairwise(stages):
        floor = staged[seen == before].min()
        here = seen == stage
        staged[here] *= min(1.0, float(floor / staged[here].max()) * (1 - 1e-6))
    return staged
