"""Races against simulated candidates, comparisons by hand, and choosing in a real project."""

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fute.choosing import choose
from fute.core.errors import ConfigError, DataError
from fute.project import Project
from fute.selection.baselines.prompts import score_prompts
from fute.selection.compare import compare, share_interval
from fute.selection.racing import race


def bernoulli(accuracies, rows=400, seed=0):
    """Whether each candidate is right on each row, (k, rows)."""
    rng = np.random.default_rng(seed)
    return rng.random((len(accuracies), rows)) < np.array(accuracies)[:, None]


def looking_up(right, asked=None):
    def evaluate(candidates, rows):
        if asked is not None:
            asked.extend((c, r) for c in candidates for r in rows)
        return right[np.ix_(candidates, rows)]

    return evaluate


# --- Races ------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 400), st.integers(0, 5))
def test_a_race_never_spends_more_and_asks_nothing_twice(k, rows, budget, seed):
    right, asked = bernoulli([0.5] * k, rows, seed), []
    raced = race(np.zeros(k), rows, budget, looking_up(right, asked), seed)
    assert len(asked) == len(set(asked)) == raced.evaluations <= budget
    assert raced.seen.tolist() == [sum(c == i for c, _ in asked) for i in range(k)]
    assert raced.right.tolist() == [sum(right[c, r] for c, r in asked if c == i) for i in range(k)]
    assert ((raced.scores > 0) & (raced.scores < 1)).all()
    assert not raced.short


def test_a_budget_below_one_evaluation_each_starts_from_the_best_by_the_prior():
    """Of three equal rounds for eight, four and two, ten evaluations don't pay for the first: the four of the
    highest prior start, and two go on.
    """
    prior = [0.1, 0.9, 0.5, 0.7, 0.2, 0.3, 0.8, 0.4]
    raced = race(prior, 50, 10, looking_up(np.zeros((8, 50), dtype=bool)))
    assert (raced.seen.tolist(), raced.evaluations) == ([0, 4, 1, 1, 0, 0, 4, 0], 10)
    assert np.argsort(-raced.scores).tolist() == np.argsort(-np.array(prior)).tolist()
    assert race([0.1, 0.9], 50, 2, looking_up(np.zeros((2, 50), dtype=bool))).evaluations == 2
    with pytest.raises(DataError, match="an evaluation for each of two"):
        race([0.1, 0.9], 50, 1, looking_up(np.zeros((2, 50), dtype=bool)))


def test_a_race_ends_where_no_more_rows_can_be_had():
    """Of the second round's 16 rows only 5 are given: those count, and no others, for both that were left."""
    right = bernoulli([0.2, 0.9, 0.3, 0.8])

    def evaluate(candidates, rows):
        return right[np.ix_(candidates, rows if len(candidates) == 4 else rows[:5])]

    raced = race(np.zeros(4), 400, 64, evaluate)
    assert (raced.seen.tolist(), raced.evaluations, raced.short) == ([8, 13, 8, 13], 42, True)
    rows = np.random.default_rng(0).permutation(400)[:13]
    assert raced.right[[1, 3]].tolist() == right[[1, 3]][:, rows].sum(axis=1).tolist()
    nothing = race([1, 2], 400, 64, lambda candidates, rows: np.zeros((2, 0), dtype=bool))
    assert (nothing.evaluations, nothing.short) == (0, True)


def test_the_same_evaluations_with_another_prior():
    right = np.zeros((4, 400), dtype=bool)
    right[3, ::2] = True
    raced, other = race([1, 2, 3, 4], 400, 8, looking_up(right)), [0.3, 0.1, 0.2, 0.9]
    assert raced.with_prior([1, 2, 3, 4]) == pytest.approx(raced.scores)
    assert raced.seen.tolist() == [1, 1, 3, 3]
    z = (np.array(other) - np.mean(other)) / np.std(other)
    mean = (raced.right[2:].sum() + 1) / (6 + 2)
    prior = 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + 0.2 * z[2:])))
    assert raced.with_prior(other)[2:] == pytest.approx((raced.right[2:] + 10 * prior) / 13)


def test_who_is_always_right_is_not_estimated_above_one():
    raced = race([5, 1], 10, 20, looking_up(np.ones((2, 10), dtype=bool)))
    assert 1 > raced.scores[0] > raced.scores[1] > 0.9


