"""Metrics of a ranking: examples worked out by hand, naive means over orders of ties, and other libraries."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from fute.cli import show
from fute.core.errors import ConfigError, DataError
from fute.reproduce import prompt_table, table
from fute.selection import metrics
from fute.selection.metrics import (
    mean_over_targets,
    measure,
    ndcg,
    performance,
    performance_rate,
    rank_of_best,
    regret,
    spearman,
    transfer_gain,
    weighted_kendall,
)

from .helpers import refused

OF_A_RANKING = [performance, performance_rate, rank_of_best, regret, ndcg, spearman, weighted_kendall]
FEW = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=6)


def orders(scores):
    """All orders of the candidates, best first, that these scores allow."""
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            yield list(order)


def mean_over_orders(scores, performances, metric):
    values = [metric(np.asarray(performances, dtype=float)[order]) for order in orders(scores)]
    return pytest.approx(np.mean(values))


def test_rank_of_the_best_is_where_the_scores_put_it():
    assert rank_of_best([0.9, 0.5, 0.1], [0.6, 0.7, 0.8]) == 3
    assert rank_of_best([0.9, 0.5, 0.1], [0.8, 0.7, 0.6]) == 1
    assert rank_of_best([0.9, 0.5, 0.5, 0.1], [0.6, 0.8, 0.7, 0.5]) == 2.5
    assert rank_of_best([4, 3, 2, 1], [0.1, 0.8, 0.2, 0.8]) == 3
    assert rank_of_best([7], [0.3]) == 1


def test_regret_counts_the_best_of_those_looked_at():
    scores, performances = [4, 3, 2, 1], [0.5, 0.6, 0.4, 0.8]
    assert regret(scores, performances) == pytest.approx(0.3 / 0.8)
    assert regret(scores, performances, k=2) == pytest.approx(0.2 / 0.8)
    assert regret(scores, performances, k=3) == pytest.approx(0.2 / 0.8)
    assert regret(scores, performances, k=4) == 0
    assert regret(scores, performances, k=99) == 0


def test_regret_of_a_tie_is_the_mean_of_the_choices_it_leaves():
    # the first is sure to be looked at, and one of the three that follow
    assert regret([9, 5, 5, 5], [0.5, 0.4, 0.6, 0.8], k=2) == pytest.approx(1 - (0.5 + 0.6 + 0.8) / 3 / 0.8)


@given(FEW, st.integers(1, 7))
def test_a_metric_of_ties_is_its_mean_over_their_orders(rows, k):
    scores, performances = map(list, zip(*rows, strict=True))
    best, n = max(performances), len(rows)
    discounts = 1 / np.log2(np.arange(n) + 2)
    cut = np.where(np.arange(n) < k, discounts, 0)
    ideal = (np.sort(performances)[::-1] * cut).sum()
    expected = {
        performance: lambda p: p[0],
        performance_rate: lambda p: p[0] / best,
        rank_of_best: lambda p: np.flatnonzero(p == best).mean() + 1,
    }
    for metric, of_order in expected.items():
        assert metric(scores, performances) == mean_over_orders(scores, performances, of_order)
    assert regret(scores, performances, k) == mean_over_orders(
        scores, performances, lambda p: (best - p[:k].max()) / best
    )
    assert ndcg(scores, performances, k=k) == mean_over_orders(
        scores, performances, lambda p: (p * cut).sum() / ideal
    )


@given(FEW)
def test_regret_at_one_is_what_the_performance_rate_lacks(rows):
    scores, performances = zip(*rows, strict=True)
    assert regret(scores, performances) == pytest.approx(1 - performance_rate(scores, performances))


def test_ndcg_at_k_worked_example():
    # by score the relevances are 1, 3, 2, 0; the two best are 3 and 2
    scores, relevance = [4, 3, 2, 1], [1, 3, 2, 0]
    ideal = 3 + 2 / np.log2(3)
    assert ndcg(scores, relevance, k=2) == pytest.approx((1 + 3 / np.log2(3)) / ideal)
    assert ndcg(scores, relevance, k=1) == pytest.approx(1 / 3)
    assert ndcg(scores, relevance, "exponential", k=1) == pytest.approx(1 / 7)
    assert ndcg(scores, relevance, k=9) == ndcg(scores, relevance)


@pytest.mark.parametrize("k", [1, 2, 5, 12, 20, None])
@pytest.mark.parametrize("seed", range(4))
def test_ndcg_equals_scikit_learn(seed, k):
    rng = np.random.default_rng(seed)
    scores, relevance = rng.integers(0, 4, 12), 2 * rng.random(12)
    assert ndcg(scores, relevance, k=k) == pytest.approx(ndcg_score([relevance], [scores], k=k))
    gains = 2**relevance - 1
    assert ndcg(scores, relevance, "exponential", k) == pytest.approx(ndcg_score([gains], [scores], k=k))


def test_ndcg_where_nothing_is_relevant_is_one():
    assert ndcg([1, 2], [0, 0]) == 1


def weighted_tau(x, y):
    """Vigna's definition, pair by pair."""

    def product(a, b, place):
        return sum(
            np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) * (1 / (place[i] + 1) + 1 / (place[j] + 1))
            for i in range(len(a))
            for j in range(len(a))
        )

    taus = []
    for first, second in [(x, y), (y, x)]:
        order = sorted(range(len(x)), key=lambda i: (first[i], second[i]), reverse=True)
        place = np.argsort(order)
        taus.append(product(x, y, place) / np.sqrt(product(x, x, place) * product(y, y, place)))
    return np.mean(taus)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=8))
