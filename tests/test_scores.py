"""From word scores to label probabilities, on worked numbers."""

import numpy as np
import pytest
import scipy.special

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
