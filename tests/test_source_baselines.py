"""Baselines that score models and source datasets, each against its definition written out."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from fute.core.errors import ConfigError, DataError, ModelError
from fute.core.types import Examples, Input
from fute.data.dataset import Dataset
from fute.selection.baselines.direct import direct_evaluation, drawn_rows
from fute.selection.baselines.features import (
    h_score,
    knn_accuracy,
    layer_mean,
    leep,
    linear_probe_accuracy,
    log_me,
    log_me_of_kernel,
)
from fute.selection.baselines.sources import LossCurve, curve_grad, data_size, fit_loss_curve
from fute.selection.fusion import reciprocal_rank_fusion
from fute.surrogates.adapters import Nothing
from fute.surrogates.loss_curve import FineTuning, loss_curve

from .helpers import refused
from .reviews import REVIEWS
from .surrogates import make

OF_FEATURES = [log_me, h_score, knn_accuracy, linear_probe_accuracy]


def drawn(seed, n=30, d=5, classes=2, signal=1.0):
    """Features (n, d) whose first columns say something about the labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    phi = rng.normal(size=(n, d)) + signal * np.eye(max(d, classes))[labels][:, :d] + rng.normal(size=d)
    return phi, labels


def one_hot(labels):
    return (np.asarray(labels)[:, None] == np.unique(labels)).astype(float)


# LEEP


def test_leep_by_hand():
    """Of the rows that are answered z = 0 all have label 0, of those with z = 1 half."""
    hard = np.eye(2)[[0, 0, 1, 1]]
    assert leep(hard, ["no", "no", "yes", "no"]) == pytest.approx(2 * np.log(0.5) / 4)
    assert leep(hard, ["yes", "yes", "no", "no"]) == pytest.approx(0), "what the labels are called is nothing"


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(2, 4))
def test_leep_is_its_definition_in_loops(seed, classes, answers):
    rng = np.random.default_rng(seed)
    p, (_, y) = rng.dirichlet(np.ones(answers), 20), drawn(seed, 20, 2, classes)
    total = 0.0
    for i in range(20):
        seen = 0.0
        for z in range(answers):
            together = sum(p[j, z] for j in range(20) if y[j] == y[i])
            seen += together / sum(p[j, z] for j in range(20)) * p[i, z]
        total += np.log(seen)
    assert leep(p, y) == pytest.approx(total / 20)


def test_answers_that_are_never_given_say_nothing():
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0]])
    assert leep(p, [0, 1, 1]) == pytest.approx(leep(p[:, :2], [0, 1, 1]))


# LogME


def greatest_evidence(phi, y):
    """The log density of y under a dense Gaussian, maximised over log α and log β from several starts."""

    def loss(logs):
        alpha, beta = np.exp(logs)
        covariance = np.eye(len(y)) / beta + phi @ phi.T / alpha
        return -multivariate_normal.logpdf(y, cov=covariance, allow_singular=True) / len(y)

    starts = [(0, 0), (4, 1), (-3, 2), (8, 1)]
    bounds = [(-12, 16), (-12, 16)]
    return -min(
        scipy.optimize.minimize(loss, start, method="Nelder-Mead", bounds=bounds, tol=1e-10).fun
        for start in starts
    )


@pytest.mark.parametrize(
    ("n", "d", "classes", "signal"), [(30, 5, 2, 1), (40, 3, 3, 4), (25, 8, 2, 0.3), (14, 8, 2, 0.3)]
)
def test_log_me_is_the_greatest_evidence_of_a_dense_gaussian(n, d, classes, signal):
    phi, labels = drawn(n, n, d, classes, signal)
    expected = np.mean([greatest_evidence(phi, y) for y in one_hot(labels).T])
    assert log_me(phi, labels) == pytest.approx(expected, abs=1e-6)


def papers_log_me(phi, labels, steps=500):
    """The fixed point as the paper writes it, on A = αI + βΦᵀΦ."""
    n, d = phi.shape
    evidences = []
    for y in one_hot(labels).T:
        alpha = beta = 1.0
        for _ in range(steps):
            a = alpha * np.eye(d) + beta * phi.T @ phi
            m = beta * np.linalg.solve(a, phi.T @ y)
            gamma = d - alpha * np.trace(np.linalg.inv(a))
            alpha, beta = gamma / (m @ m), (n - gamma) / ((y - phi @ m) @ (y - phi @ m))
        a = alpha * np.eye(d) + beta * phi.T @ phi
        m = beta * np.linalg.solve(a, phi.T @ y)
        fit = beta / 2 * ((y - phi @ m) @ (y - phi @ m)) + alpha / 2 * (m @ m)
        logs = d / 2 * np.log(alpha) + n / 2 * np.log(beta / 2 / np.pi) - np.linalg.slogdet(a)[1] / 2
        evidences.append((logs - fit) / n)
    return np.mean(evidences)


