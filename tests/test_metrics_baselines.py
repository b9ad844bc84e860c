"""Metrics and label-free baselines on numbers worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from fute.selection.baselines.entropies import global_entropy, local_entropy, mutual_information
from fute.selection.metrics import ndcg, performance_rate, spearman


def test_performance_rate_is_the_chosen_ones_share_of_the_best():
    assert performance_rate([0.1, 0.9, 0.5], [0.8, 0.6, 0.7]) == pytest.approx(0.6 / 0.8)
    assert performance_rate([1, 1, 0], [0.4, 0.6, 0.8]) == pytest.approx(0.5 / 0.8)


def test_ndcg_worked_example():
    # order by score: relevances 1, 3, 2; ideal order: 3, 2, 1
    dcg = 1 / np.log2(2) + 3 / np.log2(3) + 2 / np.log2(4)
    ideal = 3 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    assert ndcg([0.9, 0.5, 0.1], [1, 3, 2]) == pytest.approx(dcg / ideal)
    dcg = 1 / np.log2(2) + 7 / np.log2(3) + 3 / np.log2(4)
    ideal = 7 / np.log2(2) + 3 / np.log2(3) + 1 / np.log2(4)
    assert ndcg([0.9, 0.5, 0.1], [1, 3, 2], gain="exponential") == pytest.approx(dcg / ideal)


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_equals_scikit_learn_with_ties_too(seed):
    rng = np.random.default_rng(seed)
    scores, relevance = rng.integers(0, 4, 12), rng.random(12)
    assert ndcg(scores, relevance) == pytest.approx(ndcg_score([relevance], [scores]))


def test_ndcg_of_the_published_code_would_differ():
    """It scores the inverse permutation: for this cyclic order the two are not the same."""
    relevance, scores = np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0, 3.0])
    order = np.argsort(-scores)
    inverse = np.argsort(order)
    right, wrong = relevance[order], relevance[inverse]
    discount = 1 / np.log2(np.arange(3) + 2)
    assert ndcg(scores, relevance) == pytest.approx((right * discount).sum() / (relevance * discount).sum())
    assert (wrong * discount).sum() != pytest.approx((right * discount).sum())


def test_spearman_has_a_sign_and_is_zero_for_constants():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


def test_entropies_worked_example():
    sure = [[1.0, 0.0], [0.0, 1.0]]
    unsure = [[0.5, 0.5], [0.5, 0.5]]
    biased = [[0.9, 0.1], [0.6, 0.4]]
    assert mutual_information(sure) == pytest.approx(np.log(2))
    assert mutual_information(unsure) == pytest.approx(0)
    assert global_entropy(sure) == pytest.approx(np.log(2))
    assert global_entropy(biased) == pytest.approx(0)
    assert local_entropy(sure) == pytest.approx(0)
    assert local_entropy(unsure) == pytest.approx(np.log(2))
    h = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
    assert mutual_information(biased) == pytest.approx(h(0.75) - (h(0.9) + h(0.6)) / 2)
    assert local_entropy(biased) == pytest.approx((h(0.9) + h(0.6)) / 2)


def test_global_entropy_counts_three_classes():
    rows = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    shares = np.array([0.25, 0.5, 0.25])
    assert global_entropy(rows) == pytest.approx(-(shares * np.log(shares)).sum())
