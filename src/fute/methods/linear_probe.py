"""LinearProbe: the task as the linear map from frozen features to the meaning of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.linalg

from fute.core.errors import ConfigError
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats
from fute.methods.base import Embedded, bootstrap_counts
from fute.surrogates.features import Features


@dataclass(frozen=True)
class LinearProbe:
    """Ridge regression in closed form, from features of the inputs to embeddings of the labels.

    `W = (ΦᵀΦ/n + λI)⁻¹ Φᵀ(Ψ − Ψ̄)/n`, where Φ (n, d) are frozen features of the inputs, `Ψ = P E` (n, k)
    the expected label embeddings under the class probabilities P (n, C), and E (C, k) the features of the
    label names. So `W = A Eᵀ` with `A = (ΦᵀΦ/n + λI)⁻¹ Φᵀ(P − P̄)/n` (d, C): kept as these factors.
    Nothing is trained, the order of the labels doesn't matter, and the bootstrap is exact.

    Attributes:
        regularisation: λ > 0, relative to features of length 1.
        replicates: number B of bootstrap resamples, for intervals; 0 for none.

    Source: this project (docs/decisions.md); ridge regression: Hoerl & Kennard 1970,
    doi:10.1080/00401706.1970.10488634.
    """

    name: ClassVar[str] = "linear-probe"
    defining: ClassVar[tuple[str, ...]] = ("regularisation",)

    regularisation: float = 0.1
    replicates: int = 100

    def __post_init__(self) -> None:
        if self.regularisation <= 0 or self.replicates < 0:
            raise ConfigError(
                "linear-probe needs regularisation > 0 and replicates ≥ 0",
                found=f"regularisation {self.regularisation}, replicates {self.replicates}",
            )

    def embed(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Embedded:
        phi = features(examples.inputs, progress).astype(np.float64)
        targets = examples.probabilities.astype(np.float64)
        left = ridge(phi, targets, np.ones(len(phi)), self.regularisation)
        counts = bootstrap_counts(len(phi), self.replicates, seed)
        resampled = [ridge(phi, targets, weight, self.regularisation) for weight in counts]
        return Embedded(
            left=left,
            right=np.ascontiguousarray(features.of_texts(examples.labels).T),
            replicates=np.array(resampled, dtype=np.float16).reshape(self.replicates, *left.shape),
        )


def ridge(phi: np.ndarray, targets: np.ndarray, weights: np.ndarray, regularisation: float) -> Floats:
    """`(ΦᵀDΦ/n + λI)⁻¹ ΦᵀD(P − P̄)/n` with D = diag(weights), n = Σ weights and P̄ the weighted mean.

    Args:
        phi: float64 (n, d).
        targets: float64 (n, C).
        weights: (n,), how often each row counts.
        regularisation: λ.

    Returns:
        float32 (d, C).
    """
    n = weights.sum()
    weighted = phi * weights[:, None]
    gram = weighted.T @ phi / n
    gram[np.diag_indices_from(gram)] += regularisation
    moment = weighted.T @ (targets - weights @ targets / n) / n
    return np.asarray(scipy.linalg.solve(gram, moment, assume_a="pos"), dtype=np.float32)