@pytest.mark.parametrize("seed", range(4))
def test_log_me_is_where_the_papers_fixed_point_ends(seed):
    phi, labels = drawn(seed, 50, 6, 3, 2)
    assert log_me(phi, labels) == pytest.approx(papers_log_me(phi, labels), abs=1e-6)


def test_log_me_finds_the_higher_of_two_maxima_where_the_fixed_point_ends_in_the_lower():
    phi = np.random.default_rng(0).normal(size=(25, 3)) * [0.1, 1, 10]
    labels = (phi[:, 0] > 0).astype(int)
    expected = np.mean([greatest_evidence(phi, y) for y in one_hot(labels).T])
    assert log_me(phi, labels) == pytest.approx(expected, abs=1e-6)
    assert papers_log_me(phi, labels) < expected - 0.01


@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1, 1e3]))
def test_log_me_is_the_same_for_scaled_and_turned_features(seed, scale):
    phi, labels = drawn(seed, 20, 4)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    assert log_me(scale * phi @ turn, labels) == pytest.approx(log_me(phi, labels), abs=1e-6)


def test_log_me_takes_scores_as_columns():
    phi, _ = drawn(0)
    score = phi @ [1.0, -1, 0.5, 0, 0] + 0.1 * np.random.default_rng(1).normal(size=30)
    noise = np.random.default_rng(2).normal(size=30)
    assert log_me(phi, score[:, None]) == pytest.approx(greatest_evidence(phi, score), abs=1e-6)
    both = log_me(phi, np.stack([score, noise], axis=1))
    assert both == pytest.approx((log_me(phi, score[:, None]) + log_me(phi, noise[:, None])) / 2)


@pytest.mark.parametrize("shape", [(30, 4), (12, 40)], ids=["few features", "many"])
def test_log_me_needs_no_more_than_the_products_of_features(shape):
    rng = np.random.default_rng(3)
    phi, labels = rng.normal(size=shape), np.arange(shape[0]) % 3
    score = phi @ rng.normal(size=shape[1]) + rng.normal(size=shape[0])
    for y in (labels, score[:, None]):
        assert log_me_of_kernel(phi @ phi.T, y) == pytest.approx(log_me(phi, y), abs=1e-6)
    rounded = (phi @ phi.T).astype(np.float32)
    assert log_me_of_kernel(rounded, labels) == pytest.approx(log_me(phi, labels), abs=1e-4)


def test_a_kernel_that_is_none_is_refused():
    labels = [0, 1, 0]
    with refused(DataError, "a kernel is square and symmetric", "shape (3, 2)"):
        log_me_of_kernel(np.ones((3, 2)), labels)
    with refused(DataError, "a kernel is square and symmetric"):
        log_me_of_kernel([[1, 2, 3], [0, 1, 2], [0, 0, 1]], labels)
    with refused(DataError, "all features are 0"):
        log_me_of_kernel(np.zeros((3, 3)), labels)


def test_log_me_ends_where_the_fit_is_perfect_and_where_there_is_none():
    _, labels = drawn(0, 40)
    perfect = one_hot(labels)
    none = np.tile([[1.0, 0.0], [-1.0, 0.0]], (20, 1))  # adds up to 0 within each class
    assert np.isfinite(log_me(perfect, labels))
    assert np.isfinite(log_me(none, np.repeat([0, 1], 20)))
    assert log_me(perfect, labels) > 5 > 0 > log_me(none, np.repeat([0, 1], 20))


# H-score


def naive_h_score(phi, labels, covariance):
    means = np.array([phi[labels == label].mean(axis=0) for label in labels])
    between = np.zeros_like(covariance)
    for row in means - phi.mean(axis=0):
        between += np.outer(row, row) / len(phi)
    return np.trace(np.linalg.inv(covariance) @ between)


@pytest.mark.parametrize("classes", [2, 4])
def test_h_score_is_the_trace_of_its_definition(classes):
    phi, labels = drawn(classes, 60, 6, classes)
    covariance = sum(np.outer(row, row) for row in phi - phi.mean(axis=0)) / len(phi)
    assert h_score(phi, labels) == pytest.approx(naive_h_score(phi, labels, covariance))


