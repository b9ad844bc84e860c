"""Label-free prompt baselines: worked by hand, against plain loops, and what must hold for any answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fute.core.errors import ConfigError, DataError
from fute.models.backends.scores import by_marginalisation
from fute.selection.baselines.consensus import confident, zps_log, zps_prob, zps_vote
from fute.selection.baselines.entropies import (
    description_length,
    global_entropy,
    local_entropy,
    marginal_entropy,
    mutual_information,
    mutual_information_g,
)
from fute.selection.baselines.per_input import (
    minimum_description_length,
    mutual_information_gl,
    mutual_information_l,
)
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from tests.helpers import refused


def h(p):
    """Entropy of (p, 1 − p), in nats."""
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def two(*positive):
    """Answers (k, n, 2) from the probabilities of the second label."""
    p = np.array(positive)
    return np.stack([1 - p, p], axis=-1)


# --- Worked by hand ---------------------------------------------------------------------------------------


def test_the_surest_prompt_has_the_shortest_description():
    sure, torn = two([0.1, 0.8], [0.5, 0.4])
    assert description_length(sure) == pytest.approx(-(h(0.1) + h(0.2)) / 2)
    assert description_length(sure) > description_length(torn)
    assert description_length([[1.0, 0.0], [0.0, 1.0]]) == 0


def test_mi_g_counts_labels_in_its_global_term():
    both, one = two([0.1, 0.8], [0.4, 0.3])
    assert mutual_information_g(both) == pytest.approx(math.log(2) - (h(0.1) + h(0.2)) / 2)
    assert mutual_information_g(one) == pytest.approx(0 - (h(0.4) + h(0.3)) / 2)
    assert mutual_information(one) == pytest.approx(h(0.35) - (h(0.4) + h(0.3)) / 2)
    assert marginal_entropy(one) == pytest.approx(h(0.35))


def test_the_local_variants_choose_anew_for_each_input():
    """First input: MI_L compares h(.425) − h(.3) = .07 with h(.205) − h(.01) = .45. Second: −.01 with −.17.
    MI_GL, whose global terms are log 2 and 0: .08 with −.06, then .01 with −.67.
    """
    answers = two([0.3, 0.55], [0.01, 0.4])
    assert h(0.425) - h(0.3) < h(0.205) - h(0.01)
    assert h(0.425) - h(0.55) > h(0.205) - h(0.4)
    assert mutual_information_l(answers) == pytest.approx([0.5, 0.5])
    assert math.log(2) - h(0.3) > 0 - h(0.01)
    assert mutual_information_gl(answers) == pytest.approx([1, 0])


def test_mdl_takes_the_surest_for_each_input():
    """Of three inputs the first prompt is the surer on one, and of one both are as sure: 1½ of 3. The mean
    over inputs, MDL_M, prefers it for how sure it is there.
    """
    answers = two([0.01, 0.4, 0.3], [0.3, 0.2, 0.7])
    assert minimum_description_length(answers) == pytest.approx([0.5, 0.5])
    assert description_length(answers[0]) > description_length(answers[1])


def test_calibration_is_that_of_models():
    answers = np.random.default_rng(0).dirichlet([0.4] * 3, (4, 9))
    calibrated = [by_marginalisation(p) for p in answers]
    for name in ("MI", "ZPS-Prob"):
        both = score_prompts(answers, [f"{name} + CBM"])[f"{name} + CBM"]
        assert both == pytest.approx(score_prompts(calibrated, [name])[name], abs=1e-6)


def test_zps_drops_the_unsure_then_counts_agreement():
    """Confidence: .8 + .6 + .8 + .6 = 2.8, .9 + .2 + .4 + .4 = 1.9 and .28: the third is dropped. The other
    two give, summed, the labels 1, 1, 0, 0, where their last votes are a tie.
    """
    answers = two([0.9, 0.8, 0.1, 0.2], [0.95, 0.6, 0.3, 0.7], [0.52, 0.48, 0.55, 0.45])
    assert confident(answers).tolist() == [True, True, False]
    assert zps_prob(answers) == pytest.approx([1, 0.75, 0.5 - 1])
    assert zps_log(answers) == pytest.approx([1, 0.75, 0.5 - 1])
    assert zps_vote(answers) == pytest.approx([3.5 / 4, 3.5 / 4, 1.5 / 4 - 1])


def test_the_three_ensembles_differ():
    """On the first input probabilities sum to 1.51 for the second label, but their product is .0056 against
    .062: one prompt that is sure outweighs two in the logarithm. All are equally confident.
    """
    answers = two([0.01, 0.51], [0.75, 0.75], [0.75, 0.75])
    assert confident(answers).all()
    assert zps_prob(answers) == pytest.approx([0.5, 1, 1])
    assert zps_vote(answers) == pytest.approx([0.5, 1, 1])
    assert zps_log(answers) == pytest.approx([1, 0.5, 0.5])
    answers = two([0.01, 0.51], [0.7, 0.8], [0.7, 0.8])  # 1.41 and two votes of three
    assert zps_prob(answers) == pytest.approx([1, 0.5, 0.5])
    assert zps_vote(answers) == pytest.approx([0.5, 1, 1])


def test_calibration_comes_before_the_score():
    """Mean answers (.75, .25): the first row's odds are .9/.75 = 1.2 and .1/.25 = .4, the second's .8 and
    1.6; so a prompt that only ever said the first label now says each once.
    """
    answers = two([0.1, 0.4])
    scores = score_prompts(answers, ["GlobalE", "GlobalE + CBM", "MI + CBM", "MDL_M + CBM"])
    assert scores["GlobalE"] == pytest.approx([0])
    assert scores["GlobalE + CBM"] == pytest.approx([math.log(2)])
    local = (h(0.75) + h(1 / 3)) / 2
    assert scores["MDL_M + CBM"] == pytest.approx([-local], abs=1e-6)
    assert scores["MI + CBM"] == pytest.approx([h((0.75 + 1 / 3) / 2) - local], abs=1e-6)


def test_a_prompt_that_says_the_same_of_everything_is_worth_nothing_once_calibrated():
    rng = np.random.default_rng(0)
    answers = np.stack([np.tile([0.7, 0.2, 0.1], (20, 1)), rng.dirichlet([0.3] * 3, 20)])
    for name in ("MI", "MI_GL", "ZPS-Prob"):
        same, varied = score_prompts(answers, [f"{name} + CBM"])[f"{name} + CBM"]
        assert same < varied, name


# --- Against plain loops ----------------------------------------------------------------------------------


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def label_of(p):
    return max(range(len(p)), key=lambda c: p[c])


def loop(name, answers):
    """The published definitions, a prompt, an input and a label at a time."""
    k, n, c = answers.shape
    local = [[entropy(row) for row in p] for p in answers]
    mean = [entropy([sum(row[y] for row in p) / n for y in range(c)]) for p in answers]
    count = [entropy([sum(label_of(row) == y for row in p) / n for y in range(c)]) for p in answers]
    average = [sum(values) / n for values in local]
    if name in ("MDL", "MI_L", "MI_GL"):
        spread = {"MDL": [0] * k, "MI_L": mean, "MI_GL": count}[name]
        share = [0.0] * k
        for i in range(n):
            values = [spread[t] - local[t][i] for t in range(k)]
            best = [t for t in range(k) if values[t] > max(values) - 1e-9]
            for t in best:
                share[t] += 1 / len(best) / n
        return share
    return {
        "MI": [mean[t] - average[t] for t in range(k)],
        "MI_G": [count[t] - average[t] for t in range(k)],
        "GlobalE": count,
        "LocalE": average,
        "MDL_M": [-value for value in average],
    }[name]


def loop_zps(name, answers, kept):
    k, n, c = answers.shape
    say = {
        "ZPS-Log": lambda p, y: math.log(p[y]),
        "ZPS-Prob": lambda p, y: p[y],
        "ZPS-Vote": lambda p, y: label_of(p) == y,
    }[name]
    agreement = [0.0] * k
    for i in range(n):
        sums = [sum(say(answers[t][i], y) for t in range(k) if kept[t]) for y in range(c)]
        best = [y for y in range(c) if sums[y] > max(sums) - 1e-12]
        for t in range(k):
            agreement[t] += (label_of(answers[t][i]) in best) / len(best) / n
    return [a if keep else a - 1 for a, keep in zip(agreement, kept, strict=True)]


sizes = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(2, 5), st.integers(0, 2**32 - 1))


def drawn(size, hard=False):
    k, n, c, seed = size
    random = np.random.default_rng(seed)
    answers = random.dirichlet(np.full(c, 0.5), (k, n))
    return np.eye(c)[answers.argmax(-1)] if hard else np.maximum(answers, 1e-6) / (1 + 1e-6 * c)


@pytest.mark.parametrize("name", ["MI", "MI_G", "GlobalE", "LocalE", "MDL", "MDL_M", "MI_L", "MI_GL"])
@given(size=sizes)
def test_entropies_equal_a_plain_loop(name, size):
    answers = drawn(size)
    assert PROMPT_BASELINES[name](answers) == pytest.approx(loop(name, answers), abs=1e-9)


@pytest.mark.parametrize("name", ["ZPS-Log", "ZPS-Prob", "ZPS-Vote"])
@given(size=sizes)
def test_agreement_equals_a_plain_loop(name, size):
    answers = drawn(size)
    expected = loop_zps(name, answers, confident(answers))
    assert PROMPT_BASELINES[name](answers) == pytest.approx(expected, abs=1e-9)


def confidences(answers):
    return np.array(
        [sum(sorted(row)[-1] - sorted(row)[-2] for row in np.asarray(p).tolist()) for p in answers]
    )


def within(values, group):
    return sum(((part - part.mean()) ** 2).sum() for part in (values[group], values[~group]))


@given(size=sizes)
def test_the_filter_finds_the_best_two_groups_of_all_there_are(size):
    answers = drawn(size)
    values, kept = confidences(answers), confident(answers)
    if len(values) == 1:
        assert kept.all()
        return
    groups = [np.array(g) for g in itertools.product([True, False], repeat=len(values))]
    best = min(within(values, g) for g in groups if 0 < g.sum() < len(values))
    assert within(values, kept) == pytest.approx(best, abs=1e-9)
    assert values[kept].min() > values[~kept].max()


@pytest.mark.parametrize("seed", range(5))
def test_the_filter_agrees_with_scikit_learn(seed):
    answers = drawn((12, 6, 3, seed))
    values = confidences(answers)[:, None]
    means = KMeans(2, n_init=20, random_state=0).fit(values)
    assert (confident(answers) == (means.labels_ == means.cluster_centers_[:, 0].argmax())).all()


def test_of_two_best_groups_the_filter_keeps_more():
    assert confident(two([0.5, 0.5], [0.75, 0.75], [1, 1])).tolist() == [False, True, True]
    assert confident(two([0.5], [0.75], [0.25], [1])).tolist() == [False, True, True, True]


# --- For any answers --------------------------------------------------------------------------------------

every = pytest.mark.parametrize("name", PROMPT_BASELINES)


@every
@given(size=sizes, hard=st.booleans())
def test_neither_the_order_of_labels_nor_that_of_prompts_decides(name, size, hard):
    answers = drawn(size, hard)
    random = np.random.default_rng(size[3])
    labels, prompts = random.permutation(size[2]), random.permutation(size[0])
    found = PROMPT_BASELINES[name](answers)
    assert found.shape == (size[0],)
    assert np.isfinite(found).all()
    assert PROMPT_BASELINES[name](answers[:, :, labels]) == pytest.approx(found, abs=1e-5)
    assert PROMPT_BASELINES[name](answers[prompts]) == pytest.approx(found[prompts], abs=1e-5)


@every
@given(size=sizes, hard=st.booleans())
def test_the_order_of_inputs_is_nothing_and_two_equal_prompts_score_alike(name, size, hard):
    answers = drawn(size, hard)
    inputs = np.random.default_rng(size[3]).permutation(size[1])
    found = PROMPT_BASELINES[name](answers)
    assert PROMPT_BASELINES[name](answers[:, inputs]) == pytest.approx(found, abs=1e-5)
    twice = PROMPT_BASELINES[name](np.concatenate([answers, answers[:1]]))
    assert twice[-1] == pytest.approx(twice[0], abs=1e-9)


@given(size=sizes, hard=st.booleans())
def test_scores_stay_in_their_range(size, hard):
    answers = drawn(size, hard)
    most, little = math.log(size[2]), 1e-6
    scores = score_prompts(answers)
    ranges = {"MI_G": (-most, most), "MDL_M": (-most, 0)} | dict.fromkeys(("MDL", "MI_L", "MI_GL"), (0, 1))
    for name, values in scores.items():
        plain = name.removesuffix(" + CBM")
        low, high = (-1, 1) if plain.startswith("ZPS") else ranges.get(plain, (0, most))
        assert (values >= low - little).all(), name
        assert (values <= high + little).all(), name
    for name in ("MDL", "MI_L", "MI_GL"):
        assert scores[name].sum() == pytest.approx(1)
    kept = confident(answers)
    for name in ("ZPS-Log", "ZPS-Prob", "ZPS-Vote"):
        assert (scores[name][kept] >= 0).all()
        assert (scores[name][~kept] <= 0).all()


@given(size=sizes)
def test_how_the_scores_hang_together(size):
    answers = drawn(size)
    for p in answers:
        assert mutual_information(p) == pytest.approx(marginal_entropy(p) + description_length(p))
        assert mutual_information_g(p) == pytest.approx(global_entropy(p) - local_entropy(p))


@given(size=sizes)
def test_of_hard_answers_all_ensembles_are_the_vote(size):
    """And no answer of 0 vetoes a label."""
    answers = drawn(size, hard=True)
    assert zps_log(answers) == pytest.approx(zps_vote(answers))
    assert zps_prob(answers) == pytest.approx(zps_vote(answers))


# --- What is refused --------------------------------------------------------------------------------------


def test_the_table_has_the_names_that_papers_use():
    plain = ["MI", "GlobalE", "LocalE", "MDL", "MDL_M", "ZPS-Log", "ZPS-Prob", "ZPS-Vote"]
    plain += ["MI_G", "MI_L", "MI_GL"]
    assert list(PROMPT_BASELINES) == plain + [f"{name} + CBM" for name in plain]
    assert list(score_prompts(two([0.1, 0.8]))) == list(PROMPT_BASELINES)
    assert list(score_prompts(two([0.1, 0.8]), ["MDL", "MI"])) == ["MDL", "MI"]


def test_a_name_that_is_none_is_refused():
    with refused(ConfigError, 'no baseline "ZPS-log"', 'Did you mean "ZPS-Log"?', "MI_GL + CBM"):
        score_prompts(two([0.1, 0.8]), ["MI", "ZPS-log"])


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[0.5, 0.5]], ["wrong shape", "(1, 2)"]),
        (np.ones((2, 3, 1)), ["wrong shape", "(2, 3, 1)"]),
        (np.ones((2, 0, 3)), ["wrong shape", "(2, 0, 3)"]),
        (np.ones((0, 2, 3)), ["wrong shape"]),
        ([two([0.1, 0.2])[0], two([0.1])[0]], ["aren't one array", "same labels and inputs"]),
        ([[["good", "bad"]]], ["aren't one array"]),
        (two([0.1, 0.2], [0.1, np.nan], [np.inf, 0.3]), ["missing", "2 rows", "prompt 1", "input 1"]),
        (two([0.1, 1.2]), ["no probabilities", "prompt 0", "input 1"]),
        ([[[0.5, 0.5], [0.5, 0.4]]], ["no probabilities", "input 1", "[0.5, 0.4]"]),
    ],
)
def test_what_are_no_answers_is_refused(answers, words):
    with refused(DataError, *words):
        score_prompts(answers)
