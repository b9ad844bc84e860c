"""How good a ranking is, once the truth is known."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

Gain = Literal["linear", "exponential"]


def performance_rate(scores: ArrayLike, performances: ArrayLike) -> float:
    """`performance of the highest-scored candidate / best performance`, 0 to 1, higher is better.

    Of candidates with equal highest scores, the mean performance counts.

    Args:
        scores: (k,), higher is better.
        performances: (k,), what each candidate really reaches; positive.

    Source: FUTE (Wang et al. 2024), section 4.2.1.
    """
    s, p = np.asarray(scores, dtype=float), np.asarray(performances, dtype=float)
    return float(p[s == s.max()].mean() / p.max())


def ndcg(scores: ArrayLike, relevance: ArrayLike, gain: Gain = "linear") -> float:
    """`DCG / DCG of the ideal order`, with `DCG = Σ_r g(rel_r) / log₂(r + 1)`, r from 1; higher is better.

    Candidates with equal scores share the mean gain of their places.

    Args:
        scores: (k,), higher is better.
        relevance: (k,), not negative.
        gain: "linear" (g = rel) or "exponential" (g = 2^rel − 1).

    Source: Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418; ties: McSherry & Najork 2008,
    doi:10.1007/978-3-540-78646-7_38.
    """
    s, rel = np.asarray(scores, dtype=float), np.asarray(relevance, dtype=float)
    gains = rel if gain == "linear" else np.exp2(rel) - 1
    discounts = 1 / np.log2(np.arange(len(s)) + 2)
    _, group = np.unique(-s, return_inverse=True)
    mean_gain = np.bincount(group, gains) / np.bincount(group)
    dcg = (mean_gain[np.sort(group)] * discounts).sum()
    ideal = (np.sort(gains)[::-1] * discounts).sum()
    return float(dcg / ideal) if ideal > 0 else 1.0


def spearman(scores: ArrayLike, performances: ArrayLike) -> float:
    """Rank correlation of scores and performances, -1 to 1, higher is better; 0 where one is constant."""
    if np.ptp(np.asarray(scores)) == 0 or np.ptp(np.asarray(performances)) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(scores, performances).statistic)