@pytest.mark.parametrize(("n", "d"), [(60, 6), (20, 50)])
def test_shrunk_h_score_is_the_trace_with_ledoit_wolf(n, d):
    phi, labels = drawn(n, n, d, 3)
    phi = phi * np.linspace(1, 3, d)
    shrunk = LedoitWolf().fit(phi)
    assert 0.01 < shrunk.shrinkage_ < 0.99
    expected = (1 - shrunk.shrinkage_) * naive_h_score(phi, labels, shrunk.covariance_)
    assert h_score(phi, labels, shrinkage=True) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_h_score_ignores_linear_maps_and_lies_between_0_and_the_classes_less_one(seed, classes):
    phi, labels = drawn(seed, 24, 4, classes)
    matrix = np.random.default_rng(seed).normal(size=(4, 4)) + 3 * np.eye(4)
    score = h_score(phi, labels)
    assert 0 <= score <= classes - 1
    assert h_score(phi @ matrix + 7, labels) == pytest.approx(score, rel=1e-5)
    assert h_score(np.hstack([phi, phi[:, :1], np.ones((24, 1))]), labels) == pytest.approx(score)


def test_h_score_reaches_the_classes_less_one_where_they_lie_apart():
    _, labels = drawn(0, 40, 3, 3)
    assert h_score(one_hot(labels), labels) == pytest.approx(2)


def test_the_plain_h_score_of_few_rows_is_refused():
    phi, labels = drawn(0, 20, 20)
    with refused(DataError, "20 rows of 20 features", "shrinkage=True"):
        h_score(phi, labels)
    h_score(phi, labels, shrinkage=True)


# Neighbours and probes


@pytest.mark.parametrize("k", [1, 3, 7])
def test_knn_leaves_out_one_by_one_as_scikit_learn_would(k):
    phi, labels = drawn(k, 50, 4, signal=2)
    right = 0
    for i in range(50):
        others = np.delete(np.arange(50), i)
        model = KNeighborsClassifier(k, metric="cosine").fit(phi[others], labels[others])
        right += model.predict(phi[i : i + 1])[0] == labels[i]
    assert knn_accuracy(phi, labels, k) == pytest.approx(right / 50)
    assert 0.5 < right / 50 < 1


def test_a_knn_vote_that_is_tied_counts_in_part():
    # the two nearest of the first row are b and a; of the second a and a; of the third a and a
    phi = np.array([[1, 0], [1, 0.3], [1, -0.2]])
    assert knn_accuracy(phi, ["a", "a", "b"], k=2) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_knn_in_blocks_of_rows_is_knn(monkeypatch):
    phi, labels = drawn(5, 50, 4)
    whole = knn_accuracy(phi, labels)
    monkeypatch.setattr("fute.selection.baselines.features._ROWS", 7)
    assert knn_accuracy(phi, labels) == whole


def naive_probe(phi, labels):
    y, n = one_hot(labels), len(phi)
    variance = phi.var(axis=0).sum()
    fits = []
    for value in np.logspace(-4, 1, 16):
        predicted = np.empty_like(y)
        for i in range(n):
            others = np.delete(np.arange(n), i)
            # the weight of the penalty stays that of n rows, and so does the scale of the features
            predicted[i] = Ridge(value * variance * n).fit(phi[others], y[others]).predict(phi[i : i + 1])[0]
        fits.append((((predicted - y) ** 2).sum(), (predicted.argmax(axis=1) == y.argmax(axis=1)).mean()))
    return min(fits)[1]


@pytest.mark.parametrize(("n", "d", "classes"), [(30, 4, 2), (24, 40, 2), (40, 5, 3)])
def test_the_linear_probe_is_refitted_without_each_row(n, d, classes):
    phi, labels = drawn(n + d, n, d, classes, 1.5)
    expected = naive_probe(phi, labels)
    assert linear_probe_accuracy(phi, labels) == pytest.approx(expected)
    assert 1 / classes < expected < 1


# What all of them have in common


@pytest.mark.parametrize("score", OF_FEATURES)
def test_better_features_score_higher_whatever_the_labels_are_called(score):
    good, labels = drawn(0, 60, 4, 3, 5)
    bad, _ = drawn(1, 60, 4, 3, 0)
    assert score(good, labels) > score(bad, labels)
    words = np.array(["zebra", "ant", "mole"])[labels]
    assert score(good, words) == pytest.approx(score(good, labels))
    assert score(good, list(words)) == pytest.approx(score(good, labels))


