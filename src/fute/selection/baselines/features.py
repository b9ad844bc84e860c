"""How well a model's features tell the target's labels apart: for white boxes, whose states can be read.
LEEP alone asks for no more than a classifier's answers.

Features Φ (n, d) are what a source model makes of the target's n rows; labels (n,) are theirs, numbers or
words. Every function gives one score, higher is better, and raises `DataError` for features or labels that
don't fit together or aren't finite, and for fewer than two classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import ArrayLike, NDArray

from fute.core.errors import ConfigError, DataError

Doubles = NDArray[np.float64]
_RATIOS = np.logspace(-10, 10, 41)  # α/β that LogME looks at first, relative to the largest eigenvalue
_LAMBDAS = np.logspace(-4, 1, 16)  # that the linear probe chooses from, relative to the features' variance
_ROWS = 1024  # whose similarities to all others are held at once


def layer_mean(layers: Sequence[ArrayLike]) -> Doubles:
    """The mean of the features (n, d) of a model's layers, to be scored in place of the last layer's.

    Returns:
        float64 (n, d).

    Source: Garbas, Ploner & Akbik 2024, doi:10.18653/v1/2024.findings-acl.757.
    """
    made = [_features(layer) for layer in layers]
    shapes = sorted({layer.shape for layer in made})
    if len(shapes) != 1:
        found = ", ".join(map(str, shapes)) or "no layers"
        raise DataError("layers must have features of one shape", found=found)
    mean: Doubles = np.mean(made, axis=0)
    return mean


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
    """LogME: `(1/n) max_{α,β} log p(y | Φ, α, β)`, in nats a row; the mean over one-hot columns y.

    `y ~ N(0, I/β + ΦΦᵀ/α)`: a linear model with weights ~ N(0, I/α) and noise 1/β. Given t = α/β the best β
    is `n / yᵀ(I + ΦΦᵀ/t)⁻¹y`, so only t is searched for, after one singular value decomposition: the best of
    41, and then the best between its neighbours. The papers' fixed point climbs to the same maximum, unless
    there are several: then it may stop at a lower one. t stays within 10^±10 of the largest σ², since the
    evidence has no maximum where y is linear in Φ without any error.

    Args:
        features: (n, d); neither their scale nor a rotation matters.
        labels: (n,); or targets (n, c) that are numbers, such as one column of scores.

    Source: You et al. 2021, arXiv:2102.11005; You et al. 2022 (the fast fixed point), arXiv:2110.10545.
    """
    phi = _features(features)
    y = _columns(labels, len(phi))
    n, d = phi.shape
    if n > 2 * d:  # a rotation of the rows changes nothing: the few that it leaves are all there is to say
        turned: Doubles = np.asarray(np.linalg.qr(np.hstack([phi, y]), mode="r"))
        phi, y = turned[:, :d], turned[:, d:]
    u, sigma, _ = scipy.linalg.svd(phi, full_matrices=False)
    return _mean_evidence(sigma**2, u, y, n)


def log_me_of_kernel(kernel: ArrayLike, labels: ArrayLike) -> float:
    """`log_me` of features of which no more is known than their products, `K = ΦΦᵀ`.

    Args:
        kernel: (n, n), symmetric; what rounding leaves below 0 of its eigenvalues is 0.
        labels: as for `log_me`.
    """
    k = _features(kernel)
    if k.shape[0] != k.shape[1] or not np.allclose(k, k.T, atol=1e-6 * np.abs(k).max()):
        raise DataError("a kernel is square and symmetric", found=f"shape {k.shape}")
    squares, u = scipy.linalg.eigh(k)
    return _mean_evidence(np.maximum(squares[::-1], 0), u[:, ::-1], _columns(labels, len(k)), len(k))


def _columns(labels: ArrayLike, n: int) -> Doubles:
    given = np.asarray(labels)
    return _targets(given, n) if given.ndim == 2 else _one_hot(given, n)


def _mean_evidence(squares: Doubles, u: Doubles, y: Doubles, n: int) -> float:
    """The mean over columns y of the greatest evidence, given features of n rows by their singular vectors u
    and the squares of their singular values, the largest first.
    """
    if squares[0] == 0:
        raise DataError("all features are 0")
    along = (u.T @ y) ** 2  # of each column, in each direction of the features
    outside = np.maximum((y**2).sum(axis=0) - along.sum(axis=0), 0)
    return float(np.mean([_evidence(squares, *column, n) for column in zip(along.T, outside, strict=True)]))


def _evidence(squares: Doubles, along: Doubles, outside: float, n: int) -> float:
    """The greatest log evidence a row of one column: σ² (r,), its squared coordinates (r,), and its squared
    length outside of the features.
    """

    def loss(log_t: float) -> float:
        t = np.exp(log_t)
        noise = ((along * t / (squares + t)).sum() + outside) / n  # 1/β
        return float(np.log1p(squares / t).sum() / n + np.log(2 * np.pi * noise) + 1) / 2

    starts = np.log(_RATIOS * squares.max())
    best = int(np.argmin([loss(start) for start in starts]))
    around = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    found = scipy.optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6})
    return -min(float(found.fun), loss(starts[best]))


def h_score(features: ArrayLike, labels: ArrayLike, *, shrinkage: bool = False) -> float:
    """H-score: `tr(cov(Φ)⁻¹ cov(E[Φ | y]))`, 0 to C − 1 for C classes: the share of the variance that lies
    between classes, summed over the features' directions.

    With shrinkage `(1 − a) tr(cov_a(Φ)⁻¹ cov(E[Φ | y]))`, `cov_a = (1 − a) cov(Φ) + a tr(cov(Φ))/d I`, a by
    Ledoit and Wolf. It is the one to take unless there are many more rows than features. Covariances are
    means over n.

    Args:
        features: (n, d).
        labels: (n,).
        shrinkage: whether the covariance is shrunk.

    Raises:
        DataError: also n ≤ d without shrinkage: then it is C − 1 for any features.

    Source: Bao et al. 2019, doi:10.1109/ICIP.2019.8803726; shrinkage: Ibrahim, Ponomareva & Mazumder 2022,
    arXiv:2110.06893.
    """
    phi = _features(features)
    y = _one_hot(labels, len(phi))
    n, d = phi.shape
    centred = phi - phi.mean(axis=0)
    if shrinkage:
        from sklearn.covariance import ledoit_wolf  # brings pandas, which the command line starts without

        shrunk, a = ledoit_wolf(centred, assume_centered=True)
        sums = y.T @ centred
        between = (sums * scipy.linalg.solve(shrunk, sums.T, assume_a="pos").T).sum(axis=1)
        return float((1 - a) * (between / y.sum(axis=0)).sum() / n)
    if n <= d:
        raise DataError(
            "the plain H-score needs more rows than features",
            found=f"{n} rows of {d} features",
            fix="use shrinkage=True",
        )
    u, sigma, _ = scipy.linalg.svd(centred, full_matrices=False)
    varies = sigma > sigma[0] * n * np.finfo(float).eps  # other directions have no say
    u = u[:, varies]
    return float((((y.T @ u) ** 2).sum(axis=1) / y.sum(axis=0)).sum())


def knn_accuracy(features: ArrayLike, labels: ArrayLike, k: int = 5) -> float:
    """The share of rows that get their own label by the vote of their k nearest others, 0 to 1.

    Near is a high cosine; of equally near rows the earlier is taken. Where m labels have most votes, and the
    right one is among them, the row counts 1/m.

    Args:
        features: (n, d), no row of zeros.
        labels: (n,).
        k: number of neighbours, 1 to n − 1.

    Source: Puigcerver et al. 2021, arXiv:2009.13239.
    """
    phi = _features(features)
    y = _one_hot(labels, len(phi))
    if not 1 <= k < len(phi):
        raise ConfigError("k must leave each row k others", expected=f"1 to {len(phi) - 1}", found=str(k))
    lengths = np.linalg.norm(phi, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise DataError("a row of zeros has no cosine", found=f"row {int(np.argmin(lengths))} (from 0)")
    unit = phi / lengths
    right = 0.0
    for start in range(0, len(unit), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(unit)))
        near = unit[rows] @ unit.T
        near[np.arange(len(rows)), rows] = -np.inf
        votes = y[np.argsort(-near, axis=1, kind="stable")[:, :k]].sum(axis=1)
        most = votes == votes.max(axis=1, keepdims=True)
        right += float(((most * y[rows]).sum(axis=1) / most.sum(axis=1)).sum())
    return right / len(unit)


def linear_probe_accuracy(features: ArrayLike, labels: ArrayLike) -> float:
    """The share of rows whose label a linear probe fitted to all others finds, 0 to 1.

    Ridge regression of the one-hot labels with an intercept, `argmin_{W,b} ‖Y − ΦW − b‖² + n λ v ‖W‖²`, v the
    features' total variance. Rows are left out one by one in closed form: the residual of row i is then
    `r_i / (1 − h_ii)`, h its leverage. λ is the one of 16 from 10⁻⁴ to 10 that makes the squares of these
    residuals least.

    Args:
        features: (n, d).
        labels: (n,).

    Source: Allen 1974 (leaving out), doi:10.1080/00401706.1974.10489157; probes as a proxy for transfer:
    Renggli et al. 2022, arXiv:2010.06402.
    """
    phi = _features(features)
    y = _one_hot(labels, len(phi))
    n = len(phi)
    u, sigma, _ = scipy.linalg.svd(phi - phi.mean(axis=0), full_matrices=False)
    if sigma[0] == 0:
        raise DataError("all rows have the same features")
    mean = y.mean(axis=0)
    coordinates = u.T @ (y - mean)
    fits = []
    for value in _LAMBDAS:
        kept = sigma**2 / (sigma**2 + value * (sigma**2).sum())
        leverage = 1 / n + (u**2 @ kept)[:, None]
        residual = (y - mean - u @ (kept[:, None] * coordinates)) / (1 - leverage)
        fits.append((float((residual**2).sum()), residual))
    predicted = y - min(fits, key=lambda fit: fit[0])[1]
    return float((predicted.argmax(axis=1) == y.argmax(axis=1)).mean())


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """LEEP: `(1/n) Σ_i log Σ_z p(y_i | z) p_iz`, in nats, at most 0: how probable the labels are to one who
    sees only a model's answers z, whatever its labels are called.

    `p(y | z) = Σ_i [y_i = y] p_iz / Σ_i p_iz`, from the same rows.

    Args:
        probabilities: (n, Z), what the model answers, rows sum to 1.
        labels: (n,), the target's.

    Source: Nguyen et al. 2020, arXiv:2002.12462, equations 1 and 2.
    """
    p = _features(probabilities)
    y = _one_hot(labels, len(p))
    total = p.sum(axis=0)
    of_label = np.divide(y.T @ p, total, out=np.zeros((y.shape[1], len(total))), where=total > 0)  # (C, Z)
    return float(np.log((y @ of_label * p).sum(axis=1)).mean())


def _features(features: ArrayLike) -> Doubles:
    try:
        phi = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("features must be numbers", found=str(error)) from None
    if phi.ndim != 2 or phi.shape[0] < 2 or phi.shape[1] < 1:
        raise DataError(
            "features must be a matrix",
            expected="(rows, features), at least two rows",
            found=f"shape {phi.shape}",
        )
    if not np.isfinite(phi).all():
        row = int(np.flatnonzero(~np.isfinite(phi).all(axis=1))[0])
        raise DataError("features must be finite numbers", found=f"NaN or infinity in row {row} (from 0)")
    return phi


def _one_hot(labels: ArrayLike, n: int) -> Doubles:
    """Labels (n,) as columns, one for each class in order: (n, C)."""
    given = np.asarray(labels)
    if given.shape != (n,):
        raise DataError(
            "there must be one label a row", expected=f"shape ({n},)", found=f"shape {given.shape}"
        )
    missing = [label is None or label != label for label in given.tolist()]
    if any(missing):
        raise DataError(
            "a label is missing", found=f"{given[missing.index(True)]} in row {missing.index(True)}"
        )
    classes, number = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise DataError("labels of one class can't be told apart", found=f"{given[0]} only")
    return np.eye(len(classes))[number]


def _targets(targets: NDArray[np.generic], n: int) -> Doubles:
    try:
        y = targets.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("targets in columns must be numbers", found=str(error)) from None
    if y.shape[0] != n or y.shape[1] < 1:
        raise DataError(
            "there must be one row of targets a row", expected=f"({n}, c)", found=f"shape {y.shape}"
        )
    if not np.isfinite(y).all() or (y == 0).all(axis=0).any():
        raise DataError("targets must be finite, and no column all 0")
    return y
