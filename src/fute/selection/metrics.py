"""How good a ranking is, once the truth is known.

Scores (k,) are what a method gives to k candidates, higher is better; performances (k,) are what each really
reaches. Where candidates have equal scores, a metric is its mean over the orders in which they may stand; the
two correlations say what they do instead. Every function raises `DataError` for arrays that are empty, of
other shapes or lengths, or hold NaN or infinity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import ConfigError, DataError

Gain = Literal["linear", "exponential"]
Doubles = NDArray[np.float64]


def rank_of_best(scores: ArrayLike, performances: ArrayLike) -> float:
    """The rank, 1 to k, that the scores give to the truly best candidate; lower is better. Its mean over
    targets is the average rank ρ.

    Candidates with equal scores share the mean of their ranks; where several are truly best, the mean of
    their ranks counts.

    Source: Vu et al. 2020, doi:10.18653/v1/2020.emnlp-main.635; FUTE (Wang et al. 2024), section 4.1.1,
    doi:10.18653/v1/2024.findings-acl.493.
    """
    from scipy.stats import rankdata

    s, p = _checked(scores, performances)
    return float(rankdata(-s)[p == p.max()].mean())


def performance(scores: ArrayLike, performances: ArrayLike) -> float:
    """What the highest-scored candidate reaches, higher is better; of several, their mean.

    Source: FUTE (Wang et al. 2024), section 4.2.1, doi:10.18653/v1/2024.findings-acl.493.
    """
    s, p = _checked(scores, performances)
    return float(p[s == s.max()].mean())


def performance_rate(scores: ArrayLike, performances: ArrayLike) -> float:
    """`performance of the highest-scored candidate / best performance`, at most 1, higher is better.

    Raises:
        DataError: also where the best performance isn't positive.

    Source: FUTE (Wang et al. 2024), section 4.2.1, doi:10.18653/v1/2024.findings-acl.493.
    """
    s, p = _checked(scores, performances)
    return performance(s, p) / _positive_best(p)


def regret(scores: ArrayLike, performances: ArrayLike, k: int = 1) -> float:
    """Regret@k: `(best − best among the k highest-scored) / best`, at least 0, lower is better.

    Where equal scores leave open who is among the k, the mean over all choices. So regret@1 is
    1 − performance rate.

    Raises:
        ConfigError: k < 1. More than there are candidates is all of them.
        DataError: also where the best performance isn't positive.

    Source: Poth et al. 2021, doi:10.18653/v1/2021.emnlp-main.827; Renggli et al. 2022, arXiv:2010.06402.
    """
    s, p = _checked(scores, performances)
    best, k = _positive_best(p), min(_at_least_one(k), len(s))
    last = np.sort(s)[-k]
    sure, tied = p[s > last], np.sort(p[s == last])
    drawn = k - len(sure)
    # The (i + 1)-th smallest of the tied is the largest drawn if all others come from the i below it.
    chances = [math.comb(i, drawn - 1) / math.comb(len(tied), drawn) for i in range(len(tied))]
    reached = float(np.dot(chances, np.maximum(tied, sure.max(initial=-np.inf))))
    return max(0.0, (best - reached) / best)  # rounding may leave it just below


def ndcg(scores: ArrayLike, relevance: ArrayLike, gain: Gain = "linear", k: int | None = None) -> float:
    """`DCG / DCG of the ideal order`, with `DCG = Σ_{r ≤ k} g(rel_r) / log₂(r + 1)`, r from 1; 0 to 1, higher
    is better; 1 where all gains are 0.

    Candidates with equal scores share the mean gain of their places.

    Args:
        scores: (n,), higher is better.
        relevance: (n,), not negative: performances, or graded by hand.
        gain: "linear" (g = rel) or "exponential" (g = 2^rel − 1), which is not the same for accuracies in
            per cent as for shares.
        k: how many places count; None, or more than there are, is all.

    Raises:
        ConfigError: another gain, or k < 1.
        DataError: also where relevance is negative, or so large that its gain isn't finite.

    Source: Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418; exponential: Burges et al. 2005,
    doi:10.1145/1102351.1102363; ties: McSherry & Najork 2008, doi:10.1007/978-3-540-78646-7_38.
    """
    s, rel = _checked(scores, relevance)
    if gain not in ("linear", "exponential"):
        raise ConfigError(f"there is no gain {gain!r}", expected='"linear" or "exponential"')
    if rel.min() < 0 or (gain == "exponential" and rel.max() > 1000):
        raise DataError(
            "relevance can't be the gain of an NDCG",
            expected="numbers from 0" + (" to 1000" if gain == "exponential" else ""),
            found=f"{rel.min():g} to {rel.max():g}",
            fix="give performances as shares or per cent, not as differences",
        )
    gains = rel if gain == "linear" else np.exp2(rel) - 1
    discounts = 1 / np.log2(np.arange(len(s)) + 2)
    if k is not None:
        discounts[_at_least_one(k) :] = 0
    _, group = np.unique(-s, return_inverse=True)
    mean_gain = np.bincount(group, gains) / np.bincount(group)
    dcg = (mean_gain[np.sort(group)] * discounts).sum()
    ideal = (np.sort(gains)[::-1] * discounts).sum()
    return float(dcg / ideal) if ideal > 0 else 1.0


def spearman(scores: ArrayLike, performances: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1, higher is better; equal values share their mean rank; 0 where all
    scores or all performances are equal.

    Source: Spearman 1904, doi:10.2307/1412159.
    """
    from scipy.stats import spearmanr

    s, p = _checked(scores, performances)
    return 0.0 if _constant(s) or _constant(p) else float(spearmanr(s, p).statistic)


