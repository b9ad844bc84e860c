"""Cosines from factors, intervals from replicates, rankings and layouts, against naive ones."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import SpaceError
from fute.core.types import SpaceSpec, TaskEmbedding
from fute.selection.rank import Candidate, Ranking, rank
from fute.selection.uncertainty import (
    chances_of_best,
    chances_to_beat,
    interval,
    limits,
    score_deviations,
    times_as_many_texts,
)
from fute.space.layout import layout
from fute.space.similarity import cosine, cosine_matrix, cosines, resampled_products

SPEC = SpaceSpec("linear-probe", {}, "pkg:small", "a" * 64)


def embedding(left, right, name="one", replicates=None, kind="model"):
    left = np.asarray(left, np.float32)
    none = np.zeros((0, *left.shape), np.float16)
    draws = none if replicates is None else np.asarray(replicates, np.float16)
    return TaskEmbedding(name, kind, SPEC, left, np.asarray(right, np.float32), draws, ("a", "b"))


def plain(vector, name="one", replicates=None, kind="model"):
    """A plain vector, with plain vectors as replicates."""
    column = np.asarray(vector, np.float32)[:, None]
    draws = None if replicates is None else np.asarray(replicates)[:, :, None]
    return embedding(column, [[1]], name, draws, kind)


def random_embedding(d, k, r, seed, replicates=0, name="one"):
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(d, r))
    draws = left * rng.normal(1, 1, size=(replicates, d, r))
    return embedding(left, rng.normal(size=(k, r)), name, draws)


def dense_cosine(left_a, right_a, left_b, right_b):
    a, b = (
        left.astype(float) @ right.astype(float).T for left, right in ((left_a, right_a), (left_b, right_b))
    )
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


sizes = st.integers(1, 6)
seeds = st.integers(0, 10_000)


@st.composite
def two_embeddings(draw, most_replicates=0):
    """Two of one space: the same d and k, but ranks and numbers of replicates of their own."""
    d, k = draw(sizes), draw(sizes)
    seed = draw(seeds)
    return tuple(
        random_embedding(d, k, draw(sizes), [seed, number], draw(st.integers(0, most_replicates)))
        for number in (0, 1)
    )


# --- Cosine -----------------------------------------------------------------------------------------------


@given(two_embeddings())
def test_cosine_from_factors_is_that_of_the_dense_matrices(pair):
    a, b = pair
    assert cosine(a, b) == pytest.approx(dense_cosine(a.left, a.right, b.left, b.right), abs=1e-9)
    vectors = a.vector.astype(float), b.vector.astype(float)
    by_vectors = vectors[0] @ vectors[1] / (np.linalg.norm(vectors[0]) * np.linalg.norm(vectors[1]))
    assert cosine(a, b) == pytest.approx(by_vectors, abs=1e-4)


@given(two_embeddings(), st.floats(2**-20, 2**20, width=32))
def test_cosine_is_symmetric_bounded_and_knows_no_scale_but_the_sign(pair, factor):
    a, b = pair
    assert cosine(a, b) == pytest.approx(cosine(b, a), abs=1e-12)
    assert -1 <= cosine(a, b) <= 1
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(replace(a, left=a.left * np.float32(factor)), b) == pytest.approx(cosine(a, b), abs=1e-6)
    assert cosine(replace(a, right=a.right * np.float32(factor)), b) == pytest.approx(cosine(a, b), abs=1e-6)
    assert cosine(a, replace(b, left=-b.left)) == -cosine(a, b)


@given(two_embeddings())
def test_the_similarity_of_inputs_is_that_of_w_times_its_transpose(pair):
    a, b = pair
    dense = [e.left.astype(float) @ e.right.astype(float).T for e in (a, b)]
    squares = [W @ W.T for W in dense]
    expected = (squares[0] * squares[1]).sum() / (np.linalg.norm(squares[0]) * np.linalg.norm(squares[1]))
    assert cosine(a, b, "inputs") == pytest.approx(expected, abs=1e-6)
    turned = replace(b, right=b.right[::-1].copy())  # other label meanings, at the same angles to each other
    assert cosine(a, turned, "inputs") == pytest.approx(expected, abs=1e-6)


def test_ranking_by_inputs_finds_the_same_task_with_other_label_names():
    rng = np.random.default_rng(0)
    task, other = rng.normal(size=(2, 8, 2))
    names = np.eye(4)
    mine = embedding(task, names[:, :2], "data", kind="dataset")
    same, another = embedding(task, names[:, 2:], "same"), embedding(other, names[:, :2], "another")
    assert [c.name for c in rank(mine, [same, another], "inputs").candidates] == ["same", "another"]
    assert cosine(mine, same) == pytest.approx(0)


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=3), st.integers(1, 10**6))
def test_cosine_never_leaves_its_bounds_by_rounding(vector, factor):
    a, b = plain(np.array(vector) / 7), plain(np.array(vector) * factor / 3)
    assert abs(cosine(a, b)) <= 1
    assert abs(cosine(a, replace(b, left=-b.left))) <= 1


def test_the_order_of_rows_and_label_names_matters_only_together():
    """Exchanging the labels of a task exchanges columns of both factors, and changes nothing."""
    a = random_embedding(4, 3, 2, seed=1)
    exchanged = replace(a, left=a.left[:, ::-1], right=a.right[:, ::-1])
    assert cosine(a, exchanged) == pytest.approx(1)
    assert cosine(a, replace(a, left=a.left[:, ::-1])) < 0.999


def test_plain_vectors_have_their_usual_cosine():
    assert cosine(plain([1, 0]), plain([1, 1])) == pytest.approx(0.5**0.5)
    assert cosine(plain([3, 4]), plain([4, 3])) == pytest.approx(24 / 25)
    assert cosine(plain([1, 2, 3]), plain([-2, -4, -6])) == pytest.approx(-1)
    assert cosine(plain([1, 0]), plain([0, 5])) == 0


def test_a_zero_vector_is_like_nothing_without_a_warning():
    zero, one = plain([0, 0], replicates=[[0, 0], [1, 0]]), plain([1, 0], replicates=[[1, 0], [2, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cosine(zero, one) == 0
        assert cosine(zero, zero) == 0
        assert resampled_products(zero, [one]).cosine_draws.tolist() == [[0, 0]]


def test_a_vector_that_is_rounding_beside_its_resamples_counts_as_zero():
    """As constant answers left it: 1e-17 in the vector, 1e-7 in float16 resamples that point anywhere."""
    rng = np.random.default_rng(0)
    rounding = plain(1e-17 * rng.normal(size=9), "constant", 6e-8 * rng.integers(-1, 2, size=(30, 9)))
    one, short = plain(np.ones(9), "d"), noisy(np.zeros(9), 50, rng, name="noise")
    assert cosine(one, rounding) == cosine(rounding, one) == 0
    assert cosine_matrix([one, rounding])[0, 1] == 0
    assert cosine(one, short) != 0, "noise that is as long as its resamples is a vector like others"
    products = resampled_products(one, [rounding, short])
    assert not score_deviations(products)[0].any()
    assert not limits(products)[1][0].any()
    assert score_deviations(products)[1].any()


def test_of_inputs_nothing_scores_below_zero():
    """Three rows of noise each: intervals as wide as can be."""
    rng = np.random.default_rng(0)
    candidates = [noisy(np.eye(9)[i], 3, rng, name=f"m{i}") for i in range(4)]
    ranking = rank(noisy(np.eye(9)[0], 3, rng), candidates, "inputs")
    assert min(c.low for c in ranking.candidates) == 0
    products = resampled_products(noisy(np.eye(9)[0], 3, rng), candidates, "inputs")
    assert (products.cosines[:, None] + score_deviations(products)).min() >= 0


def test_no_resample_scores_past_one():
    rng = np.random.default_rng(0)
    products = resampled_products(noisy(np.eye(20)[0], 20, rng), [noisy(np.eye(20)[0], 20, rng)])
    drawn = products.cosines[:, None] + score_deviations(products)
    assert np.abs(drawn).max() <= 1 + 1e-12
    loud = replace(products, inner_draws=products.inner_draws * 50)
    assert np.abs(loud.cosines[:, None] + score_deviations(loud)).max() == pytest.approx(1)


@given(two_embeddings(most_replicates=3), st.integers(1, 3))
def test_rows_that_one_lacks_are_zero(pair, more):
    a, b = pair
    higher = replace(
        b,
        left=np.vstack([b.left, np.ones((more, b.left.shape[1]), np.float32)]),
        replicates=np.pad(b.replicates, ((0, 0), (0, more), (0, 0)), constant_values=1),
    )
    padded = replace(
        a,
        left=np.pad(a.left, ((0, more), (0, 0))),
        replicates=np.pad(a.replicates, ((0, 0), (0, more), (0, 0))),
    )
    for of in ("map", "inputs"):
        assert cosine(a, higher, of) == pytest.approx(cosine(padded, higher, of), abs=1e-12)
        np.testing.assert_allclose(
            resampled_products(higher, [a], of).cosine_draws,
            resampled_products(higher, [padded], of).cosine_draws,
            atol=1e-12,
        )


@given(st.permutations(range(7)))
def test_many_others_of_different_shapes_each_get_their_own_cosine(order):
    one = random_embedding(4, 3, 2, seed=99)
    others = [random_embedding(3 + i % 2, 3, 1 + i % 3, seed=i) for i in order]
    assert cosines(one, others) == pytest.approx([cosine(one, other) for other in others], abs=1e-12)


def test_very_many_others_are_compared_in_float32_and_as_well():
    one = random_embedding(30, 20, 2, seed=0)
    few = [random_embedding(30, 20, 2, seed=i) for i in range(1, 6)]
    expected = [cosine(one, other) for other in few]
    assert cosines(one, few * 2000) == pytest.approx(expected * 2000, abs=1e-5)


def test_cosine_matrix_holds_each_pair_at_its_place():
    three = [random_embedding(4, 3, 2, seed) for seed in (1, 2, 3)]
    matrix = cosine_matrix(three)
    assert matrix.shape == (3, 3)
    for i in range(3):
        for j in range(3):
            assert matrix[i, j] == pytest.approx(cosine(three[i], three[j]))
    assert cosine_matrix([]).shape == (0, 0)


def test_embeddings_of_different_spaces_are_not_compared():
    a, b = plain([1, 0]), replace(plain([1, 0]), spec=replace(SPEC, seed=1))
    for use in (lambda: cosine(a, b), lambda: resampled_products(a, [b]), lambda: cosine_matrix([a, b])):
        with pytest.raises(SpaceError, match=r"seed: \d ≠ \d"):
            use()


@given(two_embeddings(most_replicates=4))
def test_replicate_cosines_are_those_of_a_loop_over_resamples(pair):
    a, b = pair
    counts = [len(e.replicates) for e in pair if len(e.replicates)]
    expected = [
        dense_cosine(
            a.replicates[i] if len(a.replicates) else a.left,
            a.right,
            b.replicates[i] if len(b.replicates) else b.left,
            b.right,
        )
        for i in range(min(counts, default=0))
    ]
    found = resampled_products(a, [b]).cosine_draws
    assert found.shape == (1, len(expected))
    np.testing.assert_allclose(found[0], expected, atol=1e-9)


@given(two_embeddings(most_replicates=4), st.sampled_from(["map", "inputs"]))
def test_noise_is_the_mean_squared_distance_of_the_resamples(pair, of):
    def dense(left, right):
        W = left.astype(float) @ right.astype(float).T
        return W if of == "map" else W @ W.T

    products = resampled_products(pair[0], [pair[1]], of)
    size = products.inner_draws.shape[1]
    for e, found in zip(pair, (products.one_noise, products.others_noise[0]), strict=True):
        distances = [np.sum((dense(r, e.right) - dense(e.left, e.right)) ** 2) for r in e.replicates[:size]]
        assert found == pytest.approx(np.mean(distances) if distances else 0, rel=1e-9, abs=1e-9)


# --- Intervals --------------------------------------------------------------------------------------------


def test_a_worked_interval():
    """Deviations -0.10, -0.08, …, 0.10: 90 % of them lie between ± 0.09."""
    assert interval(0.5, np.linspace(-0.1, 0.1, 11)) == pytest.approx((0.41, 0.59))
    assert interval(0.5, np.linspace(-0.1, 0.1, 11), level=0.5) == pytest.approx((0.45, 0.55))


def test_a_skewed_interval_is_wider_where_the_deviations_reach_further():
    """The 5 % quantile is -0.1, the 95 % quantile 0.3 + 0.55 · 0.6 (numpy interpolates)."""
    low, high = interval(0, np.array([-0.1] * 9 + [0.3, 0.9]))
    assert (low, high) == pytest.approx((-0.1, 0.6))


@pytest.mark.parametrize("deviations", [[], [0.5]])
def test_fewer_than_two_deviations_give_no_interval(deviations):
    assert interval(0.5, np.array(deviations)) is None


def test_an_interval_ends_at_one():
    assert interval(0.95, np.linspace(-0.2, 0.2, 11)) == pytest.approx((0.77, 1.0))
    assert interval(-0.95, np.linspace(-0.2, 0.2, 11)) == pytest.approx((-1.0, -0.77))


def noisy(truth, n, rng, replicates=60, name="one", kind="model"):
    """The mean of n noisy copies of a vector, and of its bootstrap resamples."""
    rows = truth + rng.normal(size=(n, len(truth)))
    draws = [rows[rng.integers(n, size=n)].mean(axis=0) for _ in range(replicates)]
    e = plain(rows.mean(axis=0), name, kind=kind)
    return replace(e, replicates=np.array(draws, dtype=np.float32)[:, :, None])


def test_limits_take_off_what_noise_does_to_a_cosine():
    """‖W‖² = 4 of which 1 is noise on one side, none on the other: cos 0.6 becomes 0.6 · √(4 / 3)."""
    candidate = plain([1.2, 1.6], "m", replicates=[[1.2, 2.6], [1.2, 0.6], [2.2, 1.6], [0.2, 1.6]])
    products = resampled_products(plain([1, 0]), [candidate])
    assert products.cosines == pytest.approx([0.6])
    assert products.others_noise == pytest.approx([1], abs=2e-3)
    assert limits(products)[0] == pytest.approx([0.6 * (4 / 3) ** 0.5], abs=1e-3)


def test_deviations_are_those_of_the_cosine_where_resamples_move_little():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 2)), rng.normal(size=(4, 2))
    draws = (left + 1e-3 * rng.normal(size=(40, 5, 2))).astype(np.float32)
    candidate = replace(embedding(left, right), replicates=draws)
    products = resampled_products(random_embedding(5, 4, 2, 1), [candidate])
    expected = products.cosine_draws - products.cosine_draws.mean()
    assert score_deviations(products) == pytest.approx(expected, abs=2e-6)
    assert np.abs(expected).max() > 1e-4


def test_nine_of_ten_intervals_hold_the_truth_where_noise_is_half_of_the_length():
    """Two directions 60° apart in 50 dimensions, of length 1, each known from 50 copies with noise 1: the
    square of their means' noise is 1 too, so cosines come to a quarter, and intervals around 0.5."""
    rng = np.random.default_rng(0)
    truth = np.eye(50)[0], np.eye(50)[0] * 0.5 + np.eye(50)[1] * 0.75**0.5
    held, scores, centres = 0, [], []
    for _ in range(200):
        products = resampled_products(noisy(truth[0], 50, rng), [noisy(truth[1], 50, rng)])
        (limit,), (deviations,) = limits(products)
        low, high = interval(limit, deviations)
        held += low <= 0.5 <= high
        scores.append(products.cosines[0])
        centres.append(limit)
    assert 0.85 <= held / 200 <= 0.97
    assert np.mean(scores) == pytest.approx(0.25, abs=0.03)
    assert np.mean(centres) == pytest.approx(0.5, abs=0.05)