def test_half_go_on_in_each_round():
    """Four candidates and 64 evaluations in two rounds: 8 rows for each of four, then 16 for each of two."""
    raced = race(np.zeros(4), 400, 64, looking_up(bernoulli([0.2, 0.9, 0.3, 0.8])))
    assert raced.seen.tolist() == [8, 24, 8, 24]
    assert raced.scores.argmax() == 1
    assert raced.scores[[1, 3]].min() > raced.scores[[0, 2]].max()


def test_a_race_finds_a_good_candidate_with_a_third_of_the_evaluations():
    accuracies = np.linspace(0.4, 0.8, 16)
    rates = []
    for seed in range(20):
        right = bernoulli(accuracies, 300, seed)
        raced = race(np.zeros(16), 300, 16 * 300 // 3, looking_up(right), seed)
        rates.append(right.mean(axis=1)[raced.scores.argmax()] / right.mean(axis=1).max())
    assert np.mean(rates) > 0.98


def test_the_prior_decides_where_few_rows_are_seen_and_not_where_many_are():
    right = np.zeros((2, 400), dtype=bool)
    right[0, :200] = True
    right[1, 200:] = True  # as good on all rows
    for prior in ([1, 0], [0, 1]):
        assert race(prior, 400, 800, looking_up(right)).scores.argmax() == np.argmax(prior)
    better = bernoulli([0.5, 0.8])
    assert race([1, 0], 400, 600, looking_up(better)).scores.argmax() == 1
    assert race([1, 0], 400, 2, looking_up(np.zeros((2, 400), dtype=bool))).scores.argmax() == 0


def test_the_estimate_of_a_candidate_by_hand():
    """Two candidates, 10 rows each, 8 and 4 right: m = 13/22, of odds 13 : 9; z = ±1 makes them e^±0.2 as
    large, so the first's prior is 1.764 / 2.764 = 0.638 and the second's 0.542.
    """
    right = np.zeros((2, 10), dtype=bool)
    right[0, :8], right[1, :4] = True, True
    raced = race([3, 1], 10, 20, looking_up(right))
    assert raced.scores == pytest.approx([(8 + 6.382) / 20, (4 + 5.418) / 20], abs=1e-4)


# --- Comparisons ------------------------------------------------------------------------------------------


def test_a_comparison_by_hand():
    found = compare("d", ["a", "b", "c"], {"ours": [0.1, 0.9, 0.2], "flat": [1, 1, 1]}, [0.5, 0.8, 1.0], 7)
    ours, flat = found.ways
    assert (ours.picks, flat.picks) == (("b",), ("a", "b", "c"))
    assert ours.metrics["performance_rate"] == pytest.approx(0.8)
    assert flat.metrics["performance"] == pytest.approx((0.5 + 0.8 + 1) / 3)
    assert json.loads(json.dumps(found.as_dict()))["ways"][0]["picks"] == ["b"]
    assert compare("d", ["a"], {"ours": [0.1]}, None, 0).ways[0].metrics is None


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.inf], []])
def test_scores_for_other_candidates_are_refused(scores):
    with pytest.raises(DataError, match="no score to each of the 2"):
        compare("d", ["a", "b"], {"ours": scores}, None, 0)


def test_candidates_without_a_score_stand_last_and_are_never_taken():
    found = compare(
        "d", ["a", "b", "c"], {"some": [np.nan, 0.1, -5], "none": [np.nan] * 3}, [0.9, 0.4, 0.2], 7
    )
    some, none = found.ways
    assert (some.scores, some.picks) == ((None, 0.1, -5.0), ("b",))
    assert some.metrics["performance_rate"] == pytest.approx(0.4 / 0.9)
    assert some.metrics["rank_of_best"] == 3
    assert (none.scores, none.picks, none.metrics) == ((None,) * 3, (), None)


