"""How sure scores are, from the bootstrap of the embeddings that they compare."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fute.space.similarity import Products

LEVEL = 0.9
# Scores that are nearer than this count as equal: replicates are kept with three digits.
EQUAL = 1e-3
# A vector that is noise but for this share of its square tells nothing of what it would be without noise.
_LEAST_SIGNAL = 0.05

Doubles = NDArray[np.float64]


def limits(products: Products) -> tuple[Doubles, Doubles]:
    """What the scores would be with ever more texts, and how far a bootstrap says that this may be off.

    Sampling noise lengthens both vectors and so pulls their cosine towards 0. Taken off again,
    `<W, W_i> / √((‖W‖² − V)(‖W_i‖² − V_i))`, with V the bootstrap's mean of `‖W_b − W‖²`; never more than
    95 % of a square. On real data this is three times nearer to the score of all rows than the cosine of a
    few is (`make bench NAME=interval-coverage`).

    Returns:
        limits (n,), from -1 (of "inputs" 0) to 1, and deviations (n, B).

    Source: Spearman 1904 (correction for attenuation), doi:10.2307/1412159.
    """
    one = max(products.one - products.one_noise, _LEAST_SIGNAL * products.one)
    others = np.maximum(products.others - products.others_noise, _LEAST_SIGNAL * products.others)
    limit = _ratio(products.inner, np.sqrt(one * others))
    return np.clip(limit, products.least, 1), _deviations(products, limit, one, others)


def score_deviations(products: Products) -> Doubles:
    """How far the cosines themselves may be off, with as many texts as there are, and never past what a
    cosine can be: (n, B).
    """
    cosines = products.cosines
    deviations = _deviations(products, cosines, products.one, products.others)
    return np.asarray(np.clip(deviations, products.least - cosines[:, None], 1 - cosines[:, None]))


def _deviations(products: Products, scores: Doubles, one: float, others: Doubles) -> Doubles:
    """First-order changes of `inner / √(one · others)` where each part moves as in the bootstrap: (n, B)."""

    def moved(draws: Doubles) -> Doubles:
        return np.asarray(draws - draws.mean(axis=1, keepdims=True)) if draws.shape[1] else draws

    inner = _ratio(moved(products.inner_draws), np.sqrt(one * others)[:, None])
    squares = _ratio(moved(products.one_draws), np.array(one)) + _ratio(
        moved(products.others_draws), others[:, None]
    )
    return np.asarray(inner - scores[:, None] / 2 * squares)


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> Doubles:
    """a / b, and 0 where b is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.asarray(np.divide(a, b, out=np.zeros(a.shape), where=b > 0))


def interval(
    score: float | Doubles, deviations: Doubles, level: float = LEVEL, least: float = -1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The ends of the interval that holds the truth with probability `level`: `score + quantiles of the
    deviations`; None with fewer than two of them.

    Args:
        score: one or several (n,).
        deviations: (B,) or (n, B).
        level: of the interval.
        least: what a score can be at least; at most 1.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
    """
    if deviations.shape[-1] < 2:
        return None
    tail = (1 - level) / 2
    low, high = np.clip(score + np.quantile(deviations, [tail, 1 - tail], axis=-1), least, 1)
    return low, high


def chances_of_best(scores: Doubles, deviations: Doubles) -> Doubles | None:
    """P(best): in what share of the resamples each of n candidates has the highest score; of several that are
    within 0.001 of it each gets its share. (n,), sums to 1; None with fewer than two resamples.

    Args:
        scores: (n,).
        deviations: (n, B), drawn together: the candidates answered the same texts, so their scores move
            together, and pairs are told apart that single intervals would not.
    """
    if deviations.shape[1] < 2:
        return None
    drawn = scores[:, None] + deviations
    highest = drawn >= drawn.max(axis=0) - EQUAL
    return np.asarray((highest / highest.sum(axis=0)).mean(axis=1))


def chances_to_beat(best: int, scores: Doubles, deviations: Doubles) -> Doubles:
    """In what share of the resamples each candidate scores at least as high as the `best`, to within 0.001:
    (n,), 1 for itself.
    """
    drawn = scores[:, None] + deviations
    return np.asarray((drawn >= drawn[best] - EQUAL).mean(axis=1))


def times_as_many_texts(differences: Doubles, deviations: Doubles, chance: float) -> Doubles:
    """How many times as many texts, of U and of the dataset, would tell two candidates apart, for n pairs:
    (n,), at least 1; infinite where their scores are equal to within 0.001.

    `(z · sd / difference)²` with z the normal quantile of `1 - chance`: a difference between means varies by
    1/√n.

    Args:
        differences: of their scores, (n,).
        deviations: (n, B), of the differences.
        chance: that the lower one scores as high, below which they count as told apart.
    """
    from scipy.stats import norm

    equal = np.abs(differences) <= EQUAL
    times = (norm.ppf(1 - chance) * deviations.std(axis=1) / np.where(equal, 1, differences)) ** 2
    return np.where(equal, np.inf, np.maximum(times, 1))
