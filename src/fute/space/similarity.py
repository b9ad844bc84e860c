"""Similarity of task embeddings, exact, from their factors.

For `W = A Eᵀ`: `<W₁, W₂> = Σ (A₁ᵀA₂) ∘ (E₁ᵀE₂)`, without ever forming W. It compares what inputs are mapped
to what label meanings. Of the input side alone `<W₁W₁ᵀ, W₂W₂ᵀ> = ‖W₁ᵀW₂‖² = Σ (G₁ M G₂) ∘ M`, with
`M = A₁ᵀA₂` and `G = EᵀE`: what in the inputs the answers depend on, whatever the labels are called.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fute.core.types import TaskEmbedding

Doubles = NDArray[np.float64]
Similarity = Literal["map", "inputs"]


# Stacked at a time: enough to be fast, little enough for the processor's caches.
_TOGETHER = 512
# From here on float32: twice as fast, and right to 1e-5.
_MANY = 10_000
# Below this share of the square of what resampling adds, a vector is rounding: noise from few texts is about
# as long as what it is the noise of.
_ROUNDING = 1e-3


def cosine(a: TaskEmbedding, b: TaskEmbedding, of: Similarity = "map") -> float:
    """`<W_a, W_b> / (‖W_a‖ ‖W_b‖)`, from -1 to 1, higher is more alike; 0 where one of them is zero, or
    rounding beside its resamples. Of the "inputs": the same for `W Wᵀ`, from 0 to 1. For a plain vector that
    is the square of its cosine. Where one has fewer rows, those that it lacks are zero.

    Raises:
        SpaceError: they live in different spaces.
    """
    return float(cosines(a, [b], of)[0])


def cosines(one: TaskEmbedding, others: Sequence[TaskEmbedding], of: Similarity = "map") -> Doubles:
    """The cosines of one with n others, as by `cosine`: float64 (n,)."""
    one, *others = _comparable([one, *others])
    result = np.zeros(len(others))
    dtype = np.float64 if len(others) < _MANY else np.float32
    mine = _Factors.of([one], dtype)
    for rows in _alike(others):
        theirs = _Factors.of([others[row] for row in rows], dtype)
        result[rows] = _cosines(mine, theirs, of)
    return result


def cosine_matrix(embeddings: Sequence[TaskEmbedding], of: Similarity = "map") -> Doubles:
    """All pairs: float64 (n, n), symmetric, with ones on the diagonal."""
    embeddings = _comparable(embeddings)
    stacked = [(rows, _Factors.of([embeddings[row] for row in rows])) for rows in _alike(embeddings)]
    result = np.zeros((len(embeddings), len(embeddings)))
    for i, one in enumerate(embeddings):
        for rows, theirs in stacked:
            result[i, rows] = _cosines(_Factors.of([one]), theirs, of)
    half = np.triu(result, 1)  # the other differs by a rounding
    return half + half.T + np.eye(len(embeddings))


@dataclass(frozen=True)
class Products:
    """Inner products of one embedding with n others, and how they vary over B bootstrap resamples.

    Attributes:
        inner: (n,), `<W, W_i>`; `one` (scalar) and `others` (n,) are the squares `<W, W>` and `<W_i, W_i>`.
        inner_draws: (n, B), of the resamples; `one_draws` (1, B) and `others_draws` (n, B) their squares.
        one_noise: the mean of `‖W_b − W‖²` over the resamples b; `others_noise` (n,).
        least: what their cosines can be at least: -1, of "inputs" 0.
    """

    inner: Doubles
    one: float
    others: Doubles
    inner_draws: Doubles
    one_draws: Doubles
    others_draws: Doubles
    one_noise: float
    others_noise: Doubles
    least: float = -1.0

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
    one, *others = _comparable([one, *others])
    size = min((len(e.replicates) for e in (one, *others) if len(e.replicates)), default=0)
    mine, my_draws = _Factors.of([one]), _Factors.resampled(one, size)
    shape = (len(others), size)
    inner, squares, noise = np.zeros(shape[0]), np.zeros(shape[0]), np.zeros(shape[0])
    inner_draws, square_draws = np.zeros(shape), np.zeros(shape)
    for row, other in enumerate(others):
        theirs, draws = _Factors.of([other]), _Factors.resampled(other, size)
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
        least=-1.0 if of == "map" else 0.0,
    )


def _spread(whole: _Factors, draws: _Factors, of: Similarity) -> float:
    """The mean over resamples b of `‖W_b − W‖² = ‖W_b‖² − 2 <W_b, W> + ‖W‖²`."""
    return float((draws.squares(of) - 2 * draws.inner(whole, of)).mean() + whole.squares(of)[0])


class _Factors:
    """Factors of n matrices of one shape, a column at a time: `left` (r, n, d) and `right` (r, n or 1, k).
    Whole columns make products of long runs of numbers, several times as fast as n small matrices.
    """

    def __init__(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        self.left, self.right = left, right

    @classmethod
    def of(cls, several: Sequence[TaskEmbedding], dtype: Any = np.float64) -> _Factors:
        """Of embeddings whose factors have one shape."""
        return cls(
            *(
                _columns(np.concatenate(parts).reshape(len(parts), *parts[0].shape), dtype)
                for parts in ([e.left for e in several], [e.right for e in several])
            )
        )

    @classmethod
    def resampled(cls, e: TaskEmbedding, size: int) -> _Factors:
        left = e.replicates[:size] if len(e.replicates) else np.broadcast_to(e.left, (size, *e.left.shape))
        return cls(_columns(left), _columns(e.right[None]))

    def inner(self, other: _Factors, of: Similarity) -> NDArray[Any]:
        """(n,), the inner products of the matrices, one by one."""
        rows = min(self.left.shape[-1], other.left.shape[-1])
        products = _products(self.left[..., :rows], other.left[..., :rows])  # M
        rights = _products(self.right, other.right) if of == "map" else self._gram @ products @ other._gram
        return np.asarray((products * rights).sum(axis=(1, 2)))

    @functools.cached_property
    def _gram(self) -> NDArray[Any]:
        return _products(self.right, self.right)

    def squares(self, of: Similarity) -> NDArray[Any]:
        """(n,), the inner products with themselves."""
        if of not in self._squares:
            self._squares[of] = self.inner(self, of)
        return self._squares[of]

    @functools.cached_property
    def _squares(self) -> dict[Similarity, NDArray[Any]]:
        return {}


def _columns(matrices: NDArray[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """Matrices (n, d, r) as (r, n, d)."""
    return matrices.transpose(2, 0, 1).astype(dtype, order="C")


def _products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The inner products of the columns (r_a, n, d) of n matrices with those (r_b, n, d) of others:
    (n, r_a, r_b).
    """
    return np.asarray(np.vecdot(a[:, None], b[None]).transpose(2, 0, 1))


