"""LinearProbe: the task as the linear map from frozen features to the meaning of the answer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fute.core.errors import ConfigError, listing
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats, Input
from fute.methods.base import LONGEST, Embedded, bootstrap_counts
from fute.surrogates.features import Features

Weights = NDArray[Any]
Doubles = NDArray[np.float64]
_PAIRS = ("both", "relation", "joint")
_LAMBDAS = tuple(np.logspace(-4, 1, 16))  # that leave-one-out chooses from
# Answers in free text span as many directions as there are features: W keeps its strongest, to stay small.
_TEXT_RANK = 16
_SAME = 1e-6
_MOST_KEPT = 2 << 30  # bytes of the factors of resamples, which take longer than all else


@dataclass(frozen=True)
class LinearProbe:
    """Ridge regression in closed form, from features of the inputs to embeddings of the labels.

    `W = (ΦᵀΦ/n + λI)⁻¹ Φᵀ(Ψ − Ψ̄)/n`, where Φ (n, d) are frozen features of the inputs, `Ψ = P E` (n, k)
    the expected label embeddings under the class probabilities P (n, C), and E (C, k) the features of the
    label names. So `W = A Eᵀ` with `A = (ΦᵀΦ/n + λI)⁻¹ Φᵀ(P − P̄)/n` (d, C): kept as these factors.
    A score is one column, named by its label. For texts and spans Ψ is the features of the answers, and W
    keeps its 16 strongest directions; with very many labels, as many as fit into 64 KiB. Nothing is trained,
    the order of the labels doesn't matter, and the bootstrap is exact. Of answers that are all the same W is
    exactly 0.

    Attributes:
        regularisation: λ > 0, relative to features of length 1; or "loo": that of 16 from 10⁻⁴ to 10 whose
            leave-one-out error `(1/n) Σ_i ‖r_i / (1 − h_ii)‖²` is least, with residuals r and leverages h.
        layer: of the surrogate, whose states features are made of: -1 is the last, 0 the embeddings; or
            "mean": the mean of all but the embeddings.
        pooling: "mean" over a text's tokens, its "first" token (BERT's [CLS]) or its "last".
        pairs: features of two texts a and b. "both": those of the pair, and below them those of b alone,
            `[φ(ab); φ(b)]`, Φ (n, 2 d), so that W tells what the answer owes to the second. "relation": these
            and `|φ(a) − φ(b)|` and `√d φ(a) ∘ φ(b)`, Φ (n, 4 d), as Conneau et al. 2017 do,
            doi:10.18653/v1/D17-1070. "joint": those of the pair only. A single text has zeros but in the
            first.
        replicates: number B of bootstrap resamples, for intervals; 0 for none.

    Source: this project (docs/decisions.md); ridge regression: Hoerl & Kennard 1970,
    doi:10.1080/00401706.1970.10488634.
    """

    name: ClassVar[str] = "linear-probe"
    defining: ClassVar[tuple[str, ...]] = ("regularisation", "layer", "pooling", "pairs")

    regularisation: float | str = field(default=0.1, metadata={"words": ("loo",)})
    layer: int | str = field(default=-1, metadata={"words": ("mean",)})
    pooling: str = "mean"
    pairs: str = "both"
    replicates: int = 100

    def __post_init__(self) -> None:
        if self.pairs not in _PAIRS:
            raise ConfigError(
                f"linear-probe: `pairs` is {self.pairs!r}", expected=f"one of {listing(_PAIRS)}"
            )
        if isinstance(self.layer, str) and self.layer != "mean":
            raise ConfigError(f"linear-probe: `layer` is {self.layer!r}", expected='a number, or "mean"')
        given = self.regularisation
        good = given == "loo" if isinstance(given, str) else 0 < given < np.inf
        if not good or self.replicates < 0:
            raise ConfigError(
                'linear-probe needs regularisation > 0 and finite, or "loo", and replicates ≥ 0',
                found=f"regularisation {self.regularisation}, replicates {self.replicates}",
            )

    def check(self, features: Features) -> None:
        """Raise ConfigError where the surrogate has no such layer, or no such pooling is known."""
        own = self._own(features)
        if self.layer != -1:
            own.of_texts(["a"])

    def _own(self, features: Features) -> Features:
        return features.at(None if isinstance(self.layer, str) else self.layer, self.pooling)

    def embed(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Embedded:
        features = self._own(features)
        phi = self._features(features, examples.inputs, progress)
        named = examples.output in ("class", "score")
        answers = _centred(examples.probabilities if named else features.of_texts(examples.texts))
        chosen = self._lambda(phi, answers)
        if named:
            targets, right = answers, np.ascontiguousarray(features.of_texts(examples.labels).T)
        else:
            targets, right = _strongest_answers(phi, answers, chosen)
        exact, factor = _prepared(_Rows(phi), chosen)
        moment = _moment(exact, targets.astype(np.float64), np.ones(len(phi)))
        left = scipy.linalg.cho_solve((factor, True), moment).astype(np.float32)
        turn = np.eye(left.shape[1], dtype=np.float32)
        if left.nbytes + right.nbytes > LONGEST:
            left, right, turn = strongest(left, right, LONGEST // (4 * (len(left) + len(right))))
        # Matrices this small are fastest on one thread, and many times slower where two fight for a core.
        with threadpool_limits(limits=1, user_api="blas"):
            resampled = [
                scipy.linalg.cho_solve((factor, True), _moment(phi, targets, weights)) @ turn
                for weights, factor in _resamples(_Rows(phi), self.replicates, seed, chosen)
            ]
        replicates = np.array(resampled, dtype=np.float32).reshape(self.replicates, *left.shape)
        # Float16 holds nothing below 6e-8. By a power of two, so that W stays the same to the last bit.
        largest = max(np.abs(left).max(), np.abs(replicates).max(initial=0))
        unit = np.float32(2.0 ** np.frexp(largest)[1])
        return Embedded(
            left / unit, right * unit, (replicates / unit).astype(np.float16), {"regularisation": chosen}
        )

    def _features(self, features: Features, inputs: Sequence[Input], progress: Progress) -> Floats:
        joint = features(inputs, progress)
        rows = [row for row, item in enumerate(inputs) if item.text_pair is not None]
        if self.pairs == "joint" or not rows:
            return joint
        n, d = joint.shape
        phi = np.zeros((n, 2 * d if self.pairs == "both" else 4 * d), dtype=np.float32)
        phi[:, :d] = joint
        second = features.of_texts([str(inputs[row].text_pair) for row in rows])
        phi[rows, d : 2 * d] = second
        if self.pairs == "relation":
            first = features.of_texts([inputs[row].text for row in rows])
            phi[rows, 2 * d :] = np.hstack([np.abs(first - second), np.sqrt(d) * first * second])
        return phi

    def _lambda(self, phi: Floats, answers: Floats) -> float:
        if not isinstance(self.regularisation, str):
            return float(self.regularisation)
        return float(_LAMBDAS[int(np.argmin(leave_one_out(phi, answers, _LAMBDAS)))])


def _centred(answers: Floats) -> Floats:
    """Less their mean, which W doesn't see, so that no rounding of it is left; and zeros where all answers
    are the same, to a millionth: nothing can be said of what they depend on.
    """
    spread = np.ptp(answers, axis=0).max()
    if spread <= _SAME * np.abs(answers).max():
        return np.zeros_like(answers)
    return np.asarray(answers - answers.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _strongest_answers(phi: Floats, answers: Floats, regularisation: float) -> tuple[Floats, Floats]:
    """The features of answers in free text (n, k), along the directions in which W is strongest: what is
    regressed on (n, r), and the directions (k, r).
    """
    weights = ridge(phi, answers, np.ones(len(phi)), regularisation)
    axes = np.linalg.svd(weights, full_matrices=False)[2][:_TEXT_RANK].T
    return answers @ axes, np.ascontiguousarray(axes, dtype=np.float32)


def strongest(left: Floats, right: Floats, rank: int) -> tuple[Floats, Floats, Floats]:
    """The best approximation of `W = left @ right.T` of this rank, by its singular values.

    Returns:
        left (d, rank), right (k, rank) with orthonormal columns, and the (r, rank) matrix by which other
        left factors (d, r) go along: `left = old_left @ turn`.
    """
    q, upper = np.linalg.qr(right)
    axes = q @ np.linalg.svd(left @ upper.T, full_matrices=False)[2][:rank].T
    turn = right.T @ axes
    return left @ turn, np.ascontiguousarray(axes), turn


def ridge(phi: Floats, targets: Floats, weights: Weights, regularisation: float) -> Floats:
    """`(ΦᵀDΦ/n + λI)⁻¹ ΦᵀD(P − P̄)/n` with D = diag(weights), n = Σ weights and P̄ the weighted mean.

    Args:
        phi: (n, d).
        targets: (n, C).
        weights: (n,), how often each row counts.
        regularisation: λ.

    Returns:
        float32 (d, C), computed in float64.
    """
    phi, targets = phi.astype(np.float64), targets.astype(np.float64)
    gram = _gram(phi, weights, regularisation)
    solution = scipy.linalg.solve(gram, _moment(phi, targets, weights), assume_a="pos")
    return np.asarray(solution, dtype=np.float32)


def leave_one_out(phi: Floats, targets: Floats, lambdas: Sequence[float]) -> Doubles:
    """For each λ `(1/n) Σ_i ‖(p_i − P̄ − p̂_i) / (1 − h_ii)‖²`: the squared error of predicting each row from
    all others, without refitting, where `H = Φ(ΦᵀΦ + nλI)⁻¹Φᵀ` and `p̂ = H(P − P̄)`.

    Args:
        phi: (n, d).
        targets: (n, C).
        lambdas: (L,), positive.

    Returns:
        float64 (L,).

    Source: Allen 1974 (PRESS), doi:10.1080/00401706.1974.10489157.
    """
    phi, targets = phi.astype(np.float64), targets.astype(np.float64)
    targets = targets - targets.mean(axis=0)
    values, vectors = np.linalg.eigh(phi.T @ phi / len(phi))
    turned = phi @ vectors / np.sqrt(len(phi))  # H = turned diag(1 / (values + λ)) turnedᵀ
    moment = turned.T @ targets
    errors = []
    for value in lambdas:
        scale = 1 / (values + value)
        leverages = turned**2 @ scale
        residuals = targets - turned @ (scale[:, None] * moment)
        errors.append(((residuals / (1 - leverages)[:, None]) ** 2).sum(axis=1).mean())
    return np.array(errors)


def _gram(phi: NDArray[Any], weights: Weights, regularisation: float) -> NDArray[Any]:
    gram: NDArray[Any] = (phi * weights[:, None].astype(phi.dtype)).T @ phi / phi.dtype.type(weights.sum())
    gram[np.diag_indices_from(gram)] += regularisation
    return gram


def _factor(phi: NDArray[Any], weights: Weights, regularisation: float) -> NDArray[Any]:
    """The Cholesky factor (d, d) of the Gram matrix. Raises ConfigError where λ is lost in its rounding."""
    try:
        return np.asarray(scipy.linalg.cholesky(_gram(phi, weights, regularisation), lower=True))
    except np.linalg.LinAlgError as error:
        raise ConfigError(
            f"the method linear-probe: `regularisation: {regularisation:g}` is too small for these texts",
            found=str(error),
            fix="take a larger one, such as 0.001",
        ) from error


def _moment(phi: NDArray[Any], targets: NDArray[Any], weights: Weights) -> NDArray[Any]:
    shares = (weights / weights.sum()).astype(phi.dtype)
    moment: NDArray[Any] = phi.T @ (shares[:, None] * (targets - shares @ targets))
    return moment


class _Rows:
    """Rows of features as a key: equal where their contents are."""

    def __init__(self, phi: Floats) -> None:
        self.phi = phi

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rows):
            return False
        return self.phi is other.phi or np.array_equal(self.phi, other.phi)

    def __hash__(self) -> int:
        return hash(self.phi.shape)


@functools.lru_cache(maxsize=2)
def _prepared(rows: _Rows, regularisation: float) -> tuple[Doubles, Doubles]:
    """The rows in float64, and the Cholesky factor (d, d) of their Gram matrix: every model on one U has the
    same.
    """
    phi = rows.phi.astype(np.float64)
    return phi, _factor(phi, np.ones(len(phi)), regularisation)


def _resamples(
    rows: _Rows, replicates: int, seed: int, regularisation: float
) -> Iterable[tuple[Weights, Floats]]:
    """For each resample its counts (n,) and the Cholesky factor (d, d) of its Gram matrix: every model on
    one U has the same, so they are kept, unless they are too large.
    """
    is_small = replicates * rows.phi.shape[1] ** 2 * rows.phi.itemsize <= _MOST_KEPT
    return (_kept if is_small else _made)(rows, replicates, seed, regularisation)


def _made(rows: _Rows, replicates: int, seed: int, regularisation: float) -> Iterator[tuple[Weights, Floats]]:
    for weights in bootstrap_counts(len(rows.phi), replicates, seed):
        yield weights, _factor(rows.phi, weights, regularisation)


@functools.lru_cache(maxsize=1)
def _kept(rows: _Rows, replicates: int, seed: int, regularisation: float) -> list[tuple[Weights, Floats]]:
    return list(_made(rows, replicates, seed, regularisation))
