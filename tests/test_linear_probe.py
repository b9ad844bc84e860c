"""LinearProbe against scikit-learn's Ridge, and what must not change its vector."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fute.core.errors import ConfigError
from fute.core.types import Examples, Input
from fute.methods.base import bootstrap_counts
from fute.methods.linear_probe import LinearProbe, ridge

from .reviews import REVIEWS


def examples(probabilities=None, labels=("negative", "positive")) -> Examples:
    hard = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
    return Examples(
        [Input(text) for text, _ in REVIEWS], hard if probabilities is None else probabilities, labels
    )


def weighted_random(seed, n=40, d=6, c=3):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, d)),
        rng.dirichlet(np.ones(c), size=n),
        rng.integers(0, 4, size=n).astype(float),
    )


def test_ridge_equals_scikit_learn():
    phi, targets, _ = weighted_random(0)
    ours = ridge(phi, targets, np.ones(len(phi)), 0.3)
    # scikit-learn minimises the sum, we the mean: alpha = n λ
    theirs = Ridge(alpha=0.3 * len(phi), fit_intercept=False).fit(phi, targets - targets.mean(0)).coef_.T
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_weight_counts_like_so_many_copies_of_the_row():
    phi, targets, weights = weighted_random(1)
    copies = np.repeat(np.arange(len(phi)), weights.astype(int))
    plain = ridge(phi[copies], targets[copies], np.ones(len(copies)), 0.1)
    assert ridge(phi, targets, weights, 0.1) == pytest.approx(plain, abs=1e-6)


def test_the_matrix_maps_inputs_to_their_label_names(features):
    made = LinearProbe(regularisation=0.01, replicates=0).embed(examples(), features, seed=0)
    W = made.left @ made.right.T
    phi, names = features([Input(text) for text, _ in REVIEWS]), features.of_texts(["negative", "positive"])
    assert W.shape == (384, 384)
    nearer = (phi @ W @ names.T).argmax(axis=1)
    assert (nearer == [label for _, label in REVIEWS]).mean() > 0.9


def test_the_order_of_the_labels_does_not_matter(features):
    method = LinearProbe(replicates=0)
    one = method.embed(examples(), features, seed=0)
    turned = method.embed(
        examples(examples().probabilities[:, ::-1].copy(), ("positive", "negative")), features, 0
    )
    assert one.left @ one.right.T == pytest.approx(turned.left @ turned.right.T, abs=1e-7)


def test_swapping_which_label_is_which_turns_the_input_side_around(features):
    method = LinearProbe(replicates=0)
    one = method.embed(examples(), features, seed=0)
    opposite = method.embed(examples(examples().probabilities[:, ::-1].copy()), features, seed=0)
    assert opposite.left == pytest.approx(-one.left, abs=1e-6)


def test_constant_answers_give_a_zero_vector(features):
    constant = np.tile(np.array([[0.3, 0.7]], dtype=np.float32), (len(REVIEWS), 1))
    made = LinearProbe(replicates=0).embed(examples(constant), features, seed=0)
    assert np.abs(made.left).max() < 1e-7


def test_replicates_are_fits_on_the_resampled_rows(features):
    made = LinearProbe(replicates=3).embed(examples(), features, seed=5)
    counts = bootstrap_counts(len(REVIEWS), 3, 5)
    phi = features(examples().inputs).astype(float)
    for weight, replicate in zip(counts, made.replicates, strict=True):
        expected = ridge(phi, examples().probabilities.astype(float), weight, 0.1)
        assert replicate == pytest.approx(expected, rel=2e-3, abs=2e-4)  # kept as float16


def test_options_are_checked():
    with pytest.raises(ConfigError, match="regularisation > 0"):
        LinearProbe(regularisation=0.0)