@pytest.mark.parametrize("score", OF_FEATURES)
def test_what_cannot_be_scored_is_refused(score):
    phi, labels = drawn(0, 10, 2)
    hole = phi.copy()
    hole[3, 1] = np.nan
    for features, classes, words in [
        (hole, labels, "row 3"),
        (phi[:, 0], labels, "shape (10,)"),
        (phi[:1], labels[:1], "at least two rows"),
        ([["a", "b"]] * 10, labels, "features must be numbers"),
        (phi, labels[:9], "shape (9,)"),
        (phi, np.zeros(10), "0.0 only"),
        (phi, [*labels[:9].astype(float), np.nan], "row 9"),
        (phi, [*map(str, labels[:9]), None], "row 9"),
        (np.zeros((10, 2)), labels, ""),
    ]:
        if features is not None and np.all(np.asarray(features) == 0) and score is h_score:
            continue  # no variance: nothing lies between the classes
        with refused(DataError, words):
            score(features, classes)


def test_no_features_that_vary_have_no_h_score():
    assert h_score(np.ones((10, 2)), drawn(0, 10)[1]) == 0


def test_options_of_feature_scores_are_refused():
    phi, labels = drawn(0, 10, 2)
    for k in (0, 10):
        with refused(ConfigError, "1 to 9", str(k)):
            knn_accuracy(phi, labels, k)
    with refused(DataError, "one row of targets a row"):
        log_me(phi, np.ones((9, 1)))
    with refused(DataError, "no column all 0"):
        log_me(phi, np.zeros((10, 1)))
    with refused(DataError, "must be numbers"):
        log_me(phi, np.array([["a"]] * 10))


def test_the_mean_over_layers_is_that_of_features():
    layers = [np.array([[0.0, 2.0], [4.0, 6.0]]), np.array([[2.0, 2.0], [0.0, 0.0]])]
    assert np.array_equal(layer_mean(layers), [[1, 2], [2, 3]])
    with refused(DataError, "(2, 2), (3, 2)"):
        layer_mean([np.zeros((2, 2)), np.zeros((3, 2))])
    with refused(DataError, "no layers"):
        layer_mean([])


# Reciprocal rank fusion


def test_reciprocal_rank_fusion_worked_example():
    fused = reciprocal_rank_fusion([[0.9, 0.5, 0.1], [10, 30, 20], [1, 1, 0]])
    expected = [1 / 61 + 1 / 63 + 1 / 61.5, 1 / 62 + 1 / 61 + 1 / 61.5, 1 / 63 + 1 / 62 + 1 / 63]
    assert fused == pytest.approx(expected)
    assert reciprocal_rank_fusion([[2, 1]], constant=0) == pytest.approx([1, 1 / 2])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8, unique=True))
def test_the_fusion_of_one_ranking_is_that_ranking(scores):
    assert np.argsort(reciprocal_rank_fusion([scores])).tolist() == np.argsort(scores).tolist()


def test_what_cannot_be_fused_is_refused():
    with refused(DataError, "shape (2,)"):
        reciprocal_rank_fusion([1, 2])
    with refused(DataError, "candidate 1 of ranking 0"):
        reciprocal_rank_fusion([[1, np.nan]])
    with refused(ConfigError, "-1"):
        reciprocal_rank_fusion([[1, 2]], constant=-1)


# DataSize and CurveGrad


def test_data_size_is_the_number_of_rows():
    inputs = [Input(text) for text, _ in REVIEWS]
    assert data_size(Dataset("reviews", inputs, one_hot([y for _, y in REVIEWS]), ("no", "yes"))) == len(
        REVIEWS
    )


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.05, 200), st.integers(20, 200))
def test_a_loss_curve_without_noise_is_found_again(a, b, c, n):
    steps = np.arange(1, n + 1)
    found = fit_loss_curve(steps, a * np.log(steps + c) + b)
    assert found.fitted
    shares = np.array([0.1, 0.2, 0.3, 0.5, 0.7])
    assert found.gradients() == pytest.approx(a / (shares * n + c), rel=1e-2, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(8, 60), st.sampled_from([0.1, 1, 3]))
