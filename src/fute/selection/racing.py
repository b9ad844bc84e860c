"""Racing: few labelled evaluations, spent on the candidates that may still be the best."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import DataError
from fute.selection.fusion import standardised

Doubles = NDArray[np.float64]
# From candidates and rows to whether each is right: (candidates, rows).
Evaluate = Callable[[Sequence[int], Sequence[int]], NDArray[np.bool_]]
# The prior counts like this many labelled rows, and one standard deviation of similarity like this much
# accuracy. Fixed in advance, never fitted to the dataset at hand.
_PRIOR_ROWS = 10.0
_PRIOR_SPREAD = 0.05


@dataclass(frozen=True)
class Raced:
    """How a race ended.

    Attributes:
        scores: (k,), the estimated accuracy of each candidate, higher is better; those that went out early
            are below all that stayed longer.
        seen: (k,), on how many rows each was evaluated.
        evaluations: how many there were in all.
    """

    scores: Doubles
    seen: NDArray[np.int64]
    evaluations: int


def race(prior: ArrayLike, rows: int, budget: int, evaluate: Evaluate, seed: int = 0) -> Raced:
    """Successive halving that starts from a prior.

    In each round an equal part of the budget is spent on those that are left, all on the same
    rows; then the better half stays. A candidate's estimate is `(right + r (m + s z)) / (seen + r)`, with m
    the mean accuracy so far, z its standardised prior, and r = 10 rows, s = 0.05: similarity decides while
    few rows are seen, and hardly later.

    Args:
        prior: (k,), such as similarities, higher is better.
        rows: how many labelled rows there are.
        budget: evaluations, each of one candidate on one row; never more.
        evaluate: answers and compares with the label. Asked for each candidate and row once at most.
        seed: of the order of the rows.

    Raises:
        DataError: no candidates, no rows, or a budget of less than one evaluation each.

    Source: Karnin, Koren & Somekh 2013 (successive halving), proceedings.mlr.press/v28/karnin13.html.
    """
    z = np.asarray(prior, dtype=float)
    k = len(z)
    if not k or rows < 1 or budget < k:
        raise DataError(
            "a race needs candidates, labelled rows, and an evaluation for each candidate",
            found=f"{k} candidates, {rows} rows, {budget} evaluations",
        )
    z = standardised(z)
    order = np.random.default_rng(seed).permutation(rows)
    right, seen, spent = np.zeros(k), np.zeros(k, dtype=np.int64), 0
    left = np.arange(k)
    scores = np.full(k, -np.inf)
    sizes = _sizes(k)
    plan = _plan(sizes, rows, budget)
    for size, more in zip(sizes, plan, strict=True):
        left = left[:size]
        start = int(seen[left[0]])
        if more:
            chosen = order[start : start + more]
            right[left] += np.asarray(evaluate(left.tolist(), chosen.tolist())).sum(axis=1)
            seen[left] += more
            spent += more * len(left)
        mean = right[left].sum() / max(1, seen[left].sum())
        prior_rows = _PRIOR_ROWS * (mean + _PRIOR_SPREAD * z[left])
        scores[left] = (right[left] + prior_rows) / (seen[left] + _PRIOR_ROWS)
        left = left[np.argsort(-scores[left], kind="stable")]
    return Raced(_staged(scores, seen), seen, spent)


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
    """Scores in which whoever was seen longer stands above whoever was seen less: an early estimate on few
    rows says less than having stayed.
    """
    staged = scores.copy()
    stages = np.unique(seen)[::-1]
    for before, stage in itertools.pairwise(stages):
        floor = staged[seen == before].min()
        here = seen == stage
        staged[here] -= max(0.0, float(staged[here].max() - floor)) + 1e-9
    return staged
