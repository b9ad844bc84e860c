"""Similarity of task embeddings, exact, from their factors.

For `W = A Eᵀ`: `<W₁, W₂> = Σ (A₁ᵀA₂) ∘ (E₁ᵀE₂)`, without ever forming W. It compares what inputs are mapped
to what label meanings. Of the input side alone `<W₁W₁ᵀ, W₂W₂ᵀ> = ‖W₁ᵀW₂‖² = Σ (G₁ M G₂) ∘ M`, with
`M = A₁ᵀA₂` and `G = EᵀE`: what in the inputs the answers depend on, whatever the labels are called.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.core.types import TaskEmbedding

Doubles = NDArray[np.float64]
Similarity = Literal["map", "inputs"]


# Stacked at a time: enough to be fast, little enough for the processor's caches.
_TOGETHER = 2048
# From here on float32: twice as fast, and right to 1e-5.
_MANY = 10_000


def cosine(a: TaskEmbedding, b: TaskEmbedding, of: Similarity = "map") -> float:
    """`<W_a, W_b> / (‖W_a‖ ‖W_b‖)`, from -1 to 1, higher is more alike; 0 where one of them is zero. Of the
    "inputs": the same for `W Wᵀ`, from 0 to 1. For a plain vector that is the square of its cosine. Where
    one has fewer rows, those that it lacks are zero.

    Raises:
        SpaceError: they live in different spaces.
    """
    return float(cosines(a, [b], of)[0])


def cosines(one: TaskEmbedding, others: Sequence[TaskEmbedding], of: Similarity = "map") -> Doubles:
    """The cosines of one with n others, as by `cosine`: float64 (n,)."""
    result = np.zeros(len(others))
    dtype = np.float64 if len(others) < _MANY else np.float32
    mine = _Factors.of(one, dtype)
    for rows in _alike(others):
        some = [others[row] for row in rows]
        for other in some:
            one.spec.check_same(other.spec)
        theirs = _Factors(
            np.stack([e.left for e in some]).astype(dtype), np.stack([e.right for e in some]).astype(dtype)
        )
        result[rows] = _cosines(mine, theirs, of)
    return result


def cosine_matrix(embeddings: Sequence[TaskEmbedding], of: Similarity = "map") -> Doubles:
    """All pairs: float64 (n, n), symmetric, with ones on the diagonal."""
    n = len(embeddings)
    result = np.eye(n)
    for i in range(1, n):
        result[i, :i] = result[:i, i] = cosines(embeddings[i], embeddings[:i], of)
    return result


@dataclass(frozen=True)
class Products:
    """Inner products of one embedding with n others, and how they vary over B bootstrap resamples.

    Attributes:
        inner: (n,), `<W, W_i>`; `one` (scalar) and `others` (n,) are the squares `<W, W>` and `<W_i, W_i>`.
        inner_draws: (n, B), of the resamples; `one_draws` (1, B) and `others_draws` (n, B) their squares.
        one_noise: the mean of `‖W_b − W‖²` over the resamples b; `others_noise` (n,).
    """

    inner: Doubles
    one: float
    others: Doubles
    inner_draws: Doubles
    one_draws: Doubles
    others_draws: Doubles
    one_noise: float
    others_noise: Doubles

    @property
    def cosines(self) -> Doubles:
        """(n,)."""
        return _normalised(self.inner, np.array(self.one), self.others)

    @property
    def cosine_draws(self) -> Doubles:
        """(n, B)."""
        return _normalised(self.inner_draws, self.one_draws, self.others_draws)


def resampled_products(
    one: TaskEmbedding, others: Sequence[TaskEmbedding], of: Similarity = "map"
) -> Products:
    """All inner products that intervals need; B is the least number of replicates that one of them has.

    Resample b of `one` meets resample b of each other. An embedding without replicates stands still.
    """
    size = min((len(e.replicates) for e in (one, *others) if len(e.replicates)), default=0)
    mine, my_draws = _Factors.of(one), _Factors.resampled(one, size)
    shape = (len(others), size)
    inner, squares, noise = np.zeros(shape[0]), np.zeros(shape[0]), np.zeros(shape[0])
    inner_draws, square_draws = np.zeros(shape), np.zeros(shape)
    for row, other in enumerate(others):
        one.spec.check_same(other.spec)
        theirs, draws = _Factors.of(other), _Factors.resampled(other, size)
        inner[row], squares[row] = mine.inner(theirs, of)[0], theirs.squares(of)[0]
        inner_draws[row], square_draws[row] = my_draws.inner(draws, of), draws.squares(of)
        noise[row] = _spread(theirs, draws, of) if len(other.replicates) else 0.0
    return Products(
        inner,
        float(mine.squares(of)[0]),
        squares,
        inner_draws,
        my_draws.squares(of)[None],
        square_draws,
        _spread(mine, my_draws, of) if len(one.replicates) else 0.0,
        noise,
    )


def _spread(whole: _Factors, draws: _Factors, of: Similarity) -> float:
    """The mean over resamples b of `‖W_b − W‖² = ‖W_b‖² − 2 <W_b, W> + ‖W‖²`."""
    return float((draws.squares(of) - 2 * draws.inner(whole, of)).mean() + whole.squares(of)[0])


class _Factors:
    """Factors of n matrices of one shape: `left` (n, d, r) and `right` (n or 1, k, r)."""

    def __init__(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        self.left, self.right = left, right

    @classmethod
    def of(cls, e: TaskEmbedding, dtype: Any = np.float64) -> _Factors:
        return cls(e.left.astype(dtype)[None], e.right.astype(dtype)[None])

    @classmethod
    def resampled(cls, e: TaskEmbedding, size: int) -> _Factors:
        left = e.replicates[:size] if len(e.replicates) else np.broadcast_to(e.left, (size, *e.left.shape))
        return cls(left.astype(np.float64), e.right.astype(np.float64)[None])

    def inner(self, other: _Factors, of: Similarity) -> NDArray[Any]:
        """(n,), the inner products of the matrices, one by one."""
        rows = min(self.left.shape[1], other.left.shape[1])
        products = self.left[:, :rows].swapaxes(1, 2) @ other.left[:, :rows]  # M, (n, r_a, r_b)
        if of == "map":
            rights = self.right.swapaxes(1, 2) @ other.right
        else:
            rights = self._gram @ products @ other._gram
        return np.asarray((products * rights).sum(axis=(1, 2)))

    @functools.cached_property
    def _gram(self) -> NDArray[Any]:
        gram: NDArray[Any] = self.right.swapaxes(1, 2) @ self.right
        return gram

    def squares(self, of: Similarity) -> NDArray[Any]:
        """(n,), the inner products with themselves."""
        if of not in self._squares:
            self._squares[of] = self.inner(self, of)
        return self._squares[of]

    @functools.cached_property
    def _squares(self) -> dict[Similarity, NDArray[Any]]:
        return {}


def _cosines(a: _Factors, b: _Factors, of: Similarity) -> Doubles:
    return _normalised(a.inner(b, of), a.squares(of), b.squares(of))


def _alike(embeddings: Sequence[TaskEmbedding]) -> Iterator[list[int]]:
    """The rows of those whose factors have one shape, some at a time."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for row, e in enumerate(embeddings):
        groups.setdefault((e.left.shape, e.right.shape), []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), _TOGETHER):
            yield rows[start : start + _TOGETHER]


def _normalised(inner: NDArray[Any], square_a: NDArray[Any], square_b: NDArray[Any]) -> Doubles:
    scale = np.sqrt(np.maximum(square_a, 0) * np.maximum(square_b, 0))
    result: Doubles = np.divide(inner, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(result, -1, 1)  # rounding can lead past them
