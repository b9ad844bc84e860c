"""Similarity of task embeddings, exact, from their factors.

For `W = A Eᵀ`: `<W₁, W₂> = Σ (A₁ᵀA₂) ∘ (E₁ᵀE₂)`, without ever forming W.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fute.core.types import TaskEmbedding

Doubles = NDArray[np.float64]


def cosine(a: TaskEmbedding, b: TaskEmbedding) -> float:
    """`<W_a, W_b> / (‖W_a‖ ‖W_b‖)`, from -1 to 1, higher is more alike; 0 where one of them is zero.

    Raises:
        SpaceError: they live in different spaces.
    """
    a.spec.check_same(b.spec)
    return float(_normalised(_inner(a, b), _inner(a, a), _inner(b, b))[0])


def cosine_matrix(embeddings: Sequence[TaskEmbedding]) -> Doubles:
    """All pairs: float64 (n, n), symmetric, with ones on the diagonal."""
    n = len(embeddings)
    result = np.eye(n)
    for i in range(n):
        for j in range(i):
            result[i, j] = result[j, i] = cosine(embeddings[i], embeddings[j])
    return result


def replicate_cosines(a: TaskEmbedding, b: TaskEmbedding) -> Doubles:
    """The cosine in each bootstrap resample: float64 (B,), B the smaller number of replicates.

    Resample i of `a` meets resample i of `b`. An embedding without replicates (B = 0) stands still.
    """
    a.spec.check_same(b.spec)
    counts = [len(e.replicates) for e in (a, b) if len(e.replicates)]
    size = min(counts, default=0)
    lefts = [
        e.replicates[:size].astype(np.float64)
        if len(e.replicates)
        else np.broadcast_to(e.left.astype(np.float64), (size, *e.left.shape))
        for e in (a, b)
    ]
    inner = _batched_inner(lefts[0], lefts[1], a, b)
    return _normalised(
        inner, _batched_inner(lefts[0], lefts[0], a, a), _batched_inner(lefts[1], lefts[1], b, b)
    )


def _inner(a: TaskEmbedding, b: TaskEmbedding) -> Doubles:
    return _batched_inner(a.left.astype(np.float64)[None], b.left.astype(np.float64)[None], a, b)


def _batched_inner(left_a: Doubles, left_b: Doubles, a: TaskEmbedding, b: TaskEmbedding) -> Doubles:
    products = np.matmul(left_a.transpose(0, 2, 1), left_b)  # (B, r_a, r_b)
    answers = a.right.astype(np.float64).T @ b.right.astype(np.float64)  # (r_a, r_b)
    return np.asarray((products * answers).sum(axis=(1, 2)))


def _normalised(inner: Doubles, square_a: Doubles, square_b: Doubles) -> Doubles:
    scale = np.sqrt(np.maximum(square_a, 0) * np.maximum(square_b, 0))
    result: Doubles = np.divide(inner, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(result, -1, 1)  # rounding can lead past them