def test_chances_count_the_resamples():
    """Scores 3, 2, 1 of three, moved in four resamples; in the last the first two are equal, nearly."""
    deviations = np.array([[0.0, 0, -2, 0], [0, 2, 0, 1 - 5e-4], [0, 0, 0, 0]])
    scores = np.array([3.0, 2, 1])
    assert chances_of_best(scores, deviations) == pytest.approx([(1 + 0.5) / 4, (1 + 1 + 0.5) / 4, 0])
    assert chances_to_beat(0, scores, deviations) == pytest.approx([1, 3 / 4, 1 / 4])
    assert chances_of_best(scores, deviations[:, :1]) is None


def test_how_many_more_texts_tell_two_apart():
    """sd 1, difference 0.5, z 1.6449: 10.8 times; never less than those that there are."""
    times = times_as_many_texts(np.array([0.5, -0.5, 10, 0, 5e-4]), np.tile([1.0, -1.0], (5, 1)), 0.05)
    once = (1.6448536270 / 0.5) ** 2
    assert times == pytest.approx([once, once, 1, np.inf, np.inf])


# --- Rankings ---------------------------------------------------------------------------------------------


def test_rank_orders_by_cosine_and_equal_ones_by_name():
    dataset = plain([1, 0], "reviews", kind="dataset")
    candidates = [
        plain([0, 2], "zebra"),
        plain([-1, 0], "opposite"),
        plain([0, 5], "ant"),
        plain([2, 0.1], "close"),
        plain([1, 1], "half"),
    ]
    ranking = rank(dataset, candidates)
    assert [c.name for c in ranking.candidates] == ["close", "half", "ant", "zebra", "opposite"]
    assert [c.rank for c in ranking.candidates] == [1, 2, 3, 4, 5]
    expected = [2 / (4 + 0.01) ** 0.5, 0.5**0.5, 0, 0, -1]
    assert [c.score for c in ranking.candidates] == pytest.approx(expected)
    assert ranking.best.name == "close"
    assert (ranking.dataset, ranking.space) == ("reviews", SPEC.fingerprint)
    assert all(c.low is None and c.high is None for c in ranking.candidates)