def test_scores_that_differ_by_rounding_are_equal():
    """A prompt and the same with its two labels exchanged tell equally much of the texts."""
    rng = np.random.default_rng(3)
    apart = 0
    for _ in range(50):
        one = rng.dirichlet([0.5] * 3, 40)
        scores = score_prompts([one, one[:, [2, 0, 1]]])
        for name in ("MI", "MI_G", "LocalE", "MDL_M", "GlobalE", "MI + CBM", "MI_G + CBM"):
            apart += scores[name][0] != scores[name][1]
            way = compare("d", ["a", "b"], {name: scores[name]}, [0.2, 0.6], 40).ways[0]
            assert way.picks == ("a", "b"), name
            assert way.metrics["performance"] == pytest.approx(0.4), name
    assert apart > 50, "without it, rounding would choose"


def test_where_nobody_is_ever_right_there_is_no_rate_and_no_regret():
    metrics = compare("d", ["a", "b"], {"w": [2, 1]}, [0, 0], 9).ways[0].metrics
    assert metrics.keys() & {"performance_rate", "regret@1", "regret@3"} == set()
    assert (metrics["performance"], metrics["rank_of_best"], metrics["spearman"]) == (0, 1.5, 0)
    assert metrics["ndcg_linear"] == metrics["ndcg_exponential"] == 1


@given(st.integers(1, 200), st.data())
def test_the_interval_of_a_share_is_scipys(n, data):
    hits = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")
    assert share_interval(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_comparison_says_how_sure_its_accuracies_are():
    found = compare("d", ["a", "b"], {"w": [2, 1]}, [0.5, 1], 20, evaluated={"w": [8, 3]})
    assert found.intervals == (share_interval(0.5, 20), share_interval(1, 20))
    said = json.loads(json.dumps(found.as_dict()))
    assert said["intervals"][1] == pytest.approx([20 / (20 + 1.645**2), 1], abs=1e-4)
    assert (said["ways"][0]["evaluated"], said["ways"][0]["evaluations"]) == ([8, 3], 11)
    assert compare("d", ["a"], {"w": [2]}, None, 0).intervals is None


# --- Choosing in a project --------------------------------------------------------------------------------

MODELS = """
def good(texts):
    return [[0.1, 0.9] if "good" in text else [0.9, 0.1] for text in texts]
def turned(texts):
    return [[0.9, 0.1] if "good" in text else [0.1, 0.9] for text in texts]
def always(texts):
    return [[0.4, 0.6] for _ in texts]
def lengths(texts):
    return [[0.3, 0.7] if len(text) > 22 else [0.7, 0.3] for text in texts]
"""
WORDS = ["film", "book", "song", "play", "meal", "trip", "game", "hotel", "phone", "course"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choosing")
    (folder / "mymodels.py").write_text(MODELS)
    texts = [f"{a} {w} {b}" for w in WORDS for a in ("The", "Our long") for b in ("was good", "was bad")]
    rows = [{"text": t, "label": "pos" if "good" in t else "neg"} for t in texts]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "u.jsonl").write_text("\n".join(json.dumps({"text": t.replace("was", "is")}) for t in texts))
    names = ["good", "turned", "always", "lengths"]
    models = [f'  - {{name: {n}, python: "mymodels:{n}", labels: [neg, pos]}}' for n in names]
    (folder / "fute.yaml").write_text(
        "\n".join(
            [
                "corpus: {path: u.jsonl}",
                "method: {name: linear-probe, replicates: 10}",
                "datasets:",
                "  - {name: d, path: d.jsonl, test: 0.5}",
                "models:",
                *models,
                '  - {name: other, python: "mymodels:good", labels: [no, yes]}',
            ]
        )
    )
    made = Project(folder)
    made.run()
    return made


def test_choosing_takes_the_model_that_does_the_task(project):
    alone = choose(project, "d", "model")
    assert alone.candidates == ("good", "turned", "always", "lengths")
    assert [way.name for way in alone.ways] == ["fute"]
    assert (alone.ways[0].picks, alone.performances, alone.rows) == (("good",), None, 0)


def test_baselines_race_and_truth_stand_beside_it(project):
    found = choose(project, "d", "model", against=["MI", "MI_G"], truth=True, budget=40)
    assert [way.name for way in found.ways] == [
        "fute",
        "fute + MI_G",
        "MI",
        "MI_G",
        "race",
        "fute + MI_G + race",
    ]
    by_name = {way.name: way for way in found.ways}
    assert found.performances[0] == 1
    assert found.performances[1] == 0
    assert found.rows == 20
    assert by_name["fute"].metrics["performance_rate"] == 1
    assert by_name["race"].picks == ("good",)
    assert set(by_name["MI"].picks) == {"good", "turned"}, "what turns labels round tells as much of them"
    assert by_name["fute + MI_G"].picks == ("good",)
    assert found.warnings[0] == "Nearly all texts of U get the same answer from always."


def test_what_cannot_be_chosen_from_is_said(project):
    with pytest.raises(ConfigError, match="no prompt of the space answers the labels of d"):
        choose(project, "d", "prompt")
    with pytest.raises(ConfigError, match='no dataset "e"'):
        choose(project, "e", "model")
    with pytest.raises(ConfigError, match='no baseline "MY"'):
        choose(project, "d", "model", against=["MY"])


RULE = """
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    said = {"label": "pos" if "good" in got["text"] else "neg"}
    if "meal" in got["text"] and "shy" in sys.argv:
        said = {"error": "no comment"}
    print(json.dumps({"id": got["id"], **said}), flush=True)
"""


def test_a_row_without_an_answer_is_wrong_and_what_no_one_was_asked_is_not_counted(tmp_path, project):
    """Of the answers to reviews of meals one is missing; with a cap, only some rows are asked for."""
    from fute.outcomes import expected

    for file in ("d.jsonl", "u.jsonl"):
        (tmp_path / file).write_text((project.folder / file).read_text())
    (tmp_path / "rule.py").write_text(RULE)
    command = 'command: ["python", "rule.py", "NAME"], labels: [neg, pos]'
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 0}", "datasets:"]
    content += ["  - {name: d, path: d.jsonl, test: 0.5}", "models:"]
    content += [f"  - {{name: {n}, {command.replace('NAME', n)}}}" for n in ("shy", "bold")]
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    made = Project(tmp_path)
    made.run()
    held_out = made.datasets["d"][1]
    meals = sum("meal" in item.text for item in held_out.inputs)
    assert 0 < meals < 5
    capped = f"\nbudget: {{max_calls: {made.budget.spent.calls + 30}}}"
    (tmp_path / "fute.yaml").write_text("\n".join(content) + capped)
    stopped = choose(Project(tmp_path), "d", "model", truth=True)
    assert 0 < stopped.rows < 20
    assert not (tmp_path / ".fute" / "outcomes.json").exists(), "half an outcome is none"
    assert Project(tmp_path).accuracies("d").keys() < {"shy", "bold"}
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    found = choose(Project(tmp_path), "d", "model", truth=True)
    assert (found.rows, found.performances) == (20, (1 - meals / 20, 1.0))
    assert Project(tmp_path).accuracies("d") == dict(zip(found.candidates, found.performances, strict=True))
    assert expected(made, "d") is None