def weighted_kendall(scores: ArrayLike, performances: ArrayLike) -> float:
    """Kendall's τ in which an exchange of ranks r and s (from 0) weighs `1/(r + 1) + 1/(s + 1)`, so the top
    counts most; -1 to 1, higher is better. The mean of ranking by scores and by performances; a pair with
    equal values counts for neither; 0 where all scores or all performances are equal.

    Source: Vigna 2015, doi:10.1145/2736277.2741088.
    """
    from scipy.stats import weightedtau

    s, p = _checked(scores, performances)
    return 0.0 if _constant(s) or _constant(p) else float(weightedtau(s, p).statistic)


def transfer_gain(performances: ArrayLike, without: float) -> Doubles:
    """`(performance with a source − performance without) / performance without`, higher is better.

    Args:
        performances: (k,), on the target, after each of the sources.
        without: on the target alone; positive.

    Returns:
        float64 (k,).

    Source: Vu et al. 2020, doi:10.18653/v1/2020.emnlp-main.635.
    """
    (p,) = _checked(performances)
    if not (math.isfinite(without) and without > 0):
        raise DataError("a transfer gain needs a positive performance without a source", found=str(without))
    return (p - without) / without


def measure(
    scores: ArrayLike,
    performances: ArrayLike,
    *,
    at: Sequence[int] = (1, 3),
    without: float | None = None,
) -> dict[str, float]:
    """All metrics of one target's ranking, each by the name that also says its gain and k.

    Args:
        scores: (k,).
        performances: (k,), not negative, the best of them positive.
        at: the k of regret@k; NDCG is of all places, and of the largest of these.
        without: the performance without any source, for the transfer gain of the highest-scored one.
    """
    s, p = _checked(scores, performances)
    gains: tuple[Gain, ...] = ("linear", "exponential")
    return {
        "rank_of_best": rank_of_best(s, p),
        "performance": performance(s, p),
        "performance_rate": performance_rate(s, p),
        **{f"regret@{k}": regret(s, p, k) for k in at},
        **{f"ndcg_{gain}": ndcg(s, p, gain) for gain in gains},
        **{f"ndcg@{k}_{gain}": ndcg(s, p, gain, k) for k in sorted(at)[-1:] for gain in gains},
        "spearman": spearman(s, p),
        "weighted_kendall": weighted_kendall(s, p),
        **(
            {}
            if without is None
            else {"transfer_gain": float(transfer_gain([performance(s, p)], without)[0])}
        ),
    }


def mean_over_targets(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over targets, as `measure` names them; that of `rank_of_best` is ρ.

    Raises:
        DataError: no targets, or not the same metrics for all.
    """
    if not measured:
        raise DataError("there are no targets to average over")
    names = list(measured[0])
    for metrics in measured:
        if set(metrics) != set(names):
            raise DataError(
                "targets have different metrics", expected=", ".join(names), found=", ".join(metrics)
            )
    return {name: float(np.mean([metrics[name] for metrics in measured])) for name in names}


def _checked(*arrays: ArrayLike) -> tuple[Doubles, ...]:
    """The arrays as float64 (k,), all of one length."""
    try:
        made = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    except (TypeError, ValueError) as error:
        raise DataError("scores and performances must be numbers", found=str(error)) from None
    shapes = [array.shape for array in made]
    if len(set(shapes)) > 1 or made[0].ndim != 1 or made[0].size == 0:
        raise DataError(
            "scores and performances don't fit together",
            expected="one of each for every candidate, and one candidate at least",
            found=" and ".join(f"shape {shape}" for shape in shapes),
        )
    bad = np.flatnonzero(~np.isfinite(np.stack(made)).all(axis=0))
    if len(bad):
        raise DataError(
            "scores and performances must be finite numbers",
            found=", ".join(str(array[bad[0]]) for array in made) + f" for candidate {bad[0]} (from 0)",
            fix="leave candidates that failed out",
        )
    return made


def _positive_best(performances: Doubles) -> float:
    best = float(performances.max())
    if best <= 0:
        raise DataError("nothing can be relative to the best performance", found=f"the best is {best:g}")
    return best


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ConfigError("k must be at least 1", found=str(k))
    return k


def _constant(values: Doubles) -> bool:
    return bool((values == values[0]).all())