def test_no_shift_of_a_grid_fits_a_noisy_curve_much_better(seed, n, spread):
    losses = np.exp(spread * np.random.default_rng(seed).normal(size=n)) + 1 / np.arange(1, n + 1)
    steps = np.arange(1, n + 1)
    found = fit_loss_curve(steps, losses)
    squares = [
        np.linalg.lstsq(np.stack([np.log(steps + c), np.ones(n)], axis=1), losses)[1][0]
        for c in np.logspace(-3, np.log10(100 * n), 60)
    ]
    assert ((found.a * np.log(steps + found.c) + found.b - losses) ** 2).sum() <= 1.05 * min(squares)


def test_the_gradient_of_a_loss_curve_is_its_finite_difference():
    curve = LossCurve(a=-0.4, b=2.0, c=3.0, last=100, fitted=True)
    value = lambda i: curve.a * np.log(i + curve.c) + curve.b  # noqa: E731
    for share, gradient in zip((0.1, 0.2, 0.3, 0.5, 0.7), curve.gradients(), strict=True):
        i = 100 * share
        assert gradient == pytest.approx((value(i + 1e-4) - value(i - 1e-4)) / 2e-4, rel=1e-6)
    assert curve.gradients()[0] == pytest.approx(-0.4 / 13)


def test_a_curve_too_short_to_fit_says_so():
    short = fit_loss_curve([1, 2, 4], [3.0, 2.0, 1.0])
    assert not short.fitted
    assert (short.a, short.b, short.c) == pytest.approx((-1 / np.log(2), 3, 0))


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    def never(*_, **__):
        raise RuntimeError("Optimal parameters not found")

    steps = np.arange(1, 30)
    monkeypatch.setattr("scipy.optimize.curve_fit", never)
    found = fit_loss_curve(steps, 2 - 0.3 * np.log(steps))
    assert not found.fitted
    assert (found.a, found.b, found.c) == pytest.approx((-0.3, 2, 0))


@pytest.mark.parametrize("losses", [np.full(9, 0.7), np.r_[1e200, np.ones(8)], np.linspace(1, 0, 9)])
def test_odd_losses_have_gradients(losses):
    assert np.isfinite(fit_loss_curve(np.arange(1, 10), losses).gradients()).all()


def test_a_source_whose_loss_still_falls_is_better_than_one_that_is_flat():
    steps = np.arange(1, 101)
    soon_flat = 2 - 0.1 * np.log(steps)
    falling = 2 - 0.5 * np.log(steps + 10)
    rising = 1 + 0.2 * np.log(steps)
    curves = [fit_loss_curve(steps, losses) for losses in (soon_flat, falling, rising)]
    assert curve_grad(curves) == pytest.approx([5 / 62, 5 / 61, 5 / 63])


def test_curve_grad_fuses_five_rankings_worked_example():
    # gradients −1/(10 + 1) … against −2/(10 + 30) …: the first is steeper at 10, 20 % only
    early, late = LossCurve(-1, 0, 1, 100, True), LossCurve(-2, 0, 30, 100, True)
    steeper = [1 / (i + 1) > 2 / (i + 30) for i in (10, 20, 30, 50, 70)]
    assert steeper == [True, True, False, False, False]
    expected = [2 / 61 + 3 / 62, 3 / 61 + 2 / 62]
    assert curve_grad([early, late]) == pytest.approx(expected)


def test_curves_that_cannot_be_compared_are_refused():
    with refused(DataError, "10 steps, 20 steps"):
        curve_grad([LossCurve(-1, 0, 0, 20, True), LossCurve(-1, 0, 0, 10, True)])
    with refused(DataError, "no curves"):
        curve_grad([])
    with refused(DataError, "1 of them NaN"):
        fit_loss_curve([1, 2, 3], [1, np.nan, 2])
    with refused(DataError, "shape (3,)", "shape (2,)"):
        fit_loss_curve([1, 2, 3], [1, 2])
    for steps in ([0, 1, 2], [1, 3, 2]):
        with refused(DataError, "rise from 1"):
            fit_loss_curve(steps, [3, 2, 1])


# The loss curve of a surrogate