def test_expected_accuracy_needs_outcomes_of_three_other_datasets(project):
    from fute.outcomes import expected, remember

    folder = project.folder
    (folder / ".fute" / "outcomes.json").unlink(missing_ok=True)
    config = (folder / "fute.yaml").read_text()
    more = "".join(
        f"  - {{name: {n}, path: d.jsonl, test: 0.5, seed: {i}}}\n" for i, n in enumerate("abc", 1)
    )
    (folder / "fute.yaml").write_text(config.replace("datasets:\n", "datasets:\n" + more))
    four = Project(folder)
    four.run()
    for number, name in enumerate("abc"):
        assert expected(four, "d") is None, f"{number} outcomes"
        if name == "a":
            choose(four, name, "model", truth=True)
        else:
            remember(four, name, {"good": 1.0, "turned": 0.0, "always": 0.5})
    remember(four, "a", {"lengths": 0.5})
    kept = json.loads((folder / ".fute" / "outcomes.json").read_text())
    assert {name: value for name, (_, value) in kept["a"].items()} == {
        "good": 1.0,
        "turned": 0.0,
        "always": 0.5,
        "lengths": 0.5,
    }
    found = expected(four, "d")
    assert found["good"].performance > 0.9
    assert found["turned"].performance < 0.1
    assert found["good"].low <= 1.0 <= found["good"].high + 1e-9
    assert expected(four, "a") is None, "its own outcome doesn't count"
    (folder / "mymodels.py").write_text(MODELS.replace("0.1, 0.9", "0.2, 0.8"))
    assert expected(Project(folder), "d") is None, "other models answered then"
