"""From word scores to label probabilities, on worked numbers."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fute.models.backends.scores import by_marginalisation, contextual, domain_pmi, label_scores, softmax

# Two labels: the first has words of 1 and 2 tokens, the second one of 4.
WORDS = np.log([[0.5, 0.04, 0.0016], [0.1, 0.09, 0.0081]])
LENGTHS, OWNERS = [1, 2, 4], [0, 0, 1]


@pytest.mark.parametrize(
    ("normalise", "pool", "expected"),
    [
        ("sum", "logsumexp", [[0.54, 0.0016], [0.19, 0.0081]]),
        ("sum", "max", [[0.5, 0.0016], [0.1, 0.0081]]),
        ("mean", "logsumexp", [[0.5 + 0.2, 0.2], [0.1 + 0.3, 0.3]]),
        ("mean", "max", [[0.5, 0.2], [0.3, 0.3]]),
    ],
)
def test_word_scores_become_label_scores(normalise, pool, expected):
    assert np.exp(label_scores(WORDS, LENGTHS, OWNERS, normalise, pool)) == pytest.approx(np.array(expected))


def test_softmax_is_scipys_and_stands_large_numbers():
    scores = np.array([[1000.0, 999.0], [-2000.0, 0.0]])
    assert softmax(scores) == pytest.approx(scipy.special.softmax(scores, axis=1), abs=1e-7)


P = np.array([[0.9, 0.1], [0.6, 0.4]])


def test_contextual_calibration_divides_by_the_mean_answer_to_nothing():
    neutral = np.log([[0.8, 0.2], [0.6, 0.4]])  # mean 0.7, 0.3
    odds = P / [0.7, 0.3]
    assert contextual(np.log(P), neutral) == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-6)


def test_domain_pmi_divides_by_the_words_after_the_domain():
    odds = P / [0.5, 0.125]
    assert domain_pmi(np.log(P), np.log([0.5, 0.125])) == pytest.approx(
        odds / odds.sum(1, keepdims=True), abs=1e-6
    )


def test_marginalisation_divides_by_the_mean_over_inputs():
    odds = P / [0.75, 0.25]
    assert by_marginalisation(P) == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-6)


def test_a_model_that_always_says_the_same_says_nothing_once_calibrated():
    same = np.tile([0.9, 0.07, 0.03], (5, 1))
    assert by_marginalisation(same) == pytest.approx(np.full((5, 3), 1 / 3), abs=1e-6)
    assert contextual(np.log(same), np.log(same[:2])) == pytest.approx(np.full((5, 3), 1 / 3), abs=1e-6)


def test_a_label_that_no_input_gets_is_no_trouble():
    assert np.isfinite(by_marginalisation(np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32))).all()


# --- For all models ---------------------------------------------------------------------------------------

CALIBRATIONS = {
    "contextual": lambda scores, other: contextual(scores, other),
    "domain": lambda scores, other: domain_pmi(scores, other[0]),
    "marginal": lambda scores, other: by_marginalisation(softmax(scores)),
    "none": lambda scores, other: softmax(scores),
}
calibrations = pytest.mark.parametrize("calibrate", CALIBRATIONS.values(), ids=CALIBRATIONS)
scored = st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**32 - 1))


def drawn(shape):
    """Log scores (n, C), those of three other inputs (3, C), and a way to order the labels."""
    n, c, seed = shape
    random = np.random.default_rng(seed)
    return random.normal(-6, 3, (n, c)), random.normal(-6, 3, (3, c)), random.permutation(c)


@calibrations
@given(shape=scored)
def test_rows_are_probabilities(calibrate, shape):
    scores, other, _ = drawn(shape)
    found = calibrate(scores, other)
    assert (found.dtype, found.shape) == (np.float32, scores.shape)
    assert (found >= 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(len(scores)), abs=1e-5)


@calibrations
@given(shape=scored)
def test_labels_in_another_order_get_the_same(calibrate, shape):
    scores, other, order = drawn(shape)
    assert calibrate(scores[:, order], other[:, order]) == pytest.approx(
        calibrate(scores, other)[:, order], abs=1e-5
    )


@calibrations
@given(shape=scored, shift=st.floats(-50, 50))
def test_only_differences_between_labels_count(calibrate, shape, shift):
    scores, other, _ = drawn(shape)
    assert calibrate(scores + shift, other + shift) == pytest.approx(calibrate(scores, other), abs=1e-5)


@given(shape=scored)
def test_a_preference_of_the_model_for_a_label_is_taken_out(shape):
    """Added to all its log scores, those of neutral inputs too, it changes nothing after calibration."""
    scores, other, order = drawn(shape)
    bias = order.astype(float)
    assert domain_pmi(scores + bias, other[0] + bias) == pytest.approx(domain_pmi(scores, other[0]), abs=1e-5)
    one = other[:1]
    assert contextual(scores + bias, one + bias) == pytest.approx(contextual(scores, one), abs=1e-5)


@given(shape=scored)
def test_what_marginalisation_divides_by_leaves_no_label_preferred(shape):
    """Before rows are made to sum to 1, every label's mean odds are 1: the odds that come out are those."""
    p = softmax(drawn(shape)[0]).astype(float)
    odds = p / p.mean(axis=0)
    assert odds.mean(axis=0) == pytest.approx(np.ones(p.shape[1]))
    found = by_marginalisation(p.astype(np.float32)).astype(float)
    assert found * odds.sum(axis=1, keepdims=True) == pytest.approx(odds, rel=1e-4, abs=1e-5)


@given(
    scores=arrays(float, (3, 6), elements=st.floats(-60, 0)),
    lengths=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    ends=st.sets(st.integers(1, 5), max_size=4),
)
def test_pooling_equals_a_plain_loop(scores, lengths, ends):
    owners = [sum(end <= i for end in ends) for i in range(6)]
    for normalise in ("sum", "mean"):
        words = scores if normalise == "sum" else scores / np.array(lengths)
        for pool, reduce in (("logsumexp", scipy.special.logsumexp), ("max", np.max)):
            expected = [
                [reduce([row[i] for i in range(6) if owners[i] == label]) for label in range(len(ends) + 1)]
                for row in words
            ]
            found = label_scores(scores, lengths, owners, normalise, pool)
            assert found == pytest.approx(np.array(expected))