@given(st.permutations(range(6)), seeds)
def test_the_order_of_the_candidates_does_not_matter(order, seed):
    dataset = random_embedding(3, 2, 2, [seed, 99])
    candidates = [random_embedding(3, 2, 2, [seed, i // 2], name=f"m{i}") for i in range(6)]
    assert rank(dataset, candidates) == rank(dataset, [candidates[i] for i in order])


def test_each_candidate_gets_the_limit_the_interval_and_the_chances_of_its_own_replicates():
    rng = np.random.default_rng(0)
    dataset = noisy(np.eye(4)[0], 200, rng, kind="dataset")
    candidates = [noisy(np.eye(4)[0] + i * np.eye(4)[1], 200, rng, name=f"m{i}") for i in (2, 0, 1)]
    products = resampled_products(dataset, candidates)
    limit, deviations = limits(products)
    ranking = rank(dataset, candidates)
    assert [c.name for c in ranking.candidates] == ["m0", "m1", "m2"]
    for line, i in zip(ranking.candidates, (1, 2, 0), strict=True):
        assert line.score == pytest.approx(cosine(dataset, candidates[i]))
        assert (line.low, line.high) == interval(limit[i], deviations[i])
        assert line.low < line.limit < line.high
    assert [c.p_best for c in ranking.candidates] == [1, 0, 0]


def lines(chances):
    each = zip("abcde", chances, strict=False)
    return Ranking(
        "d",
        "s",
        tuple(
            Candidate(i, name, 1 - i / 10, None, None, None, chance, chance)
            for i, (name, chance) in enumerate(each, start=1)
        ),
        3.14159,
    )


def test_all_that_may_well_be_as_good_as_the_first_are_contenders():
    ranking = lines([1, 0.04, 0.06, None, 0.5])
    assert [c.name for c in ranking.contenders] == ["a", "c", "e"]
    assert ranking.too_close
    assert str(ranking).endswith(
        "Too close to call: a, c, e. About 3.1 × as many texts would tell a from c, e."
    )
    assert "About 100 × as many" in replace(ranking, more_texts=99.7).verdict
    assert "A few more texts would tell a from c, e." in replace(ranking, more_texts=1.04).verdict
    alike = replace(ranking, inseparable=("e",))
    assert alike.verdict == (
        "Too close to call: a, c, e. About 3.1 × as many texts would tell a from c. "
        "Not even 100 × as many texts would tell a from e."
    )
    assert replace(alike, more_texts=None, inseparable=("c", "e")).verdict == (
        "Too close to call: a, c, e. Not even 100 × as many texts would tell a from c, e."
    )
    clear = lines([1, 0.05])
    assert (clear.too_close, clear.verdict) == (False, None)


def test_two_candidates_that_move_together_are_told_apart_where_their_intervals_overlap():
    """Both lose or gain 0.1 in all resamples, and the first is always better by 0.02 of an angle."""
    angles = np.radians(60) + np.linspace(-0.1, 0.1, 21)
    spots = [
        plain([np.cos(a), np.sin(a)], name, np.column_stack([np.cos(angles + shift), np.sin(angles + shift)]))
        for name, shift in (("near", -0.01), ("far", 0.01))
        for a in [np.radians(60) + shift]
    ]
    ranking = rank(plain([1, 0], "d", kind="dataset"), spots)
    near, far = ranking.candidates
    assert far.high > near.low
    assert not ranking.too_close


def moved(score, by, name):
    """A candidate whose cosine with (1, 0, 0) is `score`, and in each resample this much more."""
    spots = np.array([score, *(score + np.asarray(by))])
    vectors = np.column_stack([spots, np.sqrt(1 - spots**2)])
    return plain(vectors[0], name, vectors[1:])


def test_more_texts_are_for_those_that_may_be_the_best_whatever_their_rank():
    """The second never comes near the first; the third is unsure, by about ± 0.15."""
    sure, unsure = np.zeros(40), np.linspace(-0.25, 0.25, 40)
    candidates = [moved(0.8, sure, "A"), moved(0.7, sure, "B"), moved(0.69, unsure, "C")]
    ranking = rank(plain([1, 0], "d", kind="dataset"), candidates)
    assert [c.name for c in ranking.contenders] == ["A", "C"]
    drawn = score_deviations(resampled_products(plain([1, 0]), candidates[2:]))[0]
    assert ranking.more_texts == pytest.approx((1.6448536270 * drawn.std() / 0.11) ** 2, rel=1e-3)
    assert ranking.inseparable == ()


def test_twins_at_the_top_share_their_chance_and_do_not_hide_what_texts_would_tell():
    unsure = np.linspace(-0.25, 0.25, 40)
    twins = [moved(0.8, np.sin(np.arange(40)) / 20, name) for name in ("A", "B")]
    twins[1] = replace(twins[1], left=twins[1].left * np.float32(0.3), replicates=twins[1].replicates * 0.3)
    ranking = rank(plain([1, 0], "d", kind="dataset"), [*twins, moved(0.69, unsure, "C")])
    chances = {c.name: c.p_best for c in ranking.candidates}
    assert chances["A"] == pytest.approx(chances["B"])
    assert chances["A"] > 0.3
    assert ranking.inseparable == (ranking.candidates[1].name,)
    assert 1 <= ranking.more_texts <= 100
    first, second = (c.name for c in ranking.candidates[:2])
    assert (
        f"would tell {first} from C. Not even 100 × as many texts would tell {first} from {second}."
        in str(ranking)
    )


def test_near_duplicates_with_replicates_are_neither_told_apart_nor_robbed_of_their_chance():
    """Four copies of the best with a thousandth of noise each, and one that is clearly behind."""
    rng = np.random.default_rng(0)
    truth, behind = np.eye(30)[0], np.eye(30)[0] + np.eye(30)[1]
    best = noisy(truth, 400, rng, name="best")
    copies = [
        replace(best, name=f"copy{i}", left=best.left + 1e-5 * rng.normal(size=(30, 1)).astype(np.float32))
        for i in range(4)
    ]
    ranking = rank(noisy(truth, 400, rng), [noisy(behind, 400, rng, name="behind"), *copies])
    assert {c.name for c in ranking.contenders} == {f"copy{i}" for i in range(4)}
    chances = {c.name: c.p_best for c in ranking.candidates}
    assert chances == pytest.approx({**{f"copy{i}": 0.25 for i in range(4)}, "behind": 0}, abs=0.02)
    assert len(ranking.inseparable) == 3
    assert ranking.more_texts is None


def test_a_single_candidate_has_no_rival():
    assert rank(plain([1, 0]), [plain([0, 1], "only")]).too_close is False


def test_a_ranking_as_json():
    first = {"rank": 1, "name": "a", "score": 0.8, "limit": 0.85, "low": 0.7, "high": 0.9}
    first |= {"p_best": 0.75, "p_beats_first": 1.0}
    ranking = Ranking("d", "s", (Candidate(**first),), 2.5, ("b",))
    assert json.loads(json.dumps(ranking.as_dict())) == {
        "dataset": "d",
        "space": "s",
        "too_close_to_call": False,
        "more_texts": 2.5,
        "inseparable": ["b"],
        "ranking": [first],
    }
    computed = rank(random_embedding(3, 2, 2, 1, replicates=5), [random_embedding(3, 2, 2, 2, replicates=5)])
    (line,) = json.loads(json.dumps(computed.as_dict()))["ranking"]
    assert line["low"] <= line["limit"] <= line["high"]


def test_a_ranking_as_text():
    text = str(
        Ranking("d", "s", (Candidate(1, "first", 0.5, 0.6, 0.25, 0.75, 0.9, 1), Candidate(2, "second", -0.5)))
    )
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["1", "+0.500", "+0.250", "…", "+0.750", "0.90", "first"],
        ["2", "-0.500", "no", "interval", "second"],
    ]


def test_no_candidates_and_foreign_candidates_are_errors():
    with pytest.raises(SpaceError, match="no models to rank"):
        rank(plain([1, 0]), [])
    foreign = replace(plain([1, 0], "foreign"), spec=replace(SPEC, method="tupate"))
    with pytest.raises(SpaceError, match="method"):
        rank(plain([1, 0]), [plain([1, 0]), foreign])


# --- Layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 30])
def test_a_layout_has_a_finite_place_for_each_the_same_at_every_call(n):
    embeddings = [random_embedding(6, 3, 2, seed) for seed in range(n)]
    places = layout(embeddings)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    assert len({tuple(place) for place in places}) == n, "different embeddings have different places"
    np.testing.assert_array_equal(places, layout(embeddings))


def test_an_empty_space_has_an_empty_layout():
    assert layout([]).shape == (0, 2)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_identical_embeddings_have_a_layout_too(n):
    places = layout([plain([1, 2, 3])] * n)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


@given(st.lists(st.floats(0, 2 * np.pi), min_size=1, max_size=4))
def test_a_few_vectors_on_a_circle_keep_their_distances(angles):
    """√(2 − 2 cos) is the distance of unit vectors, and these lie in a plane, so the map can be exact."""
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    places = layout([plain(vector) for vector in vectors])
    for i in range(len(angles)):
        for j in range(i):
            distance = np.linalg.norm(vectors[i] - vectors[j])
            assert np.linalg.norm(places[i] - places[j]) == pytest.approx(distance, abs=1e-3)


def test_two_tight_clusters_stay_apart():
    rng = np.random.default_rng(0)
    centres = np.array([[1, 0, 0, 0], [0, 0, 1, 0]])
    vectors = np.repeat(centres, 8, axis=0) + rng.normal(scale=0.05, size=(16, 4))
    places = layout([plain(vector) for vector in vectors])
    first, second = places[:8], places[8:]
    middles = first.mean(axis=0), second.mean(axis=0)
    apart = np.linalg.norm(middles[0] - middles[1])
    widest = max(
        np.linalg.norm(part - middle, axis=1).max()
        for part, middle in zip((first, second), middles, strict=True)
    )
    assert apart > 2 * widest, "no point of one lies as near to the other's middle as to its own"


def test_a_method_that_cannot_tell_models_apart_says_so():
    models = [plain([1, 2], name, [[1, 2], [1, 2]]) for name in ("a", "b")]
    result = rank(plain([2, 1], "data", kind="dataset"), models)
    assert result.tied
    assert str(result).endswith("All scores are equal: this method can't tell these models apart.")
    assert not rank(plain([2, 1], "data", kind="dataset"), models[:1]).tied
    assert not rank(plain([2, 1], "data", kind="dataset"), [models[0], plain([1, 1], "c")]).tied
