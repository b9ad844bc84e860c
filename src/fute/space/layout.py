"""A 2-D layout of a space: t-SNE on cosine distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fute.core.types import TaskEmbedding
from fute.space.similarity import cosine_matrix

_FEWEST_FOR_TSNE = 5


def layout(embeddings: Sequence[TaskEmbedding], seed: int = 0) -> NDArray[np.float64]:
    """Places (n, 2), the same at every call: `layout_of` their cosines; of no embeddings none."""
    return layout_of(cosine_matrix(embeddings), seed) if embeddings else np.empty((0, 2))


def layout_of(cosines: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Places (n, 2) from the cosines of all pairs (n, n): t-SNE from a classical-scaling start.

    Distances are `√(2 − 2 cos)`, those of the vectors scaled to length 1. Below five points t-SNE has
    nothing to do, and classical scaling is the layout.

    Source: van der Maaten & Hinton 2008, jmlr.org/papers/v9/vandermaaten08a.html.
    """
    n = len(cosines)
    squared = _squared_distances(cosines)
    start = _classical_scaling(squared)
    if n < _FEWEST_FOR_TSNE:
        return start
    from sklearn.manifold import TSNE

    spread = start.std(axis=0)[0]
    tsne = TSNE(
        metric="precomputed",
        init=start / (spread if spread > 0 else 1) * 1e-4,  # scikit-learn's own scale for a given start
        perplexity=min(30.0, (n - 1) / 3),
        random_state=seed,
    )
    return np.asarray(tsne.fit_transform(np.sqrt(squared)), dtype=np.float64)


class Faith(NamedTuple):
    """How far a layout can be trusted, each 0 to 1, higher is better.

    Attributes:
        trustworthiness: 1 less a penalty for points that are near on the map only, by how far away they are
            in the space (Venna & Kaski 2001, doi:10.1007/3-540-44668-0_68).
        neighbour_recall: the share of the k nearest in the space that are among the k nearest on the map.
        k: how many neighbours.
    """

    trustworthiness: float
    neighbour_recall: float
    k: int


def faith(cosines: NDArray[np.float64], places: NDArray[np.float64], k: int = 5) -> Faith:
    """How faithful places (n, 2) are to the cosines (n, n) of a space, by distances as in `layout_of`; k is
    less where there are fewer than 2 k + 1 embeddings. At least three of them.
    """
    from sklearn.manifold import trustworthiness

    k = min(k, (len(cosines) - 1) // 2)
    far = np.sqrt(_squared_distances(cosines))
    flat = np.linalg.norm(places[:, None] - places[None], axis=2)
    both = [np.argsort(d + np.diag(np.full(len(d), np.inf)), axis=1)[:, :k] for d in (far, flat)]
    shared = [len(set(a) & set(b)) / k for a, b in zip(*both, strict=True)]
    np.fill_diagonal(far, 0)  # rounding may leave more
    trust = trustworthiness(far, places, n_neighbors=k, metric="precomputed")
    return Faith(float(trust), float(np.mean(shared)), k)


def _squared_distances(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(2 - 2 * cosines, 0))


def _classical_scaling(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best flat map of squared distances (n, n) in the sense of Torgerson 1952: (n, 2)."""
    n = len(squared)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ squared @ centre)
    top = np.argsort(values)[::-1][:2]
    places = vectors[:, top] * np.sqrt(np.maximum(values[top], 0))
    places *= np.sign(
        places[np.abs(places).argmax(axis=0), range(places.shape[1])]
    )  # eigenvectors have no sign
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