def _cosines(a: _Factors, b: _Factors, of: Similarity) -> Doubles:
    return _normalised(a.inner(b, of), a.squares(of), b.squares(of))


def _comparable(embeddings: Sequence[TaskEmbedding]) -> list[TaskEmbedding]:
    """The embeddings, with zeros for those that are rounding. Raises SpaceError where they don't live in the
    space of the first.
    """
    for spec in {id(e.spec): e.spec for e in embeddings}.values():
        embeddings[0].spec.check_same(spec)
    return [_zero(e) if len(e.replicates) and _is_rounding(e) else e for e in embeddings]


def _is_rounding(e: TaskEmbedding) -> bool:
    """Whether a few resamples are enough to see that the vector is nothing beside them, as where all answers
    are the same: what is left of zero then points anywhere.
    """
    left = e.left.astype(np.float64)
    few = e.replicates[:8].astype(np.float64) - left
    return bool((left**2).sum() < _ROUNDING * (few**2).sum() / len(few))


def _zero(e: TaskEmbedding) -> TaskEmbedding:
    return replace(e, left=np.zeros_like(e.left), replicates=np.zeros_like(e.replicates))


def _alike(embeddings: Sequence[TaskEmbedding]) -> Iterator[list[int]]:
    """The rows of those whose factors have one shape, some at a time."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for row, e in enumerate(embeddings):
        groups[e.left.shape, e.right.shape].append(row)
    for rows in groups.values():
        for start in range(0, len(rows), _TOGETHER):
            yield rows[start : start + _TOGETHER]


def _normalised(inner: NDArray[Any], square_a: NDArray[Any], square_b: NDArray[Any]) -> Doubles:
    scale = np.sqrt(np.maximum(square_a, 0) * np.maximum(square_b, 0))
    result: Doubles = np.divide(inner, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(result, -1, 1)  # rounding can lead past them