def reviews(labels=None):
    hard = np.eye(2, dtype=np.float32)[labels if labels is not None else [label for _, label in REVIEWS]]
    return Examples([Input(text) for text, _ in REVIEWS], hard, ("negative", "positive"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make("bert", tmp_path_factory.mktemp("bert"))


def test_the_loss_curve_has_every_step_and_falls(bert):
    schedule = FineTuning(steps=60, batch_size=8, learning_rate=1e-3)
    before = bert.load("float32").state_dict()
    losses = loss_curve(reviews(), bert, schedule)
    assert losses.shape == (60,)
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()
    assert np.array_equal(losses, loss_curve(reviews(), bert, schedule))
    after = bert.load("float32").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert fit_loss_curve(np.arange(1, 61), losses).gradients().max() < 0


def test_the_loss_curve_begins_at_the_loss_of_the_untrained_model(bert):
    """One batch of all rows that are trained on: the first loss is the mean of theirs at the start."""
    from fute.surrogates.frozen import Frozen
    from fute.surrogates.training import Training

    schedule = FineTuning(steps=2, batch_size=99, learning_rate=1e-9)
    losses = loss_curve(reviews(), bert, schedule, seed=3)
    training = Training(Frozen(bert, bert.load("float32"), 128), reviews(), schedule, seed=3)
    order = np.random.default_rng(3).permutation(len(REVIEWS))
    with torch.no_grad():
        each = training.losses(Nothing(), training.head_start, order)
    assert losses == pytest.approx([each.mean().item()] * 2, rel=1e-4)


def test_the_loss_curve_goes_on_where_training_would_stop(bert):
    """Labels that mean nothing: held-out rows get worse, and a method would stop."""
    from fute.core.progress import silent
    from fute.surrogates.adapters import Whole
    from fute.surrogates.frozen import Frozen
    from fute.surrogates.training import Training

    noise = reviews(np.random.default_rng(0).integers(0, 2, len(REVIEWS)))
    schedule = FineTuning(steps=150, batch_size=8, learning_rate=3e-3, stop_early=True)
    model = bert.load("float32")
    training = Training(Frozen(bert, model, 128), noise, schedule, 0)
    stopped = training.fit(Whole(training.parameters), np.ones(len(REVIEWS), np.int64), silent)
    assert len(stopped.losses) < 150
    losses = loss_curve(noise, bert, FineTuning(steps=150, batch_size=8, learning_rate=3e-3))
    assert len(losses) == 150


def test_another_adapter_tunes_less(bert):
    schedule = FineTuning(steps=30, batch_size=8, learning_rate=1e-3)
    head = loss_curve(reviews(), bert, schedule, adapter=lambda model: Nothing())
    whole = loss_curve(reviews(), bert, schedule)
    assert head[0] == pytest.approx(whole[0], rel=1e-4)
    assert whole[-5:].mean() < head[-5:].mean()


def test_a_loss_that_is_no_number_is_an_error(bert):
    with pytest.raises(ModelError, match="lower `learning_rate`"):
        loss_curve(reviews(), bert, FineTuning(steps=20, batch_size=8, learning_rate=1e30))


# Direct evaluation


def test_direct_evaluation_is_the_mean_of_the_drawn_rows():
    correct = np.random.default_rng(0).random((3, 50)) < 0.6
    rows = drawn_rows(50, 8, seed=4)
    assert len(set(rows.tolist())) == 8
    made = direct_evaluation(correct, 8, seeds=[4, 5])
    assert made.shape == (2, 3)
    assert made[0] == pytest.approx([sum(correct[c, r] for r in rows) / 8 for c in range(3)])
    assert not np.array_equal(made[0], made[1])
    assert direct_evaluation(correct, 50)[0] == pytest.approx(correct.mean(axis=1))


def test_more_labelled_rows_begin_with_the_fewer():
    assert np.array_equal(drawn_rows(200, 128, 1)[:32], drawn_rows(200, 32, 1))


def test_the_mean_over_draws_nears_the_mean_of_all_rows():
    correct = np.random.default_rng(0).random((4, 100)) < [[0.5], [0.6], [0.7], [0.8]]
    for n in (8, 32):
        scores = direct_evaluation(correct, n, range(2000))
        truth = correct.mean(axis=1)
        error = np.sqrt(truth * (1 - truth) / n * (100 - n) / 99 / 2000)  # of a mean without replacement
        assert (np.abs(scores.mean(axis=0) - truth) < 5 * error).all()
        assert scores.std(axis=0) == pytest.approx(error * np.sqrt(2000), rel=0.1)


def test_what_cannot_be_evaluated_is_refused():
    for n in (0, 11):
        with refused(ConfigError, "1 to 10", str(n)):
            direct_evaluation(np.ones((2, 10)), n)
    with refused(DataError, "candidate 1 in row 2"):
        direct_evaluation([[1, 0, 1], [1, 0, np.nan]], 2)
    with refused(DataError, "shape (3,)"):
        direct_evaluation([1, 0, 1], 2)