def test_weighted_kendall_is_vignas_sum_over_pairs(rows):
    x, y = zip(*rows, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert weighted_kendall(x, y) == 0
    else:
        assert weighted_kendall(x, y) == pytest.approx(weighted_tau(x, y))


def test_weighted_kendall_has_a_sign_and_the_top_weighs_most():
    truth = [50, 40, 30, 20, 10]
    assert weighted_kendall(truth, truth) == pytest.approx(1)
    assert weighted_kendall(truth[::-1], truth) == pytest.approx(-1)
    top_exchanged, bottom_exchanged = [40, 50, 30, 20, 10], [50, 40, 30, 10, 20]
    assert weighted_kendall(top_exchanged, truth) < weighted_kendall(bottom_exchanged, truth)


def test_spearman_of_ties_is_the_correlation_of_mean_ranks():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman([0.1, 0.1, 0.1], [1, 2, 3]) == 0


def test_transfer_gain_is_relative():
    assert transfer_gain([0.9, 0.6, 0.3], 0.6) == pytest.approx([0.5, 0, -0.5])
    for without in (0, -1, float("nan")):
        with refused(DataError, "positive performance without a source", str(without)):
            transfer_gain([0.9], without)


def test_all_metrics_of_one_target():
    scores, performances = [3, 2, 1], [0.6, 0.8, 0.4]
    made = measure(scores, performances, at=(1, 2), without=0.5)
    linear = (0.6 + 0.8 / np.log2(3) + 0.4 / 2) / (0.8 + 0.6 / np.log2(3) + 0.4 / 2)
    g6, g8, g4 = (2**p - 1 for p in (0.6, 0.8, 0.4))
    assert made == pytest.approx(
        {
            "rank_of_best": 2,
            "performance": 0.6,
            "performance_rate": 0.75,
            "regret@1": 0.25,
            "regret@2": 0,
            "ndcg_linear": linear,
            "ndcg_exponential": (g6 + g8 / np.log2(3) + g4 / 2) / (g8 + g6 / np.log2(3) + g4 / 2),
            "ndcg@2_linear": (0.6 + 0.8 / np.log2(3)) / (0.8 + 0.6 / np.log2(3)),
            "ndcg@2_exponential": (g6 + g8 / np.log2(3)) / (g8 + g6 / np.log2(3)),
            "spearman": 0.5,
            "weighted_kendall": weighted_tau(scores, performances),
            "transfer_gain": 0.2,
        }
    )
    assert "transfer_gain" not in measure(scores, performances)


def test_the_mean_over_targets_has_the_average_rank():
    one, other = measure([2, 1], [0.9, 0.5]), measure([1, 2], [0.9, 0.5])
    assert mean_over_targets([one, other])["rank_of_best"] == 1.5
    with refused(DataError, "no targets"):
        mean_over_targets([])
    with refused(DataError, "different metrics", "transfer_gain"):
        mean_over_targets([one, measure([1, 2], [0.9, 0.5], without=0.4)])


@pytest.mark.parametrize("metric", OF_A_RANKING)
@pytest.mark.parametrize(
    ("scores", "performances", "words"),
    [
        ([], [], "shape (0,)"),
        ([1, 2, 3], [1, 2], "shape (3,) and shape (2,)"),
        ([[1, 2]], [[1, 2]], "shape (1, 2)"),
        (0.5, 0.5, "shape ()"),
        ([1, np.nan], [1, 2], "nan, 2.0 for candidate 1"),
        ([1, 2], [np.inf, 2], "1.0, inf for candidate 0"),
        (["a", "b"], [1, 2], "must be numbers"),
        ([None, 1], [1, 2], "candidate 0"),
    ],
)
def test_what_is_no_ranking_is_refused(metric, scores, performances, words):
    with refused(DataError, words):
        metric(scores, performances)


def test_options_and_numbers_that_make_no_sense_are_refused():
    with refused(ConfigError, "no gain 'log'", '"linear" or "exponential"'):
        ndcg([1], [1], "log")
    with refused(ConfigError, "k must be at least 1", "0"):
        ndcg([1], [1], k=0)
    with refused(ConfigError, "k must be at least 1", "-2"):
        regret([1], [1], k=-2)
    with refused(DataError, "-0.5 to 1"):
        ndcg([1, 2], [-0.5, 1])
    with refused(DataError, "numbers from 0 to 1000"):
        ndcg([1, 2], [1, 2000], "exponential")
    for metric in (performance_rate, regret):
        with refused(DataError, "the best is 0"):
            metric([1, 2], [-1, 0])


def test_every_metric_is_looked_at_here():
    public = {
        name for name, thing in vars(metrics).items() if getattr(thing, "__module__", "") == metrics.__name__
    }
    looked_at = {metric.__name__ for metric in OF_A_RANKING} | {
        "transfer_gain",
        "measure",
        "mean_over_targets",
    }
    assert {name for name in public if not name.startswith("_")} == looked_at


@pytest.mark.parametrize("metric", [*OF_A_RANKING, transfer_gain])
def test_every_metric_names_its_source_and_all_of_its_papers_have_a_doi(metric):
    source = metric.__doc__.partition("Source: ")[2]
    papers = [part for part in source.split(";") if re.search(r"\b(19|20)\d\d\b", part)]
    assert papers
    assert [part for part in papers if "doi:10." not in part and "arXiv:" not in part] == []


def test_every_heading_of_an_ndcg_names_its_gain():
    headings = [*prompt_table.COLUMNS.values(), *table.COLUMNS.values(), *show._METRICS.values()]
    of_ndcg = [heading for heading in headings if "NDCG" in heading]
    assert len(of_ndcg) == 5
    assert [heading for heading in of_ndcg if "(linear)" not in heading] == []
